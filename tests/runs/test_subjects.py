"""What is sampled is asked as it was trained, whatever config and folder name it."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.convert import teacher as teachers
from diffjax.distributed import sharding
from diffjax.models import network_folder
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.models.model_card import ModelCard
from diffjax.runs import building, provenance, saved_config, subjects
from diffjax.runs.evaluate import evaluate
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from diffjax.training import checkpointing, stored_trees
from tests.runs.test_train import BATCH, miniature

SIGMA = 10.0


@pytest.fixture(scope="module")
def run(tmp_path_factory, teacher):
    """The work directory of a student of σ_init 10, and its config."""
    folder = tmp_path_factory.mktemp("run")
    config = miniature("sid_digits", updates=1, teacher=str(shutil.copytree(teacher, folder / "t")))
    config.init_sigma = SIGMA
    begin(folder / "w", config)
    return folder / "w", config


def begin(workdir, config):
    """Leaves what a run leaves, of its first state."""
    exp = building.build(config)
    state = exp.init_state(exp.load_inputs())
    workdir.mkdir()
    with checkpointing.Checkpointer(workdir / "checkpoints") as checkpointer:
        checkpointer.save_and_wait(1, state, {"kimg": BATCH / 1000})
    saved_config.save(workdir, config)
    provenance.save(workdir, provenance.look(config, exp, None))
    network_folder.save_denoiser(
        workdir / "network", exp.init_kwargs, exp.averaged(state), card=exp.card(BATCH)
    )


def images(source, workdir, config, **heun):
    config.heun.update(heun)
    exp, mesh = building.build(config), sharding.make_mesh(**config.mesh)
    subject = subjects.find(source, workdir, exp, 0, mesh)
    indices = jnp.arange(2)
    return subject, np.asarray(subject.sampler(subject.params, indices, indices))


def saved(folder, source, card, **changes):
    """A folder with another card, or other arguments of equal arrays."""
    kwargs = network_folder.load_denoiser_kwargs(source) | changes
    params = network_folder.load_params(source, from_edm_kwargs(kwargs).abstract_params())
    network_folder.save_denoiser(folder, kwargs, params, card=card)
    return str(folder)


def test_sampling_needs_no_optimiser(run, monkeypatch):
    workdir, config = run
    _, expected = images("student", workdir, config)
    other = config.copy_and_resolve_references()
    other.generator.decay_kimg = BATCH / 2000
    exp, mesh = building.build(other), sharding.make_mesh(**other.mesh)
    subjects.restore(workdir, exp, mesh)  # whole, which moves the moments over
    monkeypatch.setattr(stored_trees, "read", None)
    with pytest.raises(TypeError):
        subjects.restore(workdir, exp, mesh)
    subjects.check("student", workdir, other, exp)
    np.testing.assert_array_equal(images("student", workdir, other)[1], expected)


def test_a_student_is_asked_at_its_own_sigma(run):
    workdir, config = run
    _, expected = images("student", workdir, config)
    other = config.copy_and_resolve_references()
    other.init_sigma = 2.5
    subject, found = images(str(workdir / "network"), workdir, other)
    np.testing.assert_array_equal(found, expected)
    assert subject.title.endswith("1 evaluation at init_sigma 10")


def test_a_network_that_does_not_say_is_asked_as_the_config_has_it(run, tmp_path, capsys):
    workdir, config = run
    _, expected = images("student", workdir, config)
    folder = saved(tmp_path / "before", workdir / "network", card=None)
    np.testing.assert_array_equal(images(folder, workdir, config)[1], expected)
    assert "before doesn't say whether it is a student or a denoiser" in capsys.readouterr().out


def test_a_student_is_no_teacher_and_no_denoiser(run, tmp_path):
    workdir, config = run
    student = str(workdir / "network")
    other = config.copy_and_resolve_references()
    other.teacher = student
    with pytest.raises(ValueError, match=r"teacher=.* is a student \(sid, init_sigma 10\)"):
        train(other, str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()
    denoising = miniature("teacher_digits", updates=1)
    with pytest.raises(ValueError, match=r"source=.* is a student .*, are sampled by Heun's"):
        images(student, tmp_path, denoising)


def test_a_denoiser_is_no_student(run, tmp_path):
    workdir, config = run
    folder = saved(tmp_path / "denoiser", config.teacher, ModelCard("denoiser"))
    with pytest.raises(ValueError, match=r"is a denoiser, and .* sampled in one evaluation"):
        images(folder, workdir, config)
    config = config.copy_and_resolve_references()
    config.teacher = folder  # which it may be
    config.generator.initial = folder  # likewise
    assert building.build(config).load_initial().keys() == {"generator"}


def test_an_initial_student_is_asked_where_it_was_trained(run, tmp_path):
    workdir, config = run
    config = config.copy_and_resolve_references()
    config.generator.initial = str(workdir / "network")
    assert building.build(config).load_initial().keys() == {"generator"}
    config.init_sigma = 2.5
    with pytest.raises(ValueError, match=r"initial=.* set config\.init_sigma to 10\."):
        train(config, str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()
    config.generator.initial = saved(tmp_path / "o", config.teacher, None, sigma_data=0.25)
    with pytest.raises(ValueError, match=r"another network .*sigma_data: 0\.5 -> 0\.25"):
        building.build(config).load_initial()


@pytest.mark.parametrize("mode", [sample, evaluate])
def test_a_teacher_of_equal_arrays_that_is_another_function(run, tmp_path, mode):
    workdir, config = run
    other = config.copy_and_resolve_references()
    other.teacher = saved(tmp_path / "other", config.teacher, None, sigma_data=0.25)
    with pytest.raises(ValueError, match=r"\(sigma_data: 0\.5 -> 0\.25\), whose network would"):
        mode(other, str(workdir))
    other.sample.source = other.evaluate.source = "teacher"
    with pytest.raises(ValueError, match=r"\(teacher: the content of .*other is not the run's\)"):
        mode(other, str(workdir))


def test_a_teacher_that_moved_is_the_same(run, tmp_path):
    workdir, config = run
    other = config.copy_and_resolve_references()
    other.teacher = str(shutil.copytree(config.teacher, tmp_path / "moved"))
    for source in ("student", "teacher"):
        subjects.check(source, workdir, other, building.build(other))


def test_what_can_not_be_compared_is_told(run, tmp_path, capsys):
    workdir, config = run
    other = config.copy_and_resolve_references()
    other.heun.steps = 5
    subjects.check("student", workdir, other, building.build(other))  # takes one evaluation
    assert capsys.readouterr().out == ""
    subjects.check("teacher", workdir, other, building.build(other))
    assert "not sampled as the run does, heun.steps: 3 -> 5" in capsys.readouterr().out
    copy = shutil.copytree(workdir, tmp_path / "w")
    (copy / "config.json").unlink()
    subjects.check("student", copy, config, building.build(config))
    assert "has no config.json" in capsys.readouterr().out


def test_a_run_that_kept_no_inputs(run, tmp_path, capsys):
    workdir, config = run
    copy = shutil.copytree(workdir, tmp_path / "w")
    (copy / "inputs.json").unlink()
    other = config.copy_and_resolve_references()
    other.teacher = str(shutil.copytree(config.teacher, tmp_path / "moved"))
    subjects.check("student", copy, other, building.build(other))
    assert "whether both describe one network was not kept" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"\(teacher: "):
        subjects.check("teacher", copy, other, building.build(other))


@pytest.mark.parametrize(
    "card",
    [3, {"kind": "score"}, {"kind": "student"}, {"kind": "denoiser", "init_sigma": 2.5}],
)
def test_a_card_that_says_nothing_of_sense(run, tmp_path, card):
    folder = shutil.copytree(run[1].teacher, tmp_path / "t")
    path = folder / "denoiser.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_card": card}))
    with pytest.raises(ValueError, match=r"denoiser\.json isn't a denoiser's description"):
        teachers.describe(str(folder))


def test_a_card_of_a_later_version_is_read(run, tmp_path):
    folder = shutil.copytree(run[0] / "network", tmp_path / "t")
    path = folder / "denoiser.json"
    description = json.loads(path.read_text())
    description["model_card"]["colour"] = "blue"
    path.write_text(json.dumps(description))
    assert network_folder.load_card(folder).init_sigma == SIGMA


@pytest.mark.parametrize("source", ["student", "best"])
@pytest.mark.parametrize("mode", [sample, evaluate])
def test_a_run_that_is_not_there_leaves_no_folder(run, tmp_path, mode, source):
    config = run[1].copy_and_resolve_references()
    config.sample.source = config.evaluate.source = source
    with pytest.raises(FileNotFoundError, match="nowhere"):
        mode(config, str(tmp_path / "nowhere"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("w/averages_0.100", "averages_0.100"),
        ("https://a/b/edm2-img64-s-0.075.pkl?download=1", "edm2-img64-s-0.075"),
        ("a/net.ema.pkl", "net.ema"),
        ("..", "network"),
    ],
)
def test_results_are_named_after_a_network_with_its_decimals(source, name):
    assert subjects.file_name(source) == name
