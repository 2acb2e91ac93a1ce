"""Results and what made them: nothing is replaced by something else without a word."""

import contextlib
import json
import os
import shutil
import sys

import numpy as np
import pytest

from diffjax import main
from diffjax.runs import best_network, results
from diffjax.runs.evaluate import evaluate
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from tests.faults.test_disk import small_disk
from tests.runs.test_train import BATCH, lines, miniature


@pytest.fixture(scope="module")
def run(tmp_path_factory, teacher):
    """A run that measures while it trains, and its config."""
    workdir = tmp_path_factory.mktemp("results")
    config = miniature("sid_digits", updates=1, teacher=str(teacher))
    config.evaluate.every_kimg = BATCH / 1000
    config.evaluate.metrics = ("fd",)
    config.grid.rows = config.grid.columns = 2
    train(config, str(workdir))
    return workdir, config


@pytest.fixture
def copied(run, tmp_path):
    workdir, config = run
    return shutil.copytree(workdir, tmp_path / "run"), config.copy_and_resolve_references()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_each_label_has_files_of_its_own(copied):
    workdir, config = copied
    config.sample.count, config.sample.format = 4, "npz"
    kept = {}
    for label in (3, 7, -1):
        config.sample.label = label
        sample(config, str(workdir))
        now = contents(workdir / "samples")
        assert kept.items() <= now.items()
        kept = now
    for name, label in (("student_label3_seed0_4.npz", 3), ("student_label7_seed0_4.npz", 7)):
        assert set(np.load(workdir / "samples" / name)["classes"]) == {label}
        assert results.read(workdir / "samples" / name)["label"] == label
    assert "student_seed0_4.npz" in kept
    sample(config, str(workdir))  # the same again
    assert contents(workdir / "samples").keys() == kept.keys()


@pytest.mark.parametrize("form", ["npz", "png"])
def test_what_the_name_does_not_say_is_kept_under_another(copied, capsys, form):
    workdir, config = copied
    folder = workdir / "samples"
    config.sample.source, config.sample.count, config.sample.format = "teacher", 2, form
    sample(config, str(workdir))
    name = "teacher_seed0_2" + (".npz" if form == "npz" else "")
    first = contents(folder) if form == "npz" else contents(folder / name)
    assert "another result" not in capsys.readouterr().out
    config.heun.steps = 2
    sample(config, str(workdir))
    aside = name.replace("seed0_2", "seed0_2_steps3")
    if form == "npz":
        assert contents(folder)[aside] == first[name] != contents(folder)[name]
    else:
        assert contents(folder / aside) == first != contents(folder / name)
    assert results.read(folder / aside)["network"]["heun"]["steps"] == 3
    said = capsys.readouterr().out
    assert f"{folder / name} was another result (network.heun.steps: 3 -> 2): kept as" in said
    assert (folder / "teacher_seed0_steps3.png").is_file()  # the grid likewise
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_an_evaluation_says_what_was_measured_and_keeps_the_one_before(copied, capsys, monkeypatch):
    workdir, config = copied
    alike = {}
    monkeypatch.setattr(results.runtime, "agree", alike.__setitem__)
    path = workdir / "evaluation_student.json"
    path.write_text('{"fd_pixels_24": 1.0}')  # of an earlier version
    evaluate(config, str(workdir))
    assert "doesn't say what made it: kept as evaluation_student_" in capsys.readouterr().out
    first = json.loads(path.read_text())
    assert ("mode", "evaluate") in alike["the command"]
    assert {"the code", "config.evaluate's measure"} < alike.keys()
    assert alike["the network"][0] == first["measured"]["network"]
    measured = first["measured"]
    assert measured["reference"]["count"] == 1797
    assert len(measured["reference"]["sha256"]) == len(measured["network"]["sha256"]) == 64
    assert measured["reference"]["image_shape"] == [8, 8, 1]
    assert measured["features"] == {"name": "pixels", "function": "pixels", "sha256": ""}
    assert (measured["images"], measured["seed"], measured["network"]["step"]) == (24, 1, 1)
    evaluate(config, str(workdir))
    assert len(list(workdir.glob("evaluation_*"))) == 2
    config.evaluate.seed = 5
    evaluate(config, str(workdir))
    assert "(seed: 1 -> 5): kept as evaluation_student_seed1.json" in capsys.readouterr().out
    assert json.loads((workdir / "evaluation_student_seed1.json").read_text()) == first
    assert json.loads(path.read_text())["fd_pixels_24"] != first["fd_pixels_24"]


def test_a_result_is_the_same_wherever_its_inputs_lie():
    record = {"reference": {"name": "a.npz", "sha256": "1" * 64}, "seed": 1}
    moved = {"reference": {"name": "b/a.npz", "sha256": "1" * 64}, "seed": 1}
    other = {"reference": {"name": "a.npz", "sha256": "2" * 64}, "seed": 1}
    assert results.differences(record, moved) == {}
    assert results.shown(results.differences(record, other)) == (
        "reference.sha256: 11111111 -> 22222222"
    )
    assert results.differences(record, {"seed": 1, "reference": None}).keys() == {
        "reference.name",
        "reference.sha256",
    }


def test_names_aside_are_free_or_hold_the_same(tmp_path):
    path = tmp_path / "a.npz"
    for seed in (1, 2, 1, 2):
        with results.placed(path, {"seed": seed}) as partial:
            partial.write_text(str(seed))
    assert {
        name: text.decode() for name, text in contents(tmp_path).items() if ".json" not in name
    } == {
        "a.npz": "2",
        "a_seed1.npz": "1",
        "a_seed2.npz": "2",
    }
    (tmp_path / "a_seed2.npz").write_text("of mine")
    (tmp_path / "a_seed2.npz.json").unlink()
    with results.placed(path, {"seed": 3}) as partial:
        partial.write_text("3")
    assert (tmp_path / "a_seed2.npz").read_text() == "of mine"
    assert (tmp_path / "a_seed2-2.npz").read_text() == "2"


