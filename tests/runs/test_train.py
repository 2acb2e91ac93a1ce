"""Whole runs, in miniature: what is written, that equal seeds give equal runs, and resuming."""

import dataclasses
import importlib.util
import io
import json
import pathlib
import shutil
import socket
import sys
import threading

import jax
import numpy as np
import pytest
from PIL import Image

import diffjax
from diffjax.distributed import sharding, watchdog
from diffjax.models import network_folder
from diffjax.runs import best_network, building, experiment, provenance, reporting, subjects
from diffjax.runs.evaluate import evaluate
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from diffjax.training import background_compilation, checkpointing, compilation

ROOT = pathlib.Path(__file__).parents[2]
BATCH = 16


def load_config(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def miniature(name, updates=4, **changes):
    """A config cut down to `updates` updates, something happening at each or every other."""
    config = load_config(name)
    kimg = BATCH / 1000
    config.batch_size = BATCH
    config.duration_kimg = updates * kimg
    config.log_kimg = kimg
    config.grid_kimg = 2 * kimg
    config.checkpoint_kimg = 2 * kimg
    config.grid.rows, config.grid.columns = 2, 5
    config.heun.steps = 3
    config.mesh.data = 1
    config.evaluate.every_kimg = 0.0
    config.evaluate.count = 24
    config.evaluate.batch_size = 8
    for key, value in changes.items():
        config[key] = value
    return config


def state_of(workdir, config):
    """What the newest checkpoint of a run holds."""
    mesh = sharding.make_mesh(**config.mesh)
    state, _ = subjects.restore(pathlib.Path(workdir), building.build(config), mesh)
    return state


def lines(workdir, name="metrics.jsonl"):
    return [json.loads(line) for line in (pathlib.Path(workdir) / name).open()]


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope="module")
def sid_run(tmp_path_factory, teacher):
    workdir = tmp_path_factory.mktemp("sid")
    config = miniature("sid_digits", teacher=str(teacher))
    config.evaluate.every_kimg = 2 * BATCH / 1000
    train(config, str(workdir))
    return workdir, config


