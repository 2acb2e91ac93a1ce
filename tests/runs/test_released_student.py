"""Students that SiD's authors released, as starting points and as what is sampled."""

import jax
import numpy as np
import pytest

from diffjax.convert import catalogue, edm
from diffjax.models import network_folder
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.runs import bases, building
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from tests.support import fabricate, small_distillation

KWARGS = small_distillation.INIT_KWARGS | {"dropout": 0.0}
NAME = "sid-cifar10-32x32-uncond"


@pytest.fixture
def released(tmp_path, monkeypatch):
    """A pickle in the format of SiD's authors, in the place of one of theirs; its parameters."""
    rng = np.random.default_rng(0)
    arrays = {
        name: (0.1 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in edm.state_dict_shapes(KWARGS).items()
    }
    path = tmp_path / "network-snapshot.pkl"
    path.write_bytes(fabricate.edm_pickle(KWARGS, arrays))
    student = catalogue.Released(str(path), KWARGS, "sid", init_sigma=2.5)
    for names in (catalogue.STUDENTS, catalogue.EDM):
        monkeypatch.setitem(names, NAME, student)
    return path, edm.to_denoiser(KWARGS, arrays)[1]


@pytest.fixture
def teacher(tmp_path):
    params = from_edm_kwargs(KWARGS).init(jax.random.key(0))
    network_folder.save_denoiser(tmp_path / "teacher", KWARGS, jax.device_get(params))
    return tmp_path / "teacher"


def config(method, teacher, initial):
    made = bases.distillation(method)
    made.teacher, made.generator.initial = str(teacher), str(initial)
    made.init_sigma = 2.5
    made.batch_size, made.duration_kimg, made.updates_per_call = 4, 0.004, 1
    made.log_kimg = made.checkpoint_kimg = 0.004
    made.grid_kimg, made.ema_halflife_kimg, made.mesh.data = 0.0, 0.001, 1
    made.compile_apart = "never"
    made.grid.update(rows=1, columns=2)
    made.sample.update(count=4, format="npz", batch_size=4)
    return made


@pytest.mark.parametrize("method", ["sid", "diff_instruct"])
def test_it_goes_on_with_either_method(method, released, teacher):
    _, params = released
    made = config(method, teacher, NAME)
    exp = building.build(made)
    state = exp.init_state(exp.load_inputs(), exp.load_initial())
    jax.tree.map(np.testing.assert_array_equal, state.params["generator"], params)
    jax.tree.map(np.testing.assert_array_equal, exp.averaged(state), params)
    fake_score = state.params["fake_score"]
    jax.tree.map(np.testing.assert_array_equal, fake_score, exp.load_inputs()["teacher"])


def test_it_is_asked_where_it_was_trained(released, teacher, capsys, tmp_path):
    path, _ = released
    made = config("diff_instruct", teacher, NAME)
    made.init_sigma = 1.0
    exp = building.build(made)
    message = r"is a student \(sid, init_sigma 2\.5\), and config\.init_sigma=1 would .* to 2\.5"
    with pytest.raises(ValueError, match=message):
        exp.load_initial()
    # A file doesn't say; what is done is told.
    made.generator.initial = str(path)
    train(made, str(tmp_path / "run"))
    told = "doesn't say whether it is a denoiser or a student; it is taken for a network to be "
    assert f"{told}asked at config.init_sigma" in capsys.readouterr().out
    # Sampled by its name, in one evaluation at its own level, whatever the config's.
    made.sample.source = NAME
    sample(made, str(tmp_path / "samples"))
    with np.load(tmp_path / "samples" / "samples" / f"{NAME}_seed0_4.npz") as file:
        drawn = file["images"]
    made.sample.source, made.init_sigma = str(path), 2.5
    sample(made, str(tmp_path / "samples"))
    with np.load(tmp_path / "samples" / "samples" / "network-snapshot_seed0_4.npz") as file:
        np.testing.assert_array_equal(file["images"], drawn)


def test_it_is_no_teacher(released):
    with pytest.raises(ValueError, match=rf"teacher={NAME} is a student .*: name a denoiser"):
        building.build(config("sid", NAME, ""))


def test_each_is_of_the_network_that_it_was_made_of():
    assert set(catalogue.STUDENTS) == {
        f"{method}-{teacher.removeprefix('edm-').removesuffix('-vp').removesuffix('-adm')}"
        for method in ("sid", "sida")
        for teacher in catalogue.RELEASED
        if not teacher.endswith("-ve")
    }
    for name, student in catalogue.STUDENTS.items():
        assert (student.method, student.init_sigma) == (name.partition("-")[0], 2.5)
        assert student.url.startswith("https://huggingface.co/UT-Austin-PML/SiD")
    assert len({student.url for student in catalogue.STUDENTS.values()}) == 10
