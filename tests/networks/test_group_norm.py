"""Group norm's own gradient, and the GPU kernels, against plain arithmetic in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import sharding
from diffjax.networks import dropout, group_norm_sums, group_norm_triton
from diffjax.networks.dropout import drop
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
def test_value_and_gradients(mean, per_example, silu):
    x, scale, bias, shift = arguments((3, 5, 7, 24), per_example, mean)
    cotangent = jax.random.normal(jax.random.key(1), x.shape)

    def ours(x, scale, bias, shift):
        out = group_norm(x, scale, bias, groups=6, eps=EPS, shift=shift, silu=silu)
        return (out * cotangent).sum(), out

    def theirs(x, scale, bias, shift):
        out = plain(x, scale, bias, shift, 6, silu)
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


# Groups of 4, of 12 (three quarters of the lanes used), of 4 in one program, and larger than a
# program's usual share.
@pytest.mark.parametrize(
    ("pixels", "channels", "groups", "silu", "rate"),
    [
        (64, 128, 32, True, 0.13),
        (16, 384, 32, True, 0.0),
        (48, 48, 12, False, 0.2),
        (8, 96, 2, True, 0.1),
    ],
)
@pytest.mark.parametrize("elements", [128, 1 << 15], ids=["many tiles", "one tile"])
def test_kernels_agree(pixels, channels, groups, silu, rate, elements):
    x, scale, bias, shift = arguments((2, pixels, channels), per_example=True, mean=3.0)
    seed = jnp.asarray([123, 456, 5], jnp.uint32)
    cotangent = jax.random.normal(jax.random.key(1), x.shape)

    def composed(x, scale, bias, shift):
        out = group_norm(x, scale, bias, groups=groups, eps=EPS, shift=shift, silu=silu)
        return drop(out, rate, seed)

    wanted, vjp = jax.vjp(composed, x, scale, bias, shift)
    settings = {"groups": groups, "silu": silu, "rate": rate, "elements": elements}
    out, centre, inverse_std, _ = group_norm_triton.forward(
        x, scale, bias, shift, seed, eps=EPS, interpret=True, **settings
    )
    dx, d_scale, d_bias = group_norm_triton.backward(
        x, cotangent, scale, bias, centre, inverse_std, seed, interpret=True, **settings
    )
    dx_wanted, d_scale_wanted, d_bias_wanted, _ = vjp(cotangent)
    assert relative_error(out, wanted) < 1e-6
    assert relative_error(dx, dx_wanted) < 1e-6
    assert relative_error(d_scale, d_scale_wanted) < 1e-6
    assert relative_error(d_bias, d_bias_wanted) < 1e-6


# All pixels in one tile; in many; a last tile that is not full; channels that no large power of two
# divides.
@pytest.mark.parametrize("shape", [(2, 16, 128), (2, 300, 64), (3, 35, 24)])
@pytest.mark.parametrize("silu", [False, True])
def test_sums_over_pixels(shape, silu):
    x, _, _, _ = arguments(shape, per_example=True, mean=3.0)
    d_out = jax.random.normal(jax.random.key(1), shape)
    terms = jax.random.normal(jax.random.key(2), (4, shape[0], shape[2]))
    seed = jnp.asarray([1, 2, 3], jnp.uint32)
    tiles = {"interpret": True, "rows": 16, "steps": 2}
    sums, squares = group_norm_sums.forward(x, terms[0], **tiles)
    difference = np.asarray(x, np.float64) - np.asarray(terms[0], np.float64)[:, None]
    assert relative_error(sums, difference.sum(1)) < 1e-6
    assert relative_error(squares, np.square(difference).sum(1)) < 1e-6
    d_bias, d_scale = group_norm_sums.backward(x, d_out, *terms, seed, silu=silu, rate=0.3, **tiles)
    scale, bias, centre, inverse_std = (term[:, None] for term in terms)
    normalised = (x - centre) * inverse_std
    slope = jax.vmap(jax.grad(jax.nn.silu))((normalised * scale + bias).ravel())
    d_affine = drop(d_out, 0.3, seed) * (slope.reshape(shape) if silu else 1.0)
    assert relative_error(d_bias, d_affine.sum(1)) < 1e-6
    assert relative_error(d_scale, (d_affine * normalised).sum(1)) < 1e-6


@pytest.fixture
def interpreted(monkeypatch):
    """The kernels by name, as JAX operations."""
    for module in (group_norm_triton, group_norm_sums):
        for name in ("forward", "backward"):
            kernel = functools.partial(getattr(module, name), interpret=True)
            monkeypatch.setattr(module, name, kernel)


def gradients(kernels, batch):
    """[value, gradients of x, scale, bias and shift], of a fixed cotangent."""
    x, scale, bias, _ = arguments((batch, 4, 4, 32), per_example=False, mean=3.0)
    shift = jax.random.normal(jax.random.key(4), (batch, 32))
    cotangent = jax.random.normal(jax.random.key(1), x.shape)

    def total(x, scale, bias, shift):
        out = group_norm(
            x,
            scale,
            bias,
            groups=8,
            shift=shift,
            silu=True,
            dropout_rate=0.2,
            dropout_key=jax.random.key(2),
            kernels=kernels,
        )
        return (out * cotangent).sum()

    value, found = jax.value_and_grad(total, (0, 1, 2, 3))(x, scale, bias, shift)
    return [value, *found]


@pytest.mark.parametrize("kernels", ["triton", "triton_sums"])
def test_kernels_by_name_have_the_same_gradients(interpreted, kernels):
    for got, wanted in zip(gradients(kernels, 2), gradients("xla", 2), strict=True):
        assert relative_error(got, wanted) < 1e-5


@pytest.mark.parametrize("kernels", ["triton", "triton_sums"])
def test_kernels_drop_the_same_where_places_come_round(interpreted, monkeypatch, kernels):
    monkeypatch.setattr(dropout, "_PLACES", 3 * 4 * 4 * 32 + 5)
    for got, wanted in zip(gradients(kernels, 7), gradients("xla", 7), strict=True):
        assert relative_error(got, wanted) < 1e-5


def test_kernels_on_several_devices_are_those_on_one(interpreted, monkeypatch):
    """Dropout's mask too, which tells the examples of one device from those of another."""
    mesh = sharding.make_mesh(data=2, fsdp=4)
    sizes = []
    forward = group_norm_triton.forward

    def watched(x, *args, **kwargs):
        sizes.append(x.shape[0])
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(group_norm_triton, "forward", watched)

    @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def on_all():
        with sharding.context(mesh):
            return gradients("triton", 16)

    for got, wanted in zip(on_all(), gradients("xla", 16), strict=True):
        assert relative_error(got, wanted) < 1e-5
    assert set(sizes) == {2}  # each device's own, of 16
