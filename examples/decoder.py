"""A decoder of eight latents as the student of the signals' teacher: plain functions.

    python examples/signals.py     # trains that teacher, a minute on two CPU cores

`config.student = "decoder:generator"` then trains it from fresh weights, without any signal.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import models


def latent(key: jax.Array, batch: int) -> dict:
    """Draw what a signal may be made of: a phase, uniform on a circle, and a few normals."""
    angle, normal = jax.random.split(key)
    turn = 2 * jnp.pi * jax.random.uniform(angle, (batch,))
    phase = jnp.stack([jnp.cos(turn), jnp.sin(turn)], axis=1)
    return {"phase": phase, "shape": models.normal(6)(normal, batch)}


def init(length: int, width: int = 256) -> dict:
    """Make the parameters of an MLP from 8 latents to `length` values."""
    sizes = [8, width, width, width, length]
    draw = np.random.default_rng(1).standard_normal
    shapes = enumerate(itertools.pairwise(sizes))
    weights = {f"w{i}": draw((n, m), np.float32) / np.float32(n**0.5) for i, (n, m) in shapes}
    return weights | {f"b{i}": np.zeros(m, np.float32) for i, m in enumerate(sizes[1:])}


def generator(teacher: models.Teacher) -> models.Generator:
    """Make the decoder, whose output is in units of the teacher's data."""

    def decode(params: dict, z: dict, cond: None) -> jax.Array:
        h = jnp.concatenate([z["phase"], z["shape"]], axis=1)
        for i in range(3):
            h = jax.nn.silu(h @ params[f"w{i}"] + params[f"b{i}"])
        return teacher.sigma_data * (h @ params["w3"] + params["b3"])

    return models.Generator(decode, init(*teacher.shape), latent)
