"""A text-like conditional model: tokens by cross-attention, from a file of embeddings.

`config.teacher = "tests.support.captions:teacher"`; the file's path is $CAPTIONS.
"""

import os

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from diffjax import models

SHAPE, TOKENS, WIDTH, ROWS = (4, 4, 1), 5, 8, 6


def write(path, seed=0):
    """Six captions as a text encoder leaves them: tokens of several lengths, and a summary."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, TOKENS + 1, ROWS)
    np.savez(
        path,
        **{
            "text/tokens": rng.standard_normal((ROWS, TOKENS, WIDTH)),
            "text/mask": np.arange(TOKENS) < lengths[:, None],
            "pooled": rng.standard_normal((ROWS, WIDTH)).astype(np.float16),
        },
    )


class Network(nn.Module):
    """The velocity of pixels that look at tokens."""

    @nn.compact
    def __call__(self, x, t, cond):
        pixels = nn.Dense(16)(x.reshape(len(x), -1, SHAPE[-1]))
        summary = nn.Dense(16)(cond["pooled"].astype(jnp.float32))
        pixels = pixels + (summary + nn.Dense(16)(t[:, None]))[:, None]
        mask = cond["text"]["mask"][:, None, None, :]
        attention = nn.MultiHeadDotProductAttention(2, qkv_features=16)
        pixels = pixels + attention(pixels, cond["text"]["tokens"], mask=mask)
        return nn.Dense(SHAPE[-1])(nn.silu(pixels)).reshape(x.shape)


def teacher():
    law = models.from_file(os.environ["CAPTIONS"])
    network, process = Network(), models.Process.rectified_flow()
    like = law(np.array([0, 0], np.uint32), 1)
    params = network.init(np.array([0, 1], np.uint32), jnp.zeros((1, *SHAPE)), jnp.zeros(1), like)
    net, params = models.from_linen(network, params)
    return models.Teacher(
        process.denoiser(net, "velocity"), params, SHAPE, 0.5, 0.005, 80.0, cond=law
    )
