"""Runs whose student is a StyleGAN2 pickle, by its path or by a released name."""

import json

import jax
import numpy as np
import pytest

from diffjax.convert import catalogue, generators, stylegan2
from diffjax.files import download
from diffjax.models import contract, network_folder
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.runs import bases, building, networks
from diffjax.runs.evaluate import evaluate
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from diffjax.runs.user_function import RefusedError
from tests.support import small_distillation, stylegan2_cases
from tests.support.stylegan2_cases import pickle_of

KWARGS = {**stylegan2_cases.KWARGS, "img_channels": 1, "c_dim": 2}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "network"
    kwargs = small_distillation.INIT_KWARGS | {"dropout": 0.0}
    params = from_edm_kwargs(kwargs).init(jax.random.key(0))
    network_folder.save_denoiser(folder, kwargs, jax.device_get(params))
    return folder


def write(path, **kwargs):
    own = {**KWARGS, **kwargs}
    path.write_bytes(pickle_of(own, stylegan2_cases.network(own)[2]))
    return path


@pytest.fixture
def pickled(tmp_path):
    return write(tmp_path / "gan.pkl")


def config(teacher, student, **fields):
    made = bases.distillation("diff_instruct")
    made.teacher, made.student = str(teacher), str(student)
    made.generator.learning_rate = made.fake_score.learning_rate = 1e-3
    made.batch_size, made.duration_kimg, made.updates_per_call = 4, 0.008, 1
    made.log_kimg = made.checkpoint_kimg = 0.004
    made.grid_kimg, made.ema_halflife_kimg, made.mesh.data = 0.0, 0.001, 1
    made.compile_apart = "never"
    made.grid.update(rows=1, columns=2)
    made.evaluate.update(metrics=("swd",), reference="digits", count=8, batch_size=8, best="")
    made.evaluate.features = "pixels"
    made.sample.update(count=4, format="npz", batch_size=4)
    for field, value in fields.items():
        made[field] = value
    return made


def images(workdir, name):
    with np.load(workdir / "samples" / f"{name}_seed0_4.npz") as file:
        return file["images"]


def test_a_run_needs_the_pickle_once(teacher, pickled, tmp_path):
    made = config(teacher, pickled)
    train(made, str(tmp_path / "run"))
    sample(made, str(tmp_path / "run"))
    expected = images(tmp_path / "run", "student")
    described = json.loads((tmp_path / "run" / "network" / "model.json").read_text())
    assert described["student"] == str(pickled)
    assert described["stylegan2"]["synthesis_kwargs"] == KWARGS["synthesis_kwargs"]

    # The network of the run stands by itself, and has the buffers that no update touches.
    pickled.rename(tmp_path / "elsewhere.pkl")
    folder = tmp_path / "run" / "network"
    network = networks.trained(str(folder), field="source")
    _, state_dict = stylegan2.read_pickle(tmp_path / "elsewhere.pkl")
    start = stylegan2.to_variables(stylegan2.build(KWARGS), state_dict)
    tree = network.model.generator.params
    jax.tree.map(np.testing.assert_array_equal, tree["buffers"], start["buffers"])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), tree["params"], start["params"])
    assert max(jax.tree.leaves(moved)) > 1e-4
    made = config(teacher, tmp_path / "elsewhere.pkl")
    made.sample.source = str(folder)
    sample(made, str(tmp_path / "other"))
    np.testing.assert_array_equal(images(tmp_path / "other", "network"), expected)


