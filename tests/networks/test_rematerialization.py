"""Blocks computed twice: the same gradients, and little kept for them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.models.denoiser import from_edm_kwargs

RESOLUTION = 8


def a_loss(model_type, rematerialize):
    denoiser = from_edm_kwargs(
        {
            "class_name": "EDMPrecond",
            "model_type": model_type,
            "img_resolution": RESOLUTION,
            "img_channels": 3,
            "model_channels": 16,
            "channel_mult": (1,),
            "num_blocks": 1,
            "attn_resolutions": (RESOLUTION,),
            "dropout": 0.2,
        },
        rematerialize=rematerialize,
    )
    x = jax.random.normal(jax.random.key(1), (4, RESOLUTION, RESOLUTION, 3))

    def loss(params):
        denoised = denoiser(params, x, jnp.ones(4), train=True, rng=jax.random.key(2))
        return jnp.square(denoised - x).sum()

    return denoiser, loss


def bytes_kept(loss, params):
    """Of what a forward pass leaves for the backward pass."""
    kept = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


@pytest.mark.parametrize("model_type", ["SongUNet", "DhariwalUNet"])
def test_same_gradients_and_less_is_kept(model_type):
    denoiser, plain = a_loss(model_type, rematerialize=False)
    again_denoiser, again = a_loss(model_type, rematerialize=True)
    params = jax.jit(denoiser.init)(jax.random.key(0))
    assert jax.tree.structure(params) == jax.tree.structure(again_denoiser.abstract_params())
    # Last layers start at zero, behind which gradients would be.
    random = np.random.RandomState(3)
    params = jax.tree.map(lambda leaf: leaf + 0.05 * random.standard_normal(leaf.shape), params)
    params = jax.tree.map(jnp.float32, params)
    assert bytes_kept(again, params) < 0.6 * bytes_kept(plain, params)
    wanted, got = jax.jit(jax.grad(plain))(params), jax.jit(jax.grad(again))(params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("model_type", ["SongUNet", "DhariwalUNet"])
def test_nothing_is_kept_in_two_shapes(model_type):
    denoiser, loss = a_loss(model_type, rematerialize=False)
    jaxpr = jax.make_jaxpr(lambda params: jax.vjp(loss, params)[1])(denoiser.abstract_params())
    made_by = {out: equation for equation in jaxpr.jaxpr.eqns for out in equation.outvars}

    def origin(value):
        while value in made_by and made_by[value].primitive.name == "reshape":
            (value,) = made_by[value].invars
        return value

    large = [out for out in jaxpr.jaxpr.outvars if out.aval.size >= 4 * RESOLUTION**2 * 16]
    assert len(large) > 10
    assert len({origin(out) for out in large}) == len(large)
