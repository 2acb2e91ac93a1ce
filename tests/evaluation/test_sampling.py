"""Batches of images, and the teacher's sampler inside `jit`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.convert import teacher
from diffjax.distributed import sharding
from diffjax.evaluation import sampling
from diffjax.models.denoiser import from_edm_kwargs


def produced(count, batch_size, asked=None):
    """Batches of images whose pixels and classes are their indices."""

    def sample(params, indices, classes):
        if asked is not None:
            asked.append(len(indices))
        return jnp.broadcast_to((indices - 127.5) / 127.5, (1, 1, 1, len(indices))).T

    return sampling.batches(
        sample, None, count, batch_size=batch_size, classes=lambda indices: indices
    )


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (10, 16), (6, 3), (6, 1)])
def test_what_was_looked_at_comes_again(count, batch_size):
    asked = []
    shown, rest = sampling.look_ahead(produced(count, batch_size, asked), 6)
    np.testing.assert_array_equal(shown.ravel(), np.arange(6))
    pictures, classes = zip(*rest, strict=True)
    np.testing.assert_array_equal(np.concatenate(classes), np.arange(count))
    np.testing.assert_array_equal(np.concatenate(pictures).ravel(), np.arange(count))
    assert asked == [batch_size] * -(-count // batch_size)  # one size, and each image once


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_cut_ends_after_so_many(count):
    batches = list(sampling.cut(produced(10, 3), count))
    np.testing.assert_array_equal(np.concatenate([c for _, c in batches]), np.arange(count))
    assert all(len(pictures) == len(classes) for pictures, classes in batches)
    assert len(batches) == -(-count // 3)


def test_conditions_are_written_as_any_numpy_reads_them(tmp_path):
    keys = jax.random.split(jax.random.key(0), 4)

    def conditions(indices):
        return {"key": keys[indices], "text": jnp.ones((len(indices), 3), jnp.bfloat16)}

    def sample(params, indices, drawn):
        return jnp.zeros((len(indices), 2))

    produced = sampling.batches(sample, None, 3, batch_size=4, classes=conditions, quantise=False)
    sampling.write_npz(tmp_path / "s.npz", produced, 3, name="condition")
    with np.load(tmp_path / "s.npz") as found:
        np.testing.assert_array_equal(found["condition/key"], jax.random.key_data(keys)[:3])
        assert found["condition/text"].dtype == np.float32
        np.testing.assert_array_equal(found["condition/text"], np.ones((3, 3)))


def test_the_teachers_sampler_inside_jit_is_one_network():
    shipped = teacher.load("digits")
    denoiser = from_edm_kwargs(shipped.init_kwargs)
    mesh = sharding.make_mesh(data=1, fsdp=1)

    def kernels(steps):
        settings = sampling.HeunSettings(steps=steps, s_churn=1.0)
        sample = sampling.heun(denoiser, settings=settings, seed=0, mesh=mesh)
        indices = jnp.arange(4)
        lowered = jax.jit(sample).lower(shipped.params, indices, indices)
        return lowered.as_text().count("stablehlo.convolution")

    assert kernels(2) == kernels(18) > 0
