"""A DiT as others write it in Flax NNX: a module that is called with x, t and y.

`config.teacher = "tests.support.nnx_dit:teacher"` distils it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffjax import models

SIZE, CHANNELS, CLASSES, PATCH, WIDTH, DEPTH, HEADS = 4, 4, 3, 2, 16, 2, 2
ROWS = SIZE // PATCH


def modulate(x, shift, scale):
    return x * (1 + scale[:, None]) + shift[:, None]


def norm(rngs):
    return nnx.LayerNorm(WIDTH, epsilon=1e-6, use_bias=False, use_scale=False, rngs=rngs)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm1, self.norm2 = norm(rngs), norm(rngs)
        self.qkv = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs)
        self.proj = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)
        self.modulation = nnx.Linear(WIDTH, 6 * WIDTH, rngs=rngs)

    def __call__(self, x, c):
        parts = jnp.split(self.modulation(nnx.silu(c)), 6, axis=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        qkv = self.qkv(modulate(self.norm1(x), shift1, scale1))
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, HEADS, -1), 2, 0)
        attended = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        x = x + gate1[:, None] * self.proj(attended)
        hidden = nnx.gelu(self.up(modulate(self.norm2(x), shift2, scale2)))
        return x + gate2[:, None] * self.down(hidden)


class DiT(nnx.Module):
    def __init__(self, rngs):
        self.patches = nnx.Linear(PATCH * PATCH * CHANNELS, WIDTH, rngs=rngs)
        self.time1 = nnx.Linear(256, WIDTH, rngs=rngs)
        self.time2 = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.classes = nnx.Embed(CLASSES + 1, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(DEPTH)])
        self.norm = norm(rngs)
        self.modulation = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.out = nnx.Linear(WIDTH, PATCH * PATCH * CHANNELS, rngs=rngs)
        self.positions = nnx.Variable(sines())  # of no kind that is trained

    def __call__(self, x, t, y):
        """Predict the velocity [B, H, W, C] at x [B, H, W, C], times t [B], classes y [B]."""
        x = x.reshape(-1, ROWS, PATCH, ROWS, PATCH, CHANNELS).swapaxes(2, 3)
        x = self.patches(x.reshape(len(t), ROWS**2, -1)) + self.positions[...]
        phases = t[:, None] * jnp.exp(-np.log(1e4) * jnp.arange(128) / 128)
        features = jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=-1)
        c = self.time2(nnx.silu(self.time1(features))) + self.classes(y)
        for block in self.blocks:
            x = block(x, c)
        shift, scale = jnp.split(self.modulation(nnx.silu(c)), 2, axis=-1)
        x = self.out(modulate(self.norm(x), shift, scale))
        x = x.reshape(-1, ROWS, ROWS, PATCH, PATCH, CHANNELS).swapaxes(2, 3)
        return x.reshape(-1, SIZE, SIZE, CHANNELS)


def sines():
    def of_axis(places):
        phases = np.outer(places, 1e4 ** -(np.arange(WIDTH // 4) / (WIDTH // 4)))
        return np.concatenate([np.sin(phases), np.cos(phases)], axis=1)

    row, column = np.divmod(np.arange(ROWS**2), ROWS)
    return jnp.asarray(np.concatenate([of_axis(column), of_axis(row)], axis=1), jnp.float32)


def record(model, data_at=0):
    """The teacher of a model that was trained on straight lines."""
    process = models.Process.rectified_flow(data_at)
    net, params = models.from_nnx(model)
    return models.Teacher(
        process.denoiser(net, "velocity"),
        params,
        shape=(SIZE, SIZE, CHANNELS),
        sigma_data=0.9,
        sigma_min=0.005,
        sigma_max=80.0,
        cond=models.uniform(CLASSES),
        process=process,
    )


def teacher():
    return record(DiT(nnx.Rngs(0)))
