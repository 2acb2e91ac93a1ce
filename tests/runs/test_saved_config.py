"""The config of a run in its work directory, and what another one is told there."""

import json
import subprocess
import sys

import pytest

from diffjax.runs import checks, saved_config
from diffjax.runs.evaluate import evaluate
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from tests.runs.test_configs import EARLIER, NAMES, RECORDED, as_it_was, changed, fields, load
from tests.runs.test_train import BATCH, ROOT, lines, miniature


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_read_back_unchanged(tmp_path, name):
    saved_config.save(tmp_path, load(name))
    assert saved_config.changes(saved_config.load(tmp_path), load(name)) == []
    assert saved_config.load(tmp_path).heun == load(name).heun  # an infinity among them
    json.loads((tmp_path / "config.json").read_text(), parse_constant=pytest.fail)


def test_every_free_field_is_one_of_the_configs():
    known = {field for name in NAMES for field in fields(load(name))}
    for field, reason in saved_config.FREE.items():
        assert any(name == field or name.startswith(f"{field}.") for name in known), field
        assert reason


def test_changes_name_field_old_and_new():
    other = changed(
        "sid_digits", seed=3, generator__learning_rate=0.5, evaluate__count=5, alpha=1.0
    )
    other.mesh.fsdp = 2
    other.duration_kimg = 1e3
    assert saved_config.changes(load("sid_digits"), other) == [
        "alpha: 1.2 -> 1.0",
        "generator.learning_rate: 0.0001 -> 0.5",
        "seed: 0 -> 3",
    ]
    kinds = saved_config.changes(load("sid_digits"), load("teacher_digits"))
    assert 'method: "sid" -> "denoising"' in kinds
    assert "network.channel_mult: none -> [1, 2]" in kinds


def test_a_run_that_made_nothing_holds_nobody_up(tmp_path):
    saved_config.save(tmp_path, load("sid_digits"))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    saved_config.check_unchanged(tmp_path, changed("sid_digits", seed=3))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"another config \(seed: 0 -> 3\): name another"):
        saved_config.check_unchanged(tmp_path, changed("sid_digits", seed=3))


def began(workdir, config):
    """Leaves what a run leaves that was begun with a config."""
    saved_config.save(workdir, config)
    (workdir / "metrics.jsonl").write_text("{}\n")


@pytest.mark.parametrize("name", EARLIER)
def test_a_run_of_an_earlier_config_goes_on(tmp_path, name):
    began(tmp_path, as_it_was(name))
    assert json.loads((tmp_path / "config.json").read_text())["task"] == RECORDED[name]["task"]
    assert "task" not in saved_config.load(tmp_path)
    saved_config.check_unchanged(tmp_path, load(name))
    saved_config.check_unchanged(tmp_path, checks.upgraded(as_it_was(name)))
    with pytest.raises(ValueError, match=r"another config \(seed: 0 -> 3\): name another"):
        saved_config.check_unchanged(tmp_path, changed(name, seed=3))


def test_a_run_goes_on_that_began_before_a_field_was_there(tmp_path):
    earlier = as_it_was("sid_digits")
    for field in ("share_samples", "fake_score.every", "optimizer_state_dtype"):
        del earlier[field]
    began(tmp_path, earlier)
    saved_config.check_unchanged(tmp_path, load("sid_digits"))
    with pytest.raises(ValueError, match=r"\(fake_score\.every: 1 -> 2\)"):
        saved_config.check_unchanged(tmp_path, changed("sid_digits", fake_score__every=2))
    # What the config set was not there either, but it is no default.
    del earlier["teacher"]
    began(tmp_path, earlier)
    with pytest.raises(ValueError, match=r'\(teacher: "" -> "digits"\)'):
        saved_config.check_unchanged(tmp_path, load("sid_digits"))


def test_an_earlier_task_that_never_was(tmp_path):
    began(tmp_path, changed("sid_digits", as_it_was, task="destill"))
    with pytest.raises(ValueError, match=r"config\.task='destill' is unknown; known are: distill"):
        saved_config.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "3"])
def test_a_damaged_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json .*delete it to go on without it"):
        saved_config.load(tmp_path)


def test_another_config_is_refused_until_told_to_go_on(tmp_path):
    config = miniature("teacher_digits", updates=1)
    config.network.model_channels = 8
    config.network.channel_mult = (1,)
    train(config, str(tmp_path))
    before = (tmp_path / "config.json").read_bytes()
    config.optimizer.learning_rate = 0.25
    config.duration_kimg = 2 * BATCH / 1000  # may change, but not by itself here
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate: 0\.001 -> 0\.25\)"):
        train(config, str(tmp_path))
    assert (tmp_path / "config.json").read_bytes() == before
    assert lines(tmp_path)[-1]["step"] == 1
    train(config, str(tmp_path), allow_changed_config=True)
    assert lines(tmp_path)[-1]["step"] == 2
    assert saved_config.load(tmp_path).optimizer.learning_rate == 0.25
    train(config, str(tmp_path))


def test_the_command_line_says_it_in_one_line(tmp_path):
    saved_config.save(tmp_path, load("sid_digits"))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "diffjax.main",
            "--config=configs/sid_digits.py",
            f"--workdir={tmp_path}",
            "--config.alpha=1",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == (
        f"error: {tmp_path} is of a run with another config (alpha: 1.2 -> 1.0): name another "
        "--workdir, or go on there all the same with --allow_changed_config\n"
    )


@pytest.mark.parametrize("mode", ["sample", "evaluate"])
def test_a_network_is_not_asked_as_another_config_has_it(tmp_path, mode):
    trained = load("sid_digits")
    trained.init_sigma = 10.0
    saved_config.save(tmp_path, trained)
    config = load("sid_digits")
    run = {"sample": sample, "evaluate": evaluate}[mode]
    with pytest.raises(
        ValueError, match=r"init_sigma: 10\.0 -> 2\.5\), whose network would make other"
    ):
        run(config, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    # Told to, it goes on, and finds no checkpoint here.
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        run(config, str(tmp_path), allow_changed_config=True)


def test_fields_that_decide_how_a_network_was_trained_do_not_matter_to_its_images(tmp_path):
    saved_config.save(tmp_path, load("sid_digits"))
    config = load("sid_digits")
    config.generator.learning_rate, config.batch_size, config.alpha = 1e-3, 64, 1.0
    saved_config.check_same_network(tmp_path, config)
    config.dtype = "bfloat16"
    with pytest.raises(ValueError, match="dtype"):
        saved_config.check_same_network(tmp_path, config)