def test_it_is_what_a_function_of_the_users_makes_of_it(teacher, pickled, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    text = f"def gan(teacher): return stylegan2.generator({str(pickled)!r})\n"
    (tmp_path / "own_gan.py").write_text("from diffjax.convert import stylegan2\n" + text)
    ours, users = (building.build(config(teacher, student)) for student in (pickled, "own_gan:gan"))
    starts = [exp.load_initial()["generator"] for exp in (ours, users)]
    jax.tree.map(np.testing.assert_array_equal, *starts)
    labels = np.eye(2, dtype=np.float32)
    made = [
        exp.sampled(starts[0], exp.sampled.latent(jax.random.key(1), 2), labels=labels)
        for exp in (ours, users)
    ]
    np.testing.assert_array_equal(*made)


def test_what_a_run_starts_from_is_measured_before_it(teacher, pickled, tmp_path):
    made = config(teacher, pickled)
    made.evaluate.source = made.sample.source = "initial"
    evaluate(made, str(tmp_path / "run"))
    report = json.loads((tmp_path / "run" / "evaluation_initial.json").read_text())
    assert report["swd_8"] > 0
    sample(made, str(tmp_path / "run"))
    gan = building.build(made)
    start = gan.load_initial()["generator"]
    assert images(tmp_path / "run", "initial").shape == (4, 8, 8, 1)
    read = stylegan2.generator(pickled).params["params"]
    jax.tree.map(np.testing.assert_array_equal, start["params"], read)
    # Of a copy of the teacher it is the teacher, asked once; a teacher starts from noise.
    made.student = ""
    evaluate(made, str(tmp_path / "copy"))
    own = bases.denoising()
    own.dataset, own.evaluate.source = "digits", "initial"
    own.evaluate.update(reference="digits", metrics=("swd",), features="pixels", count=8, best="")
    with pytest.raises(ValueError, match="source='initial' needs a distillation"):
        evaluate(own, str(tmp_path / "none"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_it_computes_in_the_type_of_the_config(dtype, teacher, pickled):
    model = building.build(config(teacher, pickled, dtype=dtype)).sampled
    text = str(
        jax.make_jaxpr(lambda p, z, c: model(p, z, labels=c))(
            model.abstract_params(), model.latent(jax.random.key(0), 2), np.eye(2, dtype="float32")
        )
    )
    assert ("bf16" in text) == (dtype == "bfloat16")


def test_what_is_checked_before_a_run_are_its_own_arrays(teacher, pickled, tmp_path, monkeypatch):
    """And not the zeros that stand for them, in which no condition changes anything."""
    told = []
    monkeypatch.setattr(contract, "warn_once", told.append)
    building.build(config(teacher, pickled)).check_records()
    assert told == []
    state_dict = stylegan2_cases.network(KWARGS)[2]
    deaf = {
        name: 0 * array if name.startswith("mapping.embed") else array
        for name, array in state_dict.items()
    }
    (tmp_path / "deaf.pkl").write_bytes(pickle_of(KWARGS, deaf))
    building.build(config(teacher, tmp_path / "deaf.pkl")).check_records()
    (line,) = told
    assert "changes nothing in what is generated" in line


MISTAKES = {
    "shape": (
        {"img_resolution": 16},
        r"generates \(16, 16, 1\) .* denoises \(8, 8, 1\): they must",
    ),
    "channels": ({"img_channels": 3}, r"generates \(8, 8, 3\) .* denoises \(8, 8, 1\)"),
    "classes": ({"c_dim": 3}, "has 3 classes and teacher .* has 2 classes: they must agree"),
    "no classes": ({"c_dim": 0}, "is unconditional and teacher .* has 2 classes"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_that_does_not_fit(mistake, teacher, tmp_path):
    kwargs, message = MISTAKES[mistake]
    path = write(tmp_path / "gan.pkl", **kwargs)
    with pytest.raises(RefusedError, match=message) as caught:
        building.build(config(teacher, path))
    assert "\n" not in str(caught.value)


def test_files_that_are_none(teacher, pickled, tmp_path):
    whole = pickled.read_bytes()
    for name, content, message in (
        ("missing.pkl", None, "no such file"),
        ("cut.pkl", whole[: len(whole) // 2], "cut.pkl"),
        ("hostile.pkl", b"cos\nsystem\n(S'true'\ntR.", "hostile.pkl"),
        ("empty.pkl", b"", "empty.pkl"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RefusedError, match=rf"config\.student=.*{message}") as caught:
            building.build(config(teacher, path))
        assert "\n" not in str(caught.value)
    with pytest.raises(
        ValueError, match=r"config\.student='gan': a function .*, a StyleGAN2 pickle"
    ):
        train(config(teacher, "gan"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("look", [sample, evaluate])
@pytest.mark.parametrize("source", ["initail", "no/such", "sid-cifar10"])
def test_a_source_that_is_not_there_leaves_nothing(look, source, teacher, pickled, tmp_path):
    made = config(teacher, pickled)
    made.sample.source = made.evaluate.source = source
    with pytest.raises((ValueError, FileNotFoundError), match=rf"source='?{source}'?"):
        look(made, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_released_name_is_built_without_its_file(pickled, monkeypatch):
    fetched = []

    def fetch(source, **_):
        fetched.append(source)
        return pickled

    monkeypatch.setattr(download, "fetch", fetch)
    name = "stylegan2-cifar10-32x32-cond"
    made = bases.distillation("diff_instruct")
    made.teacher, made.student = "edm-cifar10-32x32-cond-vp", name
    exp = building.build(made)
    assert sum(leaf.size for leaf in jax.tree.leaves(exp.sampled.abstract_params())) == 20_215_315
    assert fetched == []
    # Another network than the one that is known by the name is refused when it is read.
    with pytest.raises(ValueError, match=f"by this name; name {catalogue.GENERATORS[name].url}"):
        exp.networks["generator"].load()
    assert fetched == [catalogue.GENERATORS[name].url]
    assert set(exp.networks["generator"].content()) >= {"sha256", "bytes"}


def test_names_and_files_are_told_by_their_form():
    for source in ("a.pkl", "https://x/y.pkl", "a.pkl#sha256=00", *catalogue.GENERATORS):
        assert generators.is_one(source)
    for source in ("", "digits", "my_gan:faces", "folder", "a.pkl/network"):
        assert not generators.is_one(source)
