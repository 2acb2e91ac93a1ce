"""Runs of a user's teacher, from the config to the network: all that a run of ours does."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from diffjax.distributed import sharding
from diffjax.models import network_folder
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.runs import bases, building, networks, provenance, subjects, user_function
from diffjax.runs.evaluate import evaluate
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from diffjax.training import compilation
from tests.support import golden_cases, my_teacher, small_distillation

ROOT = Path(__file__).parents[2]
SUPPORT = Path(my_teacher.__file__).parent


@pytest.fixture(autouse=True)
def beside():
    user_function.look_in(SUPPORT)
    yield
    user_function._folders.remove(str(SUPPORT.resolve()))
    sys.path[:] = [each for each in sys.path if each != str(SUPPORT.resolve())]
    sys.modules.pop("my_teacher", None)  # other tests have files of that name


def config(method="sid", **fields):
    made = bases.distillation(method)
    made.teacher = "my_teacher:points"
    made.generator.learning_rate = made.fake_score.learning_rate = 1e-3
    made.batch_size, made.duration_kimg, made.updates_per_call = 16, 0.064, 2
    made.log_kimg = made.checkpoint_kimg = 0.032
    made.grid_kimg, made.ema_halflife_kimg, made.mesh.data = 0.0, 0.1, 1
    made.evaluate.update(metrics=("swd",), reference="my_teacher:data", count=64, batch_size=64)
    made.evaluate.update(best="swd", features="values")
    for field, value in fields.items():
        group, _, name = field.rpartition("__")
        (made[group] if group else made)[name] = value
    return made


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def last(workdir, name="generator_loss"):
    return [line[name] for line in metrics(workdir) if name in line]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four updates that stopped after two and went on."""
    workdir = tmp_path_factory.mktemp("any") / "run"
    user_function.look_in(SUPPORT)
    train(config(duration_kimg=0.032), str(workdir))
    train(config(evaluate__every_kimg=0.064), str(workdir))
    return workdir


def test_a_run_that_goes_on_is_one_that_did_not_stop(run, tmp_path):
    train(config(evaluate__every_kimg=0.064), str(tmp_path / "whole"))
    assert last(run) == last(tmp_path / "whole")
    assert len(last(run)) == 2
    assert any((run / "samples").glob("comparison_*.png"))
    described = json.loads((run / "network" / "model.json").read_text())
    assert described["teacher"] == "my_teacher:points"
    assert described["model_card"]["init_sigma"] == 5.0
    assert set(described["sha256"]) == {"my_teacher.py"}


def test_samples_are_floats_in_the_teachers_units(run, capsys):
    made = config(sample__count=20, sample__format="npz")
    sample(made, str(run))
    with np.load(run / "samples" / "student_seed0_20.npz") as file:
        images = file["images"]
    assert (images.shape, images.dtype) == ((20, 2), np.float32)
    assert len(np.unique(images)) > 20
    sample(config(sample__source="teacher"), str(run))
    assert (run / "samples" / "teacher_seed0.png").exists()
    made.sample.source = str(run / "network")
    sample(made, str(run))
    with np.load(run / "samples" / "network_seed0_20.npz") as file:
        np.testing.assert_array_equal(file["images"], images)


@pytest.mark.parametrize("source", ["student", "best", "teacher"])
def test_all_networks_of_a_run_are_measured(run, source):
    evaluate(config(evaluate__source=source), str(run))
    report = json.loads((run / f"evaluation_{source}.json").read_text())
    assert report["swd_64"] > 0
    assert report["measured"]["network"]["image_shape"] == [2]


def test_the_network_is_where_another_run_starts(run, tmp_path):
    made = config(generator__initial=str(run / "network"))
    exp = building.build(made)
    start = exp.load_initial()["generator"]
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, start, exp.load_inputs()["teacher"])
    other = config(generator__initial=str(run / "network"), teacher="my_teacher:of_classes")
    with pytest.raises(ValueError, match="is another network than the teacher my_teacher:of_cl"):
        building.build(other).load_initial()
    with pytest.raises(ValueError, match=r"config\.teacher=.* is a student"):
        networks.teacher(str(run / "network"))


def test_a_run_tells_of_another_teacher(run):
    with pytest.raises(ValueError, match="teacher: my_teacher:points -> my_teacher:fresh, SHA-256"):
        train(config(teacher="my_teacher:fresh", duration_kimg=0.096), str(run))
    made = config(sample__source="teacher", teacher="my_teacher:fresh")
    with pytest.raises(ValueError, match="the content of my_teacher:fresh is not the run's"):
        subjects.check("teacher", run, made, building.build(made))


@pytest.mark.parametrize(
    "fields",
    [
        {"accumulation": 2},
        {"compile_apart": "always"},
        {"mesh__data": 2, "mesh__fsdp": 2},
    ],
    ids=lambda fields: " ".join(fields),
)
def test_however_an_update_is_computed(run, tmp_path, fields):
    train(config(**fields), str(tmp_path / "run"))
    for name in ("generator_loss", "fake_loss", "delta"):
        computed, wanted = last(tmp_path / "run", name), last(run, name)
        np.testing.assert_allclose(computed, wanted, rtol=2e-5, atol=1e-6)


