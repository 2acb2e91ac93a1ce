"""Signals of 64 values: a plain function that predicts the data, over a variance-exploding process.

    python examples/signals.py     # trains it, a minute on two CPU cores

`config.teacher = "signals:teacher"` then distils it.
"""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffjax import models

WEIGHTS = Path(__file__).with_suffix(".npz")
LENGTH = 64
SIGMA_DATA = 2.85
PROCESS = models.Process.ve(0.1, 100.0)  # x_t = x0 + 0.1 * 1000**t * eps


def data(key: jax.Array, count: int) -> jax.Array:
    """Draw sine waves [count, 64] with amplitudes of 3 to 5, one to three periods, any phase."""
    keys = jax.random.split(key, 3)
    amplitude = jax.random.uniform(keys[0], (count, 1), minval=3.0, maxval=5.0)
    periods = jax.random.uniform(keys[1], (count, 1), minval=1.0, maxval=3.0)
    phase = jax.random.uniform(keys[2], (count, 1), maxval=2 * jnp.pi)
    return amplitude * jnp.sin(2 * jnp.pi * periods * jnp.arange(LENGTH) / LENGTH + phase)


def reference(count: int, seed: int) -> jax.Array:
    """Draw the data that samples are compared with."""
    return data(jax.random.key(seed), count)


def init(width: int = 256) -> dict:
    """Make the parameters of an MLP with three hidden layers."""
    sizes = [LENGTH + 16, width, width, width, LENGTH]
    draw = np.random.default_rng(0).standard_normal
    shapes = enumerate(itertools.pairwise(sizes))
    weights = {f"w{i}": draw((n, m), np.float32) / np.float32(n**0.5) for i, (n, m) in shapes}
    return weights | {f"b{i}": np.zeros(m, np.float32) for i, m in enumerate(sizes[1:])}


def network(params: dict, x: jax.Array, t: jax.Array, cond: None = None) -> jax.Array:
    """Predict the signals in noisy ones [B, 64] at times [B]."""
    angle = t[:, None] * jnp.arange(1, 9) * jnp.pi / 2
    total = jnp.sqrt(PROCESS.s(t) ** 2 + SIGMA_DATA**2)[:, None]
    h = jnp.concatenate([x / total, jnp.sin(angle), jnp.cos(angle)], axis=1)
    for i in range(3):
        h = jax.nn.silu(h @ params[f"w{i}"] + params[f"b{i}"])
    return SIGMA_DATA * (h @ params["w3"] + params["b3"])


def train(steps: int = 5000, batch: int = 256) -> None:
    """Train by the squared error of the data, weighted, and write the weights."""
    params = init()
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))

    @jax.jit
    def step(params: dict, state: optax.OptState, key: jax.Array) -> tuple:
        keys = jax.random.split(key, 3)
        x, eps = data(keys[0], batch), jax.random.normal(keys[1], (batch, LENGTH))
        t = jax.random.uniform(keys[2], (batch,))
        s = PROCESS.s(t)[:, None]
        weight = 1 / s + 1 / SIGMA_DATA
        loss = lambda p: jnp.mean(weight * (network(p, x + s * eps, t) - x) ** 2)  # noqa: E731
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for i in range(steps):
        params, state = step(params, state, jax.random.key(i))
    np.savez(WEIGHTS, **params)


def teacher() -> models.Teacher:
    """Read the trained network, as diffjax takes it."""
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"{WEIGHTS} isn't there; make it: python {__file__}")
    net, params = models.from_function(network, dict(np.load(WEIGHTS)))
    return models.Teacher(
        PROCESS.denoiser(net, "x0"),
        params,
        shape=(LENGTH,),
        sigma_data=SIGMA_DATA,
        sigma_min=0.2,
        sigma_max=100.0,
        process=PROCESS,
    )


if __name__ == "__main__":
    train()
