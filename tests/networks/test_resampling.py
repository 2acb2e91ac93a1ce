"""Resampling and its gradient against the sums that define it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks.resampling import downsample, upsample

TAPS = [(1, 1), (1, 3, 3, 1)]


def upsampling_matrix(size, taps):
    """out[j] = 2 Σ_i f[j + p − 2i] x[i]."""
    f = np.asarray(taps) / np.sum(taps)
    place = np.arange(2 * size)[:, None] + (len(f) - 1) // 2 - 2 * np.arange(size)
    inside = (place >= 0) & (place < len(f))
    return np.where(inside, 2 * f[np.clip(place, 0, len(f) - 1)], 0)


def downsampling_matrix(size, taps):
    """out[i] = Σ_k f[k] x[2i + k − p]."""
    return upsampling_matrix(size // 2, taps).T / 2


def applied(rows, columns, x):
    return np.einsum("ph,bhwc,qw->bpqc", rows, x, columns)


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize(
    ("resample", "matrix"), [(upsample, upsampling_matrix), (downsample, downsampling_matrix)]
)
def test_value_and_gradient(resample, matrix, taps):
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 3))
    rows, columns = matrix(4, taps), matrix(6, taps)
    wanted = applied(rows, columns, x)
    out, pull = jax.vjp(lambda x: resample(x, taps), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(out, wanted, atol=1e-6)
    cotangent = np.random.default_rng(1).standard_normal(wanted.shape)
    (gradient,) = pull(jnp.asarray(cotangent, jnp.float32))
    np.testing.assert_allclose(gradient, applied(rows.T, columns.T, cotangent), atol=1e-5)


def test_a_pixel_repeated_has_one_rounding_in_its_gradient():
    """Sums of four in half precision, taken one by one, would lose the small terms."""
    _, pull = jax.vjp(lambda x: upsample(x, (1, 1)), jnp.zeros((1, 1, 1, 1), jnp.bfloat16))
    cotangent = jnp.asarray([[256.0, 1.0], [1.0, 1.0]], jnp.bfloat16).reshape(1, 2, 2, 1)
    assert float(pull(cotangent)[0].item()) == float(jnp.bfloat16(259.0))
    assert float(jnp.bfloat16(259.0)) != 256.0
