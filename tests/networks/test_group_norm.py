"""Group norm's own gradient against plain arithmetic in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks.dropout import dropout, seeds
from diffjax.networks.group_norm import group_norm

EPS = 1e-5


def plain(x, scale, bias, shift, groups, silu):
    """The definition, by NumPy's rules of broadcasting."""

    def over_pixels(term):
        return jnp.expand_dims(jnp.atleast_2d(term), tuple(range(1, x.ndim - 1)))

    grouped = (x + over_pixels(shift)).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    normalised = centred / jnp.sqrt(jnp.square(centred).mean((1, 3), keepdims=True) + EPS)
    out = normalised.reshape(x.shape) * over_pixels(scale) + over_pixels(bias)
    return jax.nn.silu(out) if silu else out


def arguments(shape, per_example, mean=0.0):
    keys = jax.random.split(jax.random.key(0), 5)
    channels = shape[-1:] if not per_example else (shape[0], shape[-1])
    x = jax.random.normal(keys[0], shape) * 2 + mean
    return x, *(jax.random.normal(key, channels) for key in keys[1:4])


def relative_error(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_value_and_gradients(rate, mean, per_example, silu):
    x, scale, bias, shift = arguments((3, 5, 7, 24), per_example, mean)
    cotangent = jax.random.normal(jax.random.key(1), x.shape)
    key = jax.random.key(2)
    kept = np.asarray(dropout(jnp.ones(x.shape), rate, seeds(key, 1)[0])) != 0
    settings = {
        "groups": 6,
        "eps": EPS,
        "silu": silu,
        "dropout_rate": rate,
        "dropout_seed": seeds(key, 1)[0],
    }

    def ours(x, scale, bias, shift):
        out = group_norm(x, scale, bias, shift=shift, **settings)
        return (out * cotangent).sum(), out

    def theirs(x, scale, bias, shift):
        out = plain(x, scale, bias, shift, 6, silu) * kept / (1 - rate)
        return (out * cotangent).sum(), out

    got, out = jax.grad(ours, (0, 1, 2, 3), has_aux=True)(x, scale, bias, shift)
    with jax.enable_x64(True):
        double = [jnp.asarray(np.asarray(term, np.float64)) for term in (x, scale, bias, shift)]
        wanted, out_wanted = jax.grad(theirs, (0, 1, 2, 3), has_aux=True)(*double)
    # float32 has 7 digits, of which a mean of 100 takes up to 2.
    bound = 1e-6 if mean == 0 else 2e-5
    assert relative_error(out, out_wanted) < bound
    for mine, other in zip(got, wanted, strict=True):
        assert mine.shape == other.shape
        assert relative_error(mine, other) < bound


def test_precision_of_bfloat16():
    x, scale, bias, shift = arguments((2, 8, 8, 32), per_example=True)
    out = group_norm(x.astype(jnp.bfloat16), scale, bias, groups=8, shift=shift, silu=True)
    assert out.dtype == jnp.bfloat16
    wanted = plain(x.astype(jnp.bfloat16).astype(jnp.float32), scale, bias, shift, 8, True)
    assert relative_error(out.astype(jnp.float32), wanted) < 2**-8


def test_a_group_without_variance_is_the_bias():
    out = group_norm(jnp.full((1, 4, 4, 8), 7.0), jnp.ones(8), jnp.full(8, 0.5), groups=2)
    np.testing.assert_allclose(out, 0.5, atol=1e-6)
