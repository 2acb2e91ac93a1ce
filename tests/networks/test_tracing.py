"""Blocks that are alike are traced once, and still draw dropout masks of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.models import denoiser
from diffjax.networks import blocks as unet_blocks

MODEL_TYPES = ["SongUNet", "DhariwalUNet"]


def build(model_type, num_blocks):
    return denoiser.from_edm_kwargs(
        {
            "class_name": "EDMPrecond",
            "model_type": model_type,
            "img_resolution": 8,
            "img_channels": 1,
            "model_channels": 8,
            "channel_mult": (1,),
            "num_blocks": num_blocks,
            "attn_resolutions": (),
            "dropout": 0.4,
        }
    )


def trace_gradient(network, batch, key=None):
    """Of some loss, in training mode with a key. Shapes not met before are traced anew."""

    def loss(params, x, sigma, key):
        out = network(params, x, sigma, train=key is not None, rng=key)
        return (out**2).sum()

    x = jax.ShapeDtypeStruct((batch, 8, 8, 1), jnp.float32)
    sigma = jax.ShapeDtypeStruct((batch,), jnp.float32)
    jax.jit(jax.grad(loss)).trace(network.abstract_params(), x, sigma, key)


@pytest.fixture
def traced(monkeypatch):
    """The blocks whose Python code has run."""
    blocks, call = [], unet_blocks.UNetBlock.__call__

    def noted(self, *arguments):
        if not self.is_initializing():
            blocks.append(self)
        return call(self, *arguments)

    monkeypatch.setattr(unet_blocks.UNetBlock, "__call__", noted)
    return blocks


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_equal_blocks_are_traced_once(traced, model_type):
    trace_gradient(build(model_type, num_blocks=2), batch=11)
    few = len(traced)
    assert few > 0
    traced.clear()
    trace_gradient(build(model_type, num_blocks=6), batch=13)
    assert len(traced) == few


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_another_network_of_that_shape_is_not_traced_again(traced, model_type):
    trace_gradient(build(model_type, num_blocks=1), 17, jax.random.key(0))
    assert traced
    traced.clear()
    trace_gradient(build(model_type, num_blocks=1), 17, jax.random.key(1))
    assert not traced


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_equal_blocks_draw_masks_of_their_own(monkeypatch, model_type):
    seeds, apply = [], unet_blocks._apply_block

    def noted(block, params, x, emb, dropout_seed):
        seeds.append(tuple(np.asarray(dropout_seed).tolist()))
        return apply(block, params, x, emb, dropout_seed)

    monkeypatch.setattr(unet_blocks, "_apply_block", noted)
    network = build(model_type, num_blocks=2)
    params = network.init(jax.random.key(0))
    # Last layers start at zero, behind which no mask would show.
    params = jax.tree.map(lambda leaf: leaf + 0.05, params)
    x, sigma = jnp.ones((2, 8, 8, 1)), jnp.ones(2)
    outs = [network(params, x, sigma, train=True, rng=jax.random.key(i)) for i in (1, 1, 2)]
    blocks = sum("norm1" in part for part in params["params"].values())
    assert blocks > 4
    assert len(seeds) == 3 * blocks
    assert seeds[:blocks] == seeds[blocks : 2 * blocks]
    assert len(set(seeds)) == 2 * blocks
    np.testing.assert_array_equal(outs[0], outs[1])
    assert (outs[0] != outs[2]).any()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (jnp.zeros((2, 8, 8, 1), jnp.uint8), "x is uint8, not floats"),
        (jnp.zeros((2, 1, 8, 8)), r"x is \[2, 1, 8, 8\], not \[B, H, W, 1\]"),
    ],
)
def test_bytes_and_channels_first_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        build(MODEL_TYPES[0], 1)({}, x, jnp.ones(2))