def test_files_of_a_run(sid_run):
    workdir, _ = sid_run
    rows = [row for row in lines(workdir) if "fake_loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["kimg"] == pytest.approx(0.064)
    for row in rows:
        assert {"fake_loss", "generator_loss", "delta"} <= row.keys()
        assert row["delta"] >= 0
    # The fake score starts as the teacher and has had one update when the generator is first asked.
    assert 0 < rows[0]["delta"] < 0.1
    evaluations = [row for row in lines(workdir) if "fd_pixels_24" in row]
    assert [row["step"] for row in evaluations] == [2, 4]
    timing = lines(workdir, "timing.jsonl")
    assert timing[0]["first_call_seconds"] > 0
    measuring = [row for row in timing if "evaluation_seconds" in row]
    assert [row["step"] for row in measuring] == [2, 4]
    assert all(row["evaluation_seconds"] > 0 for row in measuring)
    updating = [row for row in timing[1:] if row not in measuring]
    assert [row["step"] for row in updating] == [2, 3, 4]
    assert all(row["images_per_second"] > 0 for row in updating)
    names = {path.name for path in (workdir / "samples").iterdir()}
    assert {"samples_000000.png", "comparison_000000.png"} <= names
    assert list((workdir / "tensorboard").iterdir())
    picture = np.asarray(Image.open(workdir / "samples" / "comparison_000000.png"))
    assert picture.shape[1] > picture.shape[0]


def test_a_run_ends_with_its_report(sid_run):
    workdir, _ = sid_run
    text = (workdir / "report.html").read_text()
    for part in ("Finished, 4 updates", "Loss of fake", "fd_pixels_24", "(begun from Python)"):
        assert part in text
    # Two grids, and the teacher's samples, over which they lie, with the comparison.
    assert text.count("data:image/png") == 3 + 1 + 1
    sizes = {
        Image.open(workdir / "samples" / name).size
        for name in ("samples_000000.png", "teacher_000000.png")
    }
    assert len(sizes) == 1
    (start,) = lines(workdir, "starts.jsonl")
    assert start["step"] == 0
    assert start["versions"]["jax"] == jax.__version__


def test_a_run_says_what_its_network_is_and_what_it_read(sid_run):
    workdir, config = sid_run
    card = network_folder.load_card(workdir / "network")
    assert dataclasses.asdict(card) == {
        "kind": "student",
        "method": "sid",
        "init_sigma": 2.5,
        "steps": 1,
        "label_dim": 10,
        "sigma_data": 0.5,
        "dtype": "float32",
        "images": 4 * BATCH,
        "versions": {"diffjax": diffjax.__version__, "jax": jax.__version__},
        "sigmas": (),
    }
    best, record = best_network.find_best(workdir)
    kept = dataclasses.replace(card, images=round(1000 * record["kimg"]))
    assert network_folder.load_card(best) == kept
    inputs = provenance.load(workdir).inputs
    assert inputs == {
        "teacher": {"source": config.teacher, **network_folder.content(config.teacher)},
        "evaluate.reference": {"source": "digits"},
    }


def test_the_update_is_compiled_while_the_teacher_is_read(sid_run, tmp_path, monkeypatch):
    read, under_way = threading.Event(), []

    class Compiler:
        def lower(self, *arguments):
            assert read.wait(60)
            raise ValueError("nobody waits for it")

    def load_inputs(self):
        under_way.append(background_compilation.is_compiling())
        read.set()
        raise OSError("read")

    monkeypatch.setattr(compilation, "compile_updates", lambda *arguments: Compiler())
    monkeypatch.setattr(experiment.Experiment, "load_inputs", load_inputs)
    with pytest.raises(OSError, match="read"):
        train(sid_run[1], str(tmp_path))
    assert under_way == [True]


def test_a_run_that_is_complete_compiles_no_update(sid_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffjax.runs.train.BackgroundCompiled", None)
    workdir = shutil.copytree(sid_run[0], tmp_path / "run")
    train(sid_run[1], str(workdir))
    assert "is complete" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_the_last_line_is_the_path_of_the_picture(sid_run, tmp_path, monkeypatch, stream):
    monkeypatch.setattr("diffjax.runs.train.BackgroundCompiled", None)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sid_run[0], tmp_path / "my run")
    (tmp_path / "my run/network/trained.json").unlink()  # so that its end comes again
    picture = "my run/samples/comparison_000000.png"
    url = f"file://{socket.gethostname()}{tmp_path}/{picture}".replace(" ", "%20")
    is_link = stream is Terminal
    wanted = f"\x1b]8;;{url}\x1b\\{picture}\x1b]8;;\x1b\\" if is_link else picture
    for said in ("done: ", "is complete; "):
        monkeypatch.setattr(sys, "stdout", stream())
        train(sid_run[1], "my run")
        *_, line, last = sys.stdout.getvalue().split("\n")[:-1]
        assert said in line
        assert last == wanted
    (tmp_path / picture).unlink()
    monkeypatch.setattr(sys, "stdout", stream())
    train(sid_run[1], "my run")
    assert "is complete; " in sys.stdout.getvalue().splitlines()[-1]


def test_a_run_from_a_student_first_teaches_the_fake_score(sid_run, tmp_path):
    student = shutil.copytree(sid_run[0] / "network", tmp_path / "student")
    config = miniature("sid_digits", updates=3, teacher=sid_run[1].teacher)
    config.checkpoint_kimg = BATCH / 1000
    config.generator.initial, config.generator.frozen_kimg = str(student), 1.5 * BATCH / 1000
    train(config, str(tmp_path / "run"))
    exp = building.build(config)
    initial = network_folder.load_params(student, exp.denoiser.abstract_params())
    abstract = sharding.with_shardings(
        exp.abstract_state(), sharding.state(exp.abstract_state(), sharding.make_mesh(data=1))
    )
    for step, is_frozen in ((1, True), (2, True), (3, False)):
        with checkpointing.Checkpointer(tmp_path / "run/checkpoints", keep=3) as checkpointer:
            state, _ = checkpointer.restore(abstract, step)
        assert int(state.step) == step
        for network in (state.params["generator"], state.averages["generator"]):
            pairs = zip(
                jax.tree.leaves(network["params"]), jax.tree.leaves(initial["params"]), strict=True
            )
            assert all(np.array_equal(a, b) == is_frozen for a, b in pairs)
        pairs = zip(
            jax.tree.leaves(state.params["fake_score"]["params"]),
            jax.tree.leaves(exp.load_inputs()["teacher"]["params"]),
            strict=True,
        )
        moves = [np.abs(a - b).max() for a, b in pairs]
        assert 0 < max(moves) < 10 * step * config.fake_score.learning_rate
        if step == 1:  # Adam's first step is a learning rate at most; a student is further away
            assert max(moves) <= 1.001 * config.fake_score.learning_rate
    shutil.rmtree(student)  # which a run that goes on doesn't need
    train(config, str(tmp_path / "run"))


def test_trained_network_is_the_average_of_the_checkpoint(sid_run):
    workdir, config = sid_run
    state = state_of(workdir, config)
    assert int(state.step) == 4
    network = network_folder.load_params(
        workdir / "network", building.build(config).denoiser.abstract_params()
    )
    assert_trees_equal(network, state.averages["generator"])
    moved = [
        np.any(np.asarray(a) != np.asarray(b))
        for a, b in zip(
            jax.tree.leaves(state.params["generator"]["params"]),
            jax.tree.leaves(state.params["fake_score"]["params"]),
            strict=True,
        )
    ]
    assert all(moved)


def test_equal_seeds_give_equal_metrics(sid_run, tmp_path):
    workdir, config = sid_run
    train(config, str(tmp_path))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
    assert_trees_equal(state_of(tmp_path, config), state_of(workdir, config))


def test_another_seed_gives_other_metrics(sid_run, tmp_path):
    workdir, config = sid_run
    other = config.copy_and_resolve_references()
    other.seed = 1
    other.evaluate.every_kimg = 0.0
    train(other, str(tmp_path))
    ours, theirs = lines(tmp_path)[0], lines(workdir)[0]
    assert ours["fake_loss"] != theirs["fake_loss"]


def test_resuming_gives_the_run_that_never_stopped(sid_run, tmp_path):
    workdir, config = sid_run
    half = config.copy_and_resolve_references()
    half.duration_kimg = config.duration_kimg / 2
    train(half, str(tmp_path))
    assert lines(tmp_path)[-1]["step"] == 2
    train(config, str(tmp_path))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
    assert_trees_equal(state_of(tmp_path, config), state_of(workdir, config))


def test_running_a_complete_run_again_changes_nothing(sid_run, capsys):
    workdir, config = sid_run
    before = (workdir / "metrics.jsonl").read_bytes()
    train(config, str(workdir))
    assert "complete" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_a_network_of_a_shorter_run_is_replaced_even_if_the_end_was_cut_off(sid_run, tmp_path):
    workdir, config = sid_run
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    record = tmp_path / "network" / "trained.json"
    assert json.loads(record.read_text()) == {"step": 4, "kimg": 0.064}
    record.write_text(json.dumps({"step": 2, "kimg": 0.032}))
    (tmp_path / "network" / "denoiser.json").unlink()
    train(config, str(tmp_path))
    assert json.loads(record.read_text())["step"] == 4
    assert (tmp_path / "network" / "denoiser.json").exists()


def test_many_updates_per_call_are_the_same_updates(sid_run, tmp_path):
    workdir, config = sid_run
    many = config.copy_and_resolve_references()
    many.updates_per_call = 2
    many.log_kimg = 2 * BATCH / 1000
    many.evaluate.every_kimg = 0.0
    train(many, str(tmp_path))
    one_by_one = [row for row in lines(workdir) if "fake_loss" in row]
    for row, pair in zip(lines(tmp_path), [one_by_one[:2], one_by_one[2:]], strict=True):
        for name in ("fake_loss", "delta"):
            mean = np.mean([one[name] for one in pair])
            np.testing.assert_allclose(row[name], mean, rtol=2e-3)


def test_work_that_is_no_update_is_never_called_one(sid_run, tmp_path, monkeypatch, capsys):
    workdir, config = sid_run
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    longer = config.copy_and_resolve_references()
    longer.duration_kimg *= 3
    passed, dogs, worked = [0.0], [], []

    class Dog(watchdog.Watchdog):
        def __init__(self, **options):
            options["hang_seconds"] = 0.0
            super().__init__(**options, clock=lambda: sum(passed))
            dogs.append(self)

    monkeypatch.setattr(watchdog, "Watchdog", Dog)

    def takes_an_hour(owner, name):
        do = getattr(owner, name)

        def done(*args, **kwargs):
            passed.append(3600.0)
            dogs[-1].check()
            worked.append(name)
            return do(*args, **kwargs)

        monkeypatch.setattr(owner, name, done)

    reporter, checkpointer = reporting.Reporter, checkpointing.Checkpointer
    for name in ("grid_images", "write_grid", "evaluate", "finish"):
        takes_an_hour(reporter, name)
    takes_an_hour(checkpointer, "save")
    takes_an_hour(checkpointer, "save_and_wait")
    train(longer, str(tmp_path))
    assert {"evaluate", "finish", "save", "save_and_wait"} <= set(worked)
    assert "has taken" not in capsys.readouterr().out


def test_several_programs_make_the_same_run(sid_run, tmp_path):
    workdir, config = sid_run
    apart = config.copy_and_resolve_references()
    apart.compile_apart, apart.updates_per_call = "always", 4
    apart.evaluate.every_kimg = 0.0
    train(apart, str(tmp_path))
    before = [row for row in lines(workdir) if "fake_loss" in row]
    for row, one in zip(lines(tmp_path), before, strict=True):
        assert row["step"] == one["step"]
        for name in ("fake_loss", "delta"):
            np.testing.assert_allclose(row[name], one[name], rtol=2e-3)


def test_sampling_is_the_same_whatever_the_batch_size(sid_run, tmp_path):
    workdir, config = sid_run
    config = config.copy_and_resolve_references()
    config.sample.count, config.sample.format, config.sample.batch_size = 11, "npz", 8
    sample(config, str(workdir))
    path = workdir / "samples" / "student_seed0_11.npz"
    small = dict(np.load(path))
    config.sample.batch_size = 16
    sample(config, str(workdir))
    large = dict(np.load(path))
    assert small["images"].shape == (11, 8, 8, 1)
    assert small["images"].dtype == np.uint8
    np.testing.assert_array_equal(small["classes"], large["classes"])
    difference = np.abs(small["images"].astype(int) - large["images"])
    assert difference.max() <= 1  # the last bit of a convolution may depend on the batch
    config.sample.format = "adm"
    sample(config, str(workdir))
    with np.load(workdir / "samples" / "student_seed0_11_adm.npz") as adm:
        assert set(adm) == {"arr_0", "arr_1"}
        assert (adm["arr_0"].dtype, adm["arr_0"].shape) == (np.uint8, (11, 8, 8, 3))
        np.testing.assert_array_equal(adm["arr_0"], large["images"].repeat(3, axis=3))
        np.testing.assert_array_equal(adm["arr_1"], large["classes"])
    assert path.exists()
    config.sample.format = "png"
    sample(config, str(workdir))
    pngs = sorted((workdir / "samples" / "student_seed0_11").iterdir())
    assert [png.name for png in pngs] == [f"{i:06d}.png" for i in range(11)]
    np.testing.assert_array_equal(np.asarray(Image.open(pngs[3])), large["images"][3, ..., 0])


def test_sampling_from_the_teacher_with_churn(sid_run):
    workdir, config = sid_run
    config = config.copy_and_resolve_references()
    config.sample.source, config.sample.count, config.sample.format = "teacher", 8, "npz"
    config.sample.label = 3
    config.heun.s_churn = 1.0
    images = []
    for batch_size in (8, 16):
        config.sample.batch_size = batch_size
        sample(config, str(workdir))
        sampled = np.load(workdir / "samples" / "teacher_label3_seed0_8.npz")
        images.append(sampled["images"].astype(int))
        assert set(sampled["classes"]) == {3}
    assert np.abs(images[0] - images[1]).max() <= 1
    assert (workdir / "samples" / "teacher_label3_seed0.png").exists()


def test_the_best_network_is_kept(sid_run):
    workdir, config = sid_run
    measured = {row["step"]: row["fd_pixels_24"] for row in lines(workdir) if "fd_pixels_24" in row}
    best = min(measured, key=measured.get)
    folder, record = best_network.find_best(workdir)
    assert folder == workdir / "best" / str(best)
    assert record["value"] == measured[best]
    abstract = building.build(config).denoiser.abstract_params()
    params = network_folder.load_params(folder, abstract)
    if best == 4:
        assert_trees_equal(params, state_of(workdir, config).averages["generator"])


def evaluated(config, workdir, source, name, **changes):
    config = config.copy_and_resolve_references()
    config.evaluate.source = str(source)
    config.evaluate.update(changes)
    evaluate(config, str(workdir))
    return json.loads((workdir / f"evaluation_{name}.json").read_text())


def test_evaluating_the_student_and_a_network_by_its_path(sid_run):
    workdir, config = sid_run
    student = evaluated(config, workdir, "student", "student")
    assert student["fd_pixels_24"] == lines(workdir)[-1]["fd_pixels_24"]
    assert (student["evaluations"], student["images"]) == (1, 24)
    assert student["source"].endswith("0.1 kimg")
    network = evaluated(config, workdir, workdir / "network", "network")
    assert network["fd_pixels_24"] == student["fd_pixels_24"]
    best = evaluated(config, workdir, "best", "best")
    assert best["fd_pixels_24"] == best_network.find_best(workdir)[1]["value"]


def test_results_are_written_before_they_are_told(sid_run, monkeypatch):
    workdir, config = sid_run
    path = workdir / "evaluation_student.json"
    path.unlink(missing_ok=True)

    def nobody_listens(text):
        raise BrokenPipeError(text)

    monkeypatch.setattr("diffjax.runs.evaluate.say", nobody_listens)
    with pytest.raises(BrokenPipeError, match="fd_pixels_24"):
        evaluated(config, workdir, "student", "student")
    assert "fd_pixels_24" in json.loads(path.read_text())


def test_evaluating_the_teacher_twice_gives_mean_and_deviation(sid_run, capsys):
    workdir, config = sid_run
    report = evaluated(config, workdir, "teacher", "teacher", seeds=2)
    assert report["evaluations"] == 5
    first, second = report["values"]["fd_pixels_24"]
    assert first != second
    assert report["fd_pixels_24"] == pytest.approx((first + second) / 2)
    deviation = report["standard_deviation"]["fd_pixels_24"]
    assert deviation == pytest.approx(abs(first - second) / 2**0.5)
    assert f"fd_pixels_24 {report['fd_pixels_24']:.5g} ± {deviation:.2g}" in capsys.readouterr().out
    assert evaluated(config, workdir, "teacher", "teacher")["fd_pixels_24"] == first


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("pupil", ValueError, "source='pupil' is unknown; known are: student, best, teacher"),
        ("no/such/network", FileNotFoundError, "source=no/such/network: there is no such file"),
    ],
)
def test_evaluating_what_is_not_there(sid_run, source, error, message):
    workdir, config = sid_run
    with pytest.raises(error, match=message):
        evaluated(config, workdir, source, "nothing")