def test_a_teacher_kept_in_half_precision():
    exp = building.build(config(teacher_dtype="bfloat16"))
    kept = exp.narrowed(exp.load_inputs())["teacher"]
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {np.dtype("bfloat16")}
    assert exp.abstract_inputs()["teacher"] == jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), kept
    )
    full = building.build(config())
    y, sigma = np.ones((4, 2), np.float32), np.full(4, 0.7, np.float32)
    wanted = full.denoiser(full.load_inputs()["teacher"], y, sigma)
    given = exp.method.networks["teacher"](kept, y, sigma)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, wanted, atol=1e-3)
    assert not np.array_equal(given, wanted)


@pytest.mark.parametrize("apart", ["never", "always"])
def test_a_table_of_conditions_is_an_argument_of_the_update(tmp_path, apart):
    made = config(teacher="my_teacher:of_rows", compile_apart=apart, mesh__data=2)
    exp = building.build(made)
    mesh = sharding.make_mesh(data=2)
    updates = compilation.compile_updates(exp.update, exp.abstract_state(), mesh, 1)
    state, inputs = compilation.abstract_arguments(
        exp.abstract_state(), exp.abstract_inputs(), mesh
    )
    text = updates.lower(state, inputs, jax.random.key(0), 1).as_text()
    assert "1000x3" in text
    assert not re.search(r"constant.*1000x3", text)
    train(made, str(tmp_path / "run"))
    assert np.isfinite(last(tmp_path / "run")).all()


@pytest.mark.parametrize("method", ["sid", "diff_instruct"])
@pytest.mark.parametrize(
    "fields",
    [
        {"teacher": "my_teacher:of_classes"},
        {"teacher": "my_teacher:of_pairs"},
        {"student": "my_teacher:small", "fake_score__network": "my_teacher:fresh"},
        {"teacher": "my_teacher:signals"},
    ],
    ids=lambda fields: " ".join(fields.values()),
)
def test_conditions_students_and_shapes(tmp_path, method, fields):
    made = config(method, **fields, evaluate__reference="", evaluate__metrics=("moments",))
    with made.unlocked():
        made.evaluate.best = ""
    train(made, str(tmp_path / "run"))
    losses = last(tmp_path / "run")
    assert np.isfinite(losses).all()
    assert len(set(losses)) == 2
    made.sample.update(count=8, format="npz")
    sample(made, str(tmp_path / "run"))
    assert any((tmp_path / "run" / "samples").glob("*_8.npz"))
    evaluate(made, str(tmp_path / "run"))


def test_our_own_teacher_through_a_function_is_the_same_run(tmp_path, monkeypatch):
    model = from_edm_kwargs(small_distillation.INIT_KWARGS)
    network = tmp_path / "network"
    network_folder.save_denoiser(
        network, small_distillation.INIT_KWARGS, golden_cases.weights(model)
    )
    monkeypatch.setenv("MY_NETWORK", str(network))
    for name, teacher in (("ours", str(network)), ("theirs", "my_teacher:of_folder")):
        train(config(teacher=teacher, checkpoint_kimg=1.0), str(tmp_path / name))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for name in ("generator_loss", "fake_loss", "delta"):
        np.testing.assert_array_equal(last(ours, name), last(theirs, name))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.teacher=my_teacher:pints"], "my_teacher.py has no pints; did you mean points?"),
        (["--config.teacher=my_teacher:not_finite"], "aren't finite at sigma=0.05"),
        (["--config.student=my_teacher:wide"], "they must be equal"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, flags, message):
    shutil.copy(SUPPORT / "my_teacher.py", tmp_path)
    (tmp_path / "c.py").write_text(
        "from diffjax.runs import bases\n"
        "def get_config():\n"
        "    config = bases.distillation('sid')\n"
        "    config.teacher = 'my_teacher:points'\n"
        "    return config\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "diffjax.main", f"--config={tmp_path}/c.py", "--workdir=w", *flags],
        cwd=tmp_path,
        env={"PATH": "/usr/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "w").exists()


DIFFUSERS = ROOT / "tests" / "golden" / "diffusers" / "ddpm"


def test_a_folder_of_diffusers_is_a_teacher(tmp_path):
    folder = shutil.copytree(DIFFUSERS, tmp_path / "model")
    made = config(teacher=str(folder), evaluate__reference="", evaluate__metrics=("moments",))
    exp = building.build(made)
    assert len(exp.denoiser.shape) == 3
    options = {"has_begun": False, "allow_changed": False}
    kept, notes = provenance.check(made, exp, tmp_path, **options)
    assert not notes
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text() + "\n")
    assert networks.content(str(folder))["sha256"] != kept.inputs["teacher"]["sha256"]


@pytest.mark.slow
def test_a_folder_of_diffusers_is_distilled(tmp_path):
    made = config(teacher=str(DIFFUSERS), evaluate__reference="", evaluate__metrics=("moments",))
    made.evaluate.best = ""
    train(made, str(tmp_path / "run"))
    assert np.isfinite(last(tmp_path / "run")).all()
    made.sample.source = str(tmp_path / "run" / "network")
    sample(made, str(tmp_path / "run"))
