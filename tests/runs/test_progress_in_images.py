"""Progress counts images seen, whatever the batch sizes of the updates that saw them."""

import re
import shutil

import pytest

from diffjax.runs import bases, checks
from diffjax.runs.train import train
from tests.runs.test_train import BATCH, lines, miniature, state_of


@pytest.fixture(scope="module")
def half(tmp_path_factory, teacher):
    """A run of 4 updates of 16 images, and its config."""
    workdir = tmp_path_factory.mktemp("half") / "run"
    config = miniature("sid_digits", teacher=str(teacher), ema_rampup=0.5)
    config.generator.decay_kimg = BATCH / 1000
    train(config, str(workdir))
    return workdir, config


def goes_on(half, tmp_path, **changes):
    workdir = shutil.copytree(half[0], tmp_path / "run")
    config = half[1].copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    train(config, str(workdir), allow_changed_config=True)
    return workdir, config


def test_twice_the_batch_size_and_other_settings_of_adam(half, tmp_path, capsys):
    changes = {
        "batch_size": 2 * BATCH,
        "duration_kimg": 2 * 4 * BATCH / 1000,
        "generator.max_grad_norm": 1.0,
        "generator.b1": 0.5,
        "fake_score.learning_rate": 1e-5,
    }
    workdir, config = goes_on(half, tmp_path, **changes)
    rows = [row for row in lines(workdir) if "fake_loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [round(1000 * row["kimg"]) for row in rows] == [16, 32, 48, 64, 96, 128]
    state = state_of(workdir, config)
    assert (int(state.step), int(state.images)) == (6, 128)
    out = capsys.readouterr().out
    assert "resuming at 0.1 kimg (update 4)" in out
    assert "it is whole again until 0.112 kimg" in out
    assert "first moments of generator's optimiser weren't kept; they start at 0" in out
    train(config, str(workdir))
    assert "is complete" in capsys.readouterr().out


def test_a_decay_that_has_begun_stays(half, tmp_path):
    workdir = shutil.copytree(half[0], tmp_path / "run")
    config = half[1].copy_and_resolve_references()
    config.duration_kimg *= 2
    before = (workdir / "metrics.jsonl").read_bytes()
    said = "generator's learning rate has been falling since 0.048"
    with pytest.raises(ValueError, match=said):
        train(config, str(workdir))
    assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generator.frozen_kimg": 10.0}, "frozen_kimg=10.0 leaves the generator no time"),
        # Less than the run, and more than what comes before its last update.
        (
            {"generator.frozen_kimg": 9.99, "batch_size": 100},
            "frozen_kimg=9.99 leaves the generator no time",
        ),
        ({"generator.decay_kimg": 6.0, "generator.frozen_kimg": 6.0}, "decay_kimg=6.0 must fit"),
        ({"ema_rampup": 0.0}, "ema_halflife_kimg=500.0 with ema_rampup=0.0 keeps more than half"),
        ({"ema_rampup": 20.0}, "ema_rampup=20.0 keeps more than half"),
        ({"duration_kimg": 5e6}, "a positive number is needed, and under 4e6"),
    ],
)
def test_schedules_that_cancel_each_other_are_refused(changes, said):
    config = bases.distillation("sid")
    config.teacher, config.duration_kimg, config.batch_size = "digits", 10.0, 100
    config.ema_halflife_kimg = 500.0
    checks.check(config)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=re.escape(said)):
        checks.check(config)


def test_a_rate_that_grows_from_0_needs_a_second_update(caplog):
    config = bases.denoising()
    config.dataset, config.batch_size, config.duration_kimg = "digits", 128, 0.1
    config.optimizer.rampup_kimg = 10.0
    checks.check(config)
    assert "is one update of batch_size=128: nothing is learnt" in caplog.text