def test_a_name_aside_has_no_more_of_a_path_than_tells_it(tmp_path):
    path = tmp_path / "network.npz"
    for number, folder in enumerate(("a/averages_0.050", "b/averages_0.050", "b/averages_0.100")):
        source = f"/tmp/a/long/way/to/a/run/that/has/{folder}"
        record = {"network": {"source": source, "sha256": str(number)}}
        with results.placed(path, record) as partial:
            partial.write_text(folder)
    made = {name for name in contents(tmp_path) if not name.endswith(".json")}
    assert made == {
        "network.npz",
        "network_source-a-averages_0.050.npz",
        "network_source-averages_0.050.npz",
    }


def test_a_result_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.npz"
    with results.placed(path, {"seed": 1}) as partial:
        partial.write_text("1")
    before = contents(tmp_path)

    def fails():
        with results.placed(path, {"seed": 2}) as partial:
            partial.write_text("2")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"a\.npz can't be written \(No space left on device\)"):
        fails()
    assert contents(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_best_starts_anew_where_distances_compare_with_nothing(copied, capsys):
    workdir, config = copied
    record = best_network.find_best(workdir)[1]
    assert record["measured"]["reference"]["count"] == 1797
    config.evaluate.seed = 7
    config.duration_kimg = 2 * BATCH / 1000
    train(config, str(workdir))
    said = capsys.readouterr().out
    assert "can't be compared (seed: 1 -> 7): kept as best_fd_pixels_24_step1" in said
    assert f"{workdir / 'network'} was that of update 1, and is now of 2" in said
    assert "from update 2 on measurements are others (seed: 1 -> 7)" in said
    assert best_network.find_best(workdir)[1]["step"] == 2
    kept = workdir / "best_fd_pixels_24_step1" / "1" / "metric.json"
    assert json.loads(kept.read_text()) == record
    entries = json.loads((workdir / "measured.json").read_text())
    assert [(entry["from_step"], entry["measured"]["seed"]) for entry in entries] == [
        (1, 1),
        (2, 7),
    ]
    assert [row["step"] for row in lines(workdir) if "fd_pixels_24" in row] == [1, 2]


def measure(**changes):
    reference = {"name": "a", "sha256": "1" * 64, "count": 9, "image_shape": [8, 8, 1]}
    features = {"name": "embed", "function": "a:embed", "sha256": ""}
    return {"reference": reference, "features": features, "images": 24, "seed": 1} | changes


@pytest.mark.parametrize(
    "other",
    [
        {"reference": {**measure()["reference"], "sha256": "2" * 64}},
        {"features": {**measure()["features"], "function": "b:embed"}},
        {"images": 25},
        {"network": {"image_shape": [16, 16, 1]}},
    ],
)
def test_best_compares_only_what_was_measured_alike(tmp_path, other):
    def opened(measured):
        return best_network.BestNetwork(
            tmp_path / "best",
            metric="fd",
            higher_is_better=False,
            measured=measured,
            report=said.append,
        )

    said = []
    kwargs, params = {"class_name": "EDMPrecond"}, {"weights": np.zeros(3, np.float32)}
    assert opened(measure()).offer(1, 0.1, 5.0, kwargs, params)
    assert not opened(measure()).offer(2, 0.2, 6.0, kwargs, params)
    assert not said
    assert opened(measure(**other)).offer(3, 0.3, 90.0, kwargs, params)
    assert len(said) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "best_fd_step1"]
    # What was kept before there were records is compared by its name, and that is said.
    file = tmp_path / "best" / "3" / "metric.json"
    record = json.loads(file.read_text())
    del record["measured"]
    file.write_text(json.dumps(record))
    assert not opened(measure()).offer(4, 0.4, 91.0, kwargs, params)
    assert "doesn't say what it was measured against" in said[1]


def test_a_read_only_run_is_sampled_and_measured_elsewhere(run, tmp_path):
    workdir, config = run
    config = config.copy_and_resolve_references()
    config.sample.count = 3
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:  # whom permissions don't stop
            folder = stack.enter_context(read_only(workdir, tmp_path / "disk"))
        else:
            folder = shutil.copytree(workdir, tmp_path / "disk")
            folder.chmod(0o555)
        for mode in (sample, evaluate):
            with pytest.raises(OSError, match=r"name a folder for the results with --output, or"):
                mode(config, str(folder))
            mode(config, str(folder), output=str(tmp_path / "out"))
        with pytest.raises(OSError, match=r"^--output=.* can't be written to .*: name another"):
            sample(config, str(folder), output=str(tmp_path / "out" / "evaluation_student.json"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "evaluation_student.json",
        "samples",
    ]
    assert len(list((tmp_path / "out" / "samples" / "student_seed0_3").iterdir())) == 3


@contextlib.contextmanager
def read_only(workdir, folder):
    with small_disk(folder, 64) as disk:
        shutil.copytree(workdir, disk, dirs_exist_ok=True)
        assert os.system(f"mount -o remount,ro {disk}") == 0
        yield disk


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output="], "--output is empty: name a folder"),
        (["--output=x"], "--output is for --mode=sample, --mode=evaluate and --mode=report alone"),
        (["--mode=sample", "--output=~nobody-here/x"], "--output=~nobody-here/x: th"),
    ],
)
def test_an_output_that_is_none(arguments, message, monkeypatch, capsys):
    arguments = ["main", "--config=configs/sid_digits.py", *arguments]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        main._parse_flags(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    main.FLAGS["output"].unparse()
    main.FLAGS["mode"].unparse()