def test_sampling_without_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="train with this workdir first"):
        sample(miniature("sid_digits"), str(tmp_path / "nothing"))


def test_diff_instruct_with_accumulation(teacher, tmp_path):
    config = miniature("di_digits", updates=2, accumulation=2, teacher=str(teacher))
    train(config, str(tmp_path))
    assert [row["step"] for row in lines(tmp_path)] == [1, 2]


def test_teacher_training_and_distilling_from_it(tmp_path):
    config = miniature("teacher_digits", updates=2)
    config.network.model_channels = 8
    config.network.channel_mult = (1,)
    config.network.attn_resolutions = ()
    train(config, str(tmp_path / "teacher"))
    rows = lines(tmp_path / "teacher")
    assert [row["step"] for row in rows] == [1, 2]
    assert {"loss", "grad_norm"} <= rows[0].keys()
    config = miniature("sid_digits", updates=1, teacher=str(tmp_path / "teacher" / "network"))
    train(config, str(tmp_path / "student"))
    assert lines(tmp_path / "student")[0]["step"] == 1


def test_a_batch_that_does_not_divide_stops_before_anything_is_written(tmp_path):
    config = miniature("sid_digits", batch_size=BATCH + 1)
    config.mesh.data = 8
    with pytest.raises(ValueError, match=r"batch_size=17 .* batch_size=16 would"):
        train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_missing_teacher_stops_before_anything_is_written(tmp_path):
    config = miniature("sid_digits", teacher=str(tmp_path / "nothing.pkl"))
    with pytest.raises(FileNotFoundError, match=r"nothing.pkl"):
        train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("initial", "message"),
    [("no/such/network", "there is no such file"), ("cifar_tiny", "is another network than")],
)
def test_a_wrong_start_of_the_generator_stops_before_anything_is_written(
    initial, message, teacher, tmp_path
):
    config = miniature("sid_digits", teacher=str(teacher))
    config.generator.initial = initial
    with pytest.raises((FileNotFoundError, ValueError), match=f"initial={initial}.* {message}"):
        train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
