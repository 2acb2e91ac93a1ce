"""EDM2's averages in a run: what is kept, what is made of it afterwards, and what is refused."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.convert import teacher as teachers
from diffjax.runs import bases, power_averages, saved_config
from diffjax.runs.train import train
from diffjax.tools import power_average
from diffjax.training import ema, power_ema
from tests.runs import test_edm2

STDS = (0.05, 0.1, 0.15)


def config_of(teacher, images, stds=STDS, **fields):
    made = bases.with_edm2(test_edm2.config(teacher, images_=images, **fields), power_stds=stds)
    made.duration_kimg = images / 1000
    return made


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return test_edm2.make_teacher(tmp_path_factory.mktemp("edm2"))


@pytest.fixture(scope="module")
def run(teacher, tmp_path_factory):
    """A run that was interrupted after 12 of its 24 images."""
    workdir = tmp_path_factory.mktemp("run")
    train(config_of(teacher, 12), str(workdir))
    train(config_of(teacher, 24), str(workdir))
    return workdir


def params_of(folder):
    return teachers.load(str(folder)).params["params"]


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_they_are_kept_at_each_checkpoint(run):
    found = power_averages.found(run / "averages")
    ends = [images for images in (4, 8, 12, 16, 20, 24) for _ in STDS]
    assert [each.images for each in found] == ends
    assert [each.std for each in found] == [*STDS] * 6
    card = teachers.load(str(found[-1].folder)).card
    assert (card.kind, card.images, card.init_sigma) == ("student", 24, 2.5)
    # After one update each is its parameters, and later they part.
    first, later = (
        [flat(params_of(each.folder)) for each in found if each.images == images]
        for images in (4, 24)
    )
    assert all(np.array_equal(first[0], other) for other in first[1:])
    assert len({each.tobytes() for each in later}) == len(STDS)


def test_one_that_was_kept_is_made_of_the_others(run, tmp_path):
    """0.15 of the snapshots of 0.05 and 0.1, as near as the fit of its profile says."""
    shutil.copytree(run / "averages", tmp_path / "averages")
    for folder in (tmp_path / "averages").glob("*_0.150"):
        shutil.rmtree(folder)
    assert power_average.main([f"--workdir={tmp_path}", "--std=0.15"]) == 0
    made, kept = (
        params_of(tmp_path / "averages_0.150"),
        params_of(run / "averages/0000000024_0.150"),
    )
    start = flat(params_of(run / "averages/0000000004_0.150"))
    error, way = flat(made) - flat(kept), flat(kept) - start
    assert np.linalg.norm(error) < 0.05 * np.linalg.norm(way)
    shorter = flat(params_of(run / "averages/0000000024_0.100")) - flat(kept)
    assert np.linalg.norm(error) < 0.3 * np.linalg.norm(shorter)


def test_one_that_is_there_is_found_again(run, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = [f"--workdir={run}", "--std=0.1", "--kimg=0.016", f"--output={output}"]
    assert power_average.main(arguments) == 0
    told = capsys.readouterr().out
    assert "of 12 averages up to 0.016 kimg; the fit is 0.0% off" in told
    kept = run / "averages/0000000016_0.100"
    np.testing.assert_allclose(flat(params_of(output)), flat(params_of(kept)), rtol=1e-5, atol=1e-7)
    assert teachers.load(str(output)).card == teachers.load(str(kept)).card
    assert power_average.main(arguments) == 1
    assert "is there already; delete it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--std=0.1", "--kimg=0.5"], "--kimg=0.5: averages were kept at 0.004, 0.008"),
        (["--std=0.1", "--kimg=nan"], "--kimg=nan: averages were kept at 0.004, 0.008"),
        (["--std=0.3"], "--std=0.3: a number over 0 and under 0.2886 is needed"),
        (["--std=nan"], "--std=nan: a number over 0"),
        (
            ["--std=0.1", "--workdir=none"],
            "none/averages holds no averages; a run keeps",
        ),
        (["--std=0.1", "--workdir=gs://a/b"], "--workdir=gs://a/b is a URL: mount the store"),
        (["--std=0.1", "--output=gs://a/b"], "--output=gs://a/b is a URL: mount the store"),
        (["--std=0.1", "--modules=none"], "--modules=none: there is no such folder"),
    ],
)
def test_what_cannot_be_made_is_one_line(arguments, message, run, capsys):
    assert power_average.main([f"--workdir={run}", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert told.count("\n") == 1


def test_lengths_and_ends_are_told_to_the_last_digit(run, tmp_path, capsys):
    """Of a long run, whose thousands have seven digits, and of two lengths that are near."""
    shutil.copytree(run / "averages/0000000024_0.100", tmp_path / "averages/a")
    record = {"images": 1_234_567_168, "std": 0.1, "step": 1}
    (tmp_path / "averages/a/average.json").write_text(json.dumps(record))
    assert power_average.main([f"--workdir={tmp_path}", "--std=0.1", "--kimg=1"]) == 2
    assert "averages were kept at 1234567.168\n" in capsys.readouterr().err
    for std in ("0.1", "0.1004"):
        arguments = [f"--workdir={tmp_path}", f"--std={std}", "--kimg=1234567.168"]
        assert power_average.main(arguments) == 0
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"averages", "averages_0.100_1234567.168", "averages_0.1004_1234567.168"}


def test_a_damaged_record_is_named(run, tmp_path, capsys):
    shutil.copytree(run / "averages/0000000024_0.100", tmp_path / "averages/a")
    (tmp_path / "averages/a/average.json").write_text('{"images": 3}')
    assert power_average.main([f"--workdir={tmp_path}", "--std=0.1"]) == 1
    assert "averages/a/average.json is damaged" in capsys.readouterr().err


def test_a_snapshot_without_its_parameters_can_be_taken_out(run, tmp_path, capsys):
    shutil.copytree(run / "averages", tmp_path / "averages")
    broken = tmp_path / "averages/0000000008_0.050"
    shutil.rmtree(broken / "params")
    assert power_average.main([f"--workdir={tmp_path}", "--std=0.1"]) == 1
    assert f"{broken} can be taken out, the others do" in capsys.readouterr().err


def test_the_parameters_are_weighed_as_the_profile_says():
    """Of 400 updates, in one compiled loop as in a run."""
    averages = ema.Averages(halflife=1.0, rampup=None, power_stds=(0.1,))
    names = averages.names("denoiser")
    assert names == ("denoiser", "denoiser_power_100")
    assert [ema.parted(name) for name in names] == [("denoiser", None), ("denoiser", 0.1)]
    steps = 400

    def body(step, so_far):
        params = {"denoiser": jax.nn.one_hot(step, steps)}
        seen = 8 * jnp.float32(step)
        return averages.follow(so_far, params, images_seen=seen, batch_size=8)

    start = dict.fromkeys(names, jnp.zeros(steps))
    found = jax.lax.fori_loop(0, steps, body, start)["denoiser_power_100"]
    expected = power_ema.response(steps - 0.5, 0.1, steps)
    np.testing.assert_allclose(found, expected, atol=0.01 * expected.max())
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)


def test_a_run_without_them_is_what_it_was(teacher, run, tmp_path):
    """Curves and checkpoints; and its config, kept before there was such a field, is the same."""
    workdir = tmp_path / "run"
    train(config_of(teacher, 12, ()), str(workdir))
    whole, part = ((each / "metrics.jsonl").read_text() for each in (run, workdir))
    assert whole.startswith(part)
    assert not (workdir / "averages").exists()
    kept = json.loads((workdir / "config.json").read_text())
    del kept["edm2"]["power_stds"]
    (workdir / "config.json").write_text(json.dumps(kept))
    train(config_of(teacher, 16, ()), str(workdir))
    with pytest.raises(ValueError, match=r"edm2\.power_stds: \[\] -> \[0\.05, 0\.1, 0\.15\]"):
        train(config_of(teacher, 20), str(workdir))
    # They can't begin within a run, and may end.
    with pytest.raises(ValueError, match=r"no power-function averages of 0\.05, 0\.1, 0\.15"):
        train(config_of(teacher, 20), str(workdir), allow_changed_config=True)
    assert saved_config.load(workdir).edm2.power_stds == []  # nothing of it was written
    (workdir / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no power-function averages of 0\.05, 0\.1, 0\.15"):
        train(config_of(teacher, 20), str(workdir))


@pytest.mark.slow
def test_they_may_end_within_a_run(teacher, run, tmp_path):
    workdir = Path(shutil.copytree(run, tmp_path / "run"))
    train(config_of(teacher, 28, (0.1,)), str(workdir), allow_changed_config=True)
    last = [each.std for each in power_averages.found(workdir / "averages") if each.images == 28]
    assert last == [0.1]


def test_those_of_a_run_before_are_kept_aside(teacher, run, tmp_path):
    """Of one that was begun anew, and of updates that are done again."""
    workdir = Path(shutil.copytree(run, tmp_path / "run"))
    for step in (4, 5, 6):
        shutil.rmtree(workdir / f"checkpoints/{step}", ignore_errors=True)
    left = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    if not left:  # none was kept but the last
        shutil.rmtree(workdir / "checkpoints")
    shutil.rmtree(workdir / "network")
    train(config_of(teacher, 4 * max(left, default=0) + 4), str(workdir))
    found = power_averages.found(workdir / "averages")
    assert max(each.images for each in found) == 4 * max(left, default=0) + 4
    aside = power_averages.found(workdir / "averages_earlier")
    assert min(each.images for each in aside) == 4 * max(left, default=0) + 4
    assert max(each.images for each in aside) == 24
    assert len({each.images for each in found}) == max(left, default=0) + 1


@pytest.mark.parametrize("stds", ["(0.05,0.3)", "(0.0505,)", "(0.05,0.05)", "('a',)"])
def test_lengths_that_are_none(stds, teacher, monkeypatch, capsys):
    made = bases.with_edm2(test_edm2.config(teacher))
    made.edm2.power_stds = eval(stds)
    with pytest.raises(ValueError, match=r"config\.edm2\.power_stds=.*: a tuple of different num"):
        train(made, "unused")
    assert not Path("unused").exists()
