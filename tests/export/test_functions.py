"""Students as functions of arrays, in processes that know nothing of diffjax."""

import hashlib
import json
import os
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from diffjax import models
from diffjax.export import __main__ as command
from diffjax.export import function, onnx_file, packages
from diffjax.models import network_folder
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.models.generator import DenoiserGenerator
from diffjax.models.model_card import ModelCard
from diffjax.runs import students, user_function
from tests.export import conftest
from tests.support import dit_cases, golden_cases, my_teacher, stylegan2_cases
from tests.support.stylegan2_cases import pickle_of

MODULE = "tests.support.my_teacher"
SIT = {
    "class_name": "SiT",
    **{"img_resolution": 8, "img_channels": 1, "label_dim": 3, "patch_size": 2},
    **{"hidden_size": 16, "depth": 2, "num_heads": 2},
}
# The script of the guide, with an import hook that lets nothing of diffjax's packages in.
ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("diffjax", "flax", "chex", "orbax", "optax"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import jax
import numpy as np
from jax import export

with open("student.stablehlo", "rb") as file:
    student = export.deserialize(bytearray(file.read()))
print(student.platforms)
z = np.load("z.npy")
for batch in (5, 2):
    classes = np.arange(batch, dtype=np.int32) % 3
    np.save(f"samples{batch}.npy", student.call(z[:batch], classes))
"""


def run_export(source, output, form="stablehlo", *flags):
    arguments = [f"--source={source}", f"--format={form}", f"--output={output}", *flags]
    return command.main(arguments)


def opened(path):
    return export.deserialize(bytearray(path.read_bytes()))


def test_a_student_runs_where_there_is_only_jax(run, expected, z, tmp_path):
    assert run_export(run, tmp_path / "student.stablehlo") == 0
    np.save(tmp_path / "z.npy", z)
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "('cpu', 'cuda', 'tpu')"
    for batch in (5, 2):
        found = np.load(tmp_path / f"samples{batch}.npy")
        assert found.dtype == np.float32
        wanted = expected(z[:batch], np.arange(batch) % 3)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert np.std(found) > 0.1


def test_its_card_says_what_it_takes_and_of_what_it_was_made(run, tmp_path):
    assert run_export(run, tmp_path / "s.stablehlo") == 0
    text = (tmp_path / "s.stablehlo.json").read_text()
    card = json.loads(text)
    assert [tuple(each.values()) for each in card["function"]["inputs"]] == [
        ("z", [8, 8, 1], "float32", "independent draws of N(0, 1)"),
        ("class", [], "int32", "class, 0 to 2"),
    ]
    assert card["function"]["output"]["shape"] == [8, 8, 1]
    assert card["function"]["output"]["holds"].endswith("units, images in [-1, 1]")
    assert card["network"]["init_sigma"] == 2.5
    assert card["network"]["classes"] == [0, 2]
    assert card["teacher"]["name"] == "edm-cifar10-32x32-cond-vp"
    assert "CC BY-NC-SA 4.0" in card["teacher"]["licence"]
    assert [each["fd"] for each in card["measures"]] == [2.5]  # the teacher's is another network's
    assert card["trained"] == {"step": 9, "kimg": 1.0}
    assert card["config"]["evaluate"]["reference"] == "images"
    assert "somebody" not in text
    content = (tmp_path / "s.stablehlo").read_bytes()
    assert card["file"]["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("teacher", "student"),
    [("points", ""), ("of_classes", ""), ("of_pairs", ""), ("points", "small")],
)
def test_users_students_take_what_their_laws_draw(teacher, student, tmp_path):
    names = [f"{MODULE}:{each}" if each else "" for each in (teacher, student)]
    network = conftest.save_record(tmp_path / "network", *names)
    assert run_export(tmp_path / "network", tmp_path / "s") == 0
    function = opened(tmp_path / "s")
    key = jax.random.key(3)
    model, cond = network.model, getattr(my_teacher, teacher)().cond
    if student:
        z = model.latent(key, 4)
        wanted = model(model.init(key), z)
    else:
        z = jax.random.normal(key, (4, 2))
        drawn = None if cond is None else cond(key, 4)
        generator = DenoiserGenerator(model, conftest.SIGMA)
        wanted = generator(model.init(key), z, labels=drawn)
    given = () if cond is None else (cond(key, 4),)
    if teacher == "of_classes":
        given = (given[0].argmax(axis=1).astype(jnp.int32),)
    np.testing.assert_allclose(function.call(z, *given), wanted, atol=1e-5)
    inputs = json.loads((tmp_path / "s.json").read_text())["function"]["inputs"]
    found = {each["name"]: each["holds"] for each in inputs}
    assert (
        list(found)
        == {
            "": ["z"],
            "of_classes": ["z", "class"],
            "of_pairs": ["z", "condition/class", "condition/width"],
            "small": ["z/u"],
        }[student or {"points": ""}.get(teacher, teacher)]
    )
    assert ("N(0, 1)" in next(iter(found.values()))) == (not student)


def test_a_pickled_gans_latents_are_a_tree_of_normal_arrays(tmp_path):
    own = {**stylegan2_cases.KWARGS, "img_channels": 1, "c_dim": 2}
    pickle = tmp_path / "gan.pkl"
    pickle.write_bytes(pickle_of(own, stylegan2_cases.network(own)[2]))
    size = own["img_resolution"]
    kwargs = conftest.KWARGS | {"img_resolution": size, "label_dim": 2, "attn_resolutions": []}
    conftest.save(tmp_path / "teacher", kwargs)
    network = conftest.save_record(tmp_path / "network", str(tmp_path / "teacher"), str(pickle))
    pickle.unlink()  # which isn't needed any more
    assert run_export(tmp_path / "network", tmp_path / "s") == 0
    model, key = network.model, jax.random.key(3)
    z, classes = model.latent(key, 3), np.array([0, 1, 1], np.int32)
    wanted = jax.jit(model)(model.init(key), z, labels=jax.nn.one_hot(classes, 2))
    np.testing.assert_allclose(opened(tmp_path / "s").call(z, classes), wanted, atol=1e-5)
    inputs = json.loads((tmp_path / "s.json").read_text())["function"]["inputs"]
    assert {each["holds"] for each in inputs[:-1]} == {"independent draws of N(0, 1)"}
    assert len(inputs) > 3


def test_a_batch_can_be_fixed(tmp_path, monkeypatch, capsys):
    def counting(teacher):
        made = my_teacher.small(teacher)

        def generate(params, z, cond):
            return made.generate(params, z, cond) + jnp.zeros((int(z["u"].shape[0]), 2))

        return models.Generator(generate, made.params, made.latent)

    monkeypatch.setattr(my_teacher, "counting", counting, raising=False)
    conftest.save_record(tmp_path / "network", f"{MODULE}:points", f"{MODULE}:counting")
    assert run_export(tmp_path / "network", tmp_path / "s") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--batch_size=16" in error
    assert not (tmp_path / "s").exists()
    assert run_export(tmp_path / "network", tmp_path / "s", "stablehlo", "--batch_size=4") == 0
    z = my_teacher.small(None).latent(jax.random.key(0), 4)
    assert opened(tmp_path / "s").call(z).shape == (4, 2)


class Pair(NamedTuple):
    a: jax.Array
    b: jax.Array


@pytest.mark.parametrize(
    ("said", "law"),
    [
        ("held in a Pair", lambda key, n: Pair(jnp.ones((n, 2)), jnp.ones((n, 2)))),
        ("random keys", lambda key, n: {"noise": jax.random.split(key, n)}),
    ],
)
def test_latents_that_no_file_can_take_are_refused(said, law, tmp_path, monkeypatch, capsys):
    def odd(teacher):
        return models.Generator(
            lambda p, z, c: jnp.zeros((len(jax.tree.leaves(z)[0]), 2)) + p, jnp.ones(2), law
        )

    monkeypatch.setattr(my_teacher, "odd", odd, raising=False)
    conftest.save_record(tmp_path / "network", f"{MODULE}:points", f"{MODULE}:odd")
    assert run_export(tmp_path / "network", tmp_path / "s") == 2
    assert said in capsys.readouterr().err


def test_a_package_that_is_missing_is_named_with_its_command():
    with pytest.raises(user_function.RefusedError, match=r"needs no_such.*pip install 'x\[y\]'"):
        packages.check("--format=z", "json", "no_such", install="x[y]")


def two_steps(folder, kwargs):
    """A student of two steps in a folder: its latents and classes, and its own samples."""
    model = from_edm_kwargs(kwargs)
    own = dit_cases if kwargs["class_name"] == "SiT" else golden_cases
    params = own.weights(model)
    card = ModelCard("student", "sid", conftest.SIGMA, 2, sigmas=(conftest.SIGMA, 1.25))
    network_folder.save_denoiser(folder, kwargs, params, card=card)
    generator = students.of_card(model, conftest.SIGMA, card.sigmas)
    z, classes = generator.latent(jax.random.key(3), 5), np.arange(5, dtype=np.int32) % 3
    labels = jax.nn.one_hot(classes, 3)
    return (z, classes), jax.jit(generator)(params, z, labels=labels)


def test_a_card_does_not_call_latents_images(tmp_path):
    kwargs = {"class_name": "Precond", "img_resolution": 4, "img_channels": 4}
    kwargs |= {"model_channels": 4, "channel_mult": [1], "num_blocks": 0, "logvar_channels": 4}
    params = from_edm_kwargs(kwargs).init(jax.random.key(0))
    card = ModelCard("student", "sid", conftest.SIGMA, 1)
    network_folder.save_denoiser(tmp_path / "network", kwargs, params, card=card)
    assert run_export(tmp_path / "network", tmp_path / "s") == 0
    output = json.loads((tmp_path / "s.json").read_text())["function"]["output"]
    assert output["holds"] == "samples in the teacher's units, latents of its autoencoder"


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["ours", "points", "of_pairs", "small", "two steps", "two steps of SiT"]
)
def test_onnx_gives_the_same_samples(kind, run, expected, z, tmp_path):
    pytest.importorskip("jax2onnx", reason="jax2onnx isn't installed: pip install 'diffjax[onnx]'")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime isn't installed")
    key, source = jax.random.key(3), run
    if kind == "ours":
        classes = np.arange(5, dtype=np.int32) % 3
        arguments, wanted = (z, classes), expected(z, classes)
    elif kind.startswith("two steps"):
        source = tmp_path / "network"
        arguments, wanted = two_steps(source, SIT if "SiT" in kind else conftest.KWARGS)
    else:
        source = tmp_path / "network"
        teacher = f"{MODULE}:{'points' if kind == 'small' else kind}"
        student = f"{MODULE}:small" if kind == "small" else ""
        model = conftest.save_record(source, teacher, student).model
        if student:
            arguments = (model.latent(key, 4),)
            wanted = model(model.init(key), *arguments)
        else:
            cond = () if model.cond is None else (model.cond(key, 4),)
            arguments = (jax.random.normal(key, (4, 2)), *cond)
            generator = DenoiserGenerator(model, conftest.SIGMA)
            wanted = generator(model.init(key), arguments[0], labels=cond[0] if cond else None)
    assert run_export(source, tmp_path / "s.onnx", "onnx") == 0
    session = runtime.InferenceSession(tmp_path / "s.onnx")
    inputs = json.loads((tmp_path / "s.onnx.json").read_text())["function"]["inputs"]
    names = [each["name"] for each in inputs]
    assert [each.name for each in session.get_inputs()] == names
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(arguments)]
    for batch in (len(leaves[0]), 2):
        feed = {name: leaf[:batch] for name, leaf in zip(names, leaves, strict=True)}
        (found,) = session.run(None, feed)
        print(kind, batch, abs(found - np.asarray(wanted)[:batch]).max())
        np.testing.assert_allclose(found, wanted[:batch], atol=1e-5)


def test_a_file_that_no_runtime_opens_is_not_written(tmp_path):
    pytest.importorskip("jax2onnx", reason="jax2onnx isn't installed: pip install 'diffjax[onnx]'")
    half = jnp.ones((2, 2), jnp.float16)  # which JAX multiplies with float32 as it is
    form = jax.ShapeDtypeStruct((2,), jnp.float32)
    inputs = (function.Input("z", (2,), "float32", ""),)
    student = function.Function(lambda z: z @ half, (form,), inputs, (2,))
    with pytest.raises(
        user_function.RefusedError, match=r"jax2onnx can't write this student .*inconsistent type"
    ):
        onnx_file.write(tmp_path / "s.onnx", student)
    assert not list(tmp_path.iterdir())
