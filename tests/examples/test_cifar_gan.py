"""The GAN of CIFAR-10: its networks at full size, by shapes, and its training in miniature, slow.

`python -m pytest -m slow tests/examples/test_cifar_gan.py` took 63 s on two busy cores,
2026-11-28.
"""

import importlib
import io
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from PIL import Image

from diffjax.models import contract
from diffjax.models.conditions import one_hot
from diffjax.models.generator import checked_generator
from diffjax.models.teacher import Teacher
from diffjax.runs import config_file, user_function

TEACHER = Teacher(lambda p, y, s, c: y, {}, (32, 32, 3), 0.5, 0.002, 80.0, cond=one_hot(10))


@pytest.fixture
def module(folder):
    return importlib.import_module("cifar_gan")


def weights(module, channels, value=None):
    net = module.network(channels)
    draw = np.random.default_rng(0).standard_normal
    return jax.tree.map(
        lambda leaf: (
            np.full(leaf.shape, value, np.float32)
            if value is not None
            else draw(leaf.shape).astype(np.float32)
        ),
        net.abstract_variables(),
    )


def test_the_generator_fits_a_teacher_of_cifar10(module, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / "cifar_gan.msgpack")
    with pytest.raises(FileNotFoundError, match=r"make it: python .*cifar_gan\.py --data="):
        module.generator(TEACHER)
    for channels, count in ((8, None), (128, 4_224_915)):
        variables = weights(module, channels)
        module.WEIGHTS.write_bytes(serialization.msgpack_serialize(variables))
        student = checked_generator(module.generator(TEACHER), "cifar_gan:generator")
        contract.check_generator(student, TEACHER, "cifar_gan:generator", "teacher")
        own = sum(leaf.size for leaf in jax.tree.leaves(student.params["params"]))
        assert count in (None, own)


def test_the_discriminator_judges_classes_and_has_gradients_where_images_are_equal(module):
    judge = module.Discriminator(channels=8)
    x, c = jnp.zeros((8, 32, 32, 3)), jnp.eye(10)[:8]
    params = jax.jit(judge.init)(jax.random.key(0), x, c)
    logits, gradient = jax.jit(jax.value_and_grad(lambda p: judge.apply(p, x, c).sum()))(params)
    assert np.isfinite(logits)
    # All images are equal, so that their spread is 0, whose root has no gradient.
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    noise = jax.random.normal(jax.random.key(1), x.shape)
    judged = jax.jit(judge.apply)
    one, other = (judged(params, noise, jnp.eye(10)[i : i + 8]) for i in (0, 2))
    assert np.abs(one - other).min() > 0


def test_images_are_moved_and_not_changed(module):
    images = jnp.arange(2 * 32 * 32, dtype=jnp.float32).reshape(2, 32, 32, 1) + 1
    moved = module.moved(jax.random.key(3), images)
    for before, after in zip(np.asarray(images), np.asarray(moved), strict=True):
        seen = after[after > 0]
        assert 24 * 24 <= seen.size <= 32 * 32
        assert set(seen) <= set(before.ravel())
        steps = np.diff(after[..., 0], axis=1)[after[:, 1:, 0] > 1]
        assert np.median(steps) == 1


@pytest.mark.parametrize("method", ["diff_instruct", "sid"])
def test_the_config_names_it(method, folder):
    config = config_file.load(f"{folder}/cifar_gan_config.py:{method}")
    assert (config.method, config.student) == (method, "cifar_gan:generator")
    with pytest.raises(user_function.RefusedError, match="isn't there; make it"):
        user_function.call(config.student, TEACHER, field="config.student")


@pytest.mark.slow
def test_it_trains(module, monkeypatch, tmp_path, capsys):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        labels = []
        for number in range(10):
            buffer = io.BytesIO()
            Image.new("RGB", (32, 32), (20 * number, 0, 99)).save(buffer, "png")
            archive.writestr(f"00000/img{number}.png", buffer.getvalue())
            labels.append([f"00000/img{number}.png", number])
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / "cifar_gan.msgpack")
    monkeypatch.setattr(module, "BATCH", 8)
    monkeypatch.setattr(module, "STEPS_PER_CALL", 4)
    module.train(str(path), 0.001, channels=8)
    assert "0.0 kimg" in capsys.readouterr().out
    student = module.generator(TEACHER)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(student.params))
