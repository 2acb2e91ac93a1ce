"""A spiral by a scheduler's table of betas, as a `scheduler_config.json` describes it.

    python examples/betas.py     # trains it, half a minute on two CPU cores

`config.teacher = "betas:teacher"` then distils it.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, serialization

from diffjax import models

WEIGHTS = Path(__file__).with_suffix(".msgpack")
SCHEDULER = {  # scaled_linear, v_prediction
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
ENDS = SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5
PROCESS = models.Process.ddpm(np.linspace(*ENDS, SCHEDULER["num_train_timesteps"]) ** 2)


def data(key: jax.Array, count: int) -> jax.Array:
    """Draw points [count, 2] of a spiral of one and a half turns."""
    place, noise = jax.random.split(key)
    angle = 3 * jnp.pi * jnp.sqrt(jax.random.uniform(place, (count, 1)))
    spiral = angle / 4 * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
    spiral -= jnp.array([-0.11, 0.47])  # their mean
    return spiral + 0.05 * jax.random.normal(noise, (count, 2))


def reference(count: int, seed: int) -> jax.Array:
    """Draw the data that samples are compared with."""
    return data(jax.random.key(seed), count)


class Network(nnx.Module):
    """MLP of noisy points [B, 2] and integer times [B]."""

    def __init__(self, width: int = 128, *, rngs: nnx.Rngs):
        layers = [nnx.Linear(2 + 16, width, rngs=rngs), nnx.silu]
        for _ in range(3):
            layers += [nnx.Linear(width, width, rngs=rngs), nnx.silu]
        self.layers = nnx.Sequential(*layers, nnx.Linear(width, 2, rngs=rngs))

    def __call__(self, x: jax.Array, t: jax.Array, cond: None = None) -> jax.Array:
        """Predict v = a eps - s x0, [B, 2]."""
        angle = t[:, None] / 1000 * jnp.arange(1, 9) * jnp.pi / 2
        return self.layers(jnp.concatenate([x, jnp.sin(angle), jnp.cos(angle)], axis=1))


def train(steps: int = 10_000, batch: int = 512) -> None:
    """Train by the mean squared error of v, and write the weights."""
    model = Network(rngs=nnx.Rngs(0))
    adam = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    optimizer = nnx.Optimizer(model, adam, wrt=nnx.Param)

    @nnx.jit
    def step(model: Network, optimizer: nnx.Optimizer, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        x, eps = data(keys[0], batch), jax.random.normal(keys[1], (batch, 2))
        t = jax.random.randint(keys[2], (batch,), 0, 1000)
        a, s = PROCESS.a(t)[:, None], PROCESS.s(t)[:, None]
        x_t, v = a * x + s * eps, a * eps - s * x
        optimizer.update(model, nnx.grad(lambda m: jnp.mean((m(x_t, t) - v) ** 2))(model))

    for i in range(steps):
        step(model, optimizer, jax.random.key(i))
    WEIGHTS.write_bytes(serialization.msgpack_serialize(nnx.to_pure_dict(nnx.state(model))))


def teacher() -> models.Teacher:
    """Read the trained network, as diffjax takes it."""
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"{WEIGHTS} isn't there; make it: python {__file__}")
    model = Network(rngs=nnx.Rngs(0))
    nnx.update(model, serialization.msgpack_restore(WEIGHTS.read_bytes()))
    net, params = models.from_nnx(model)
    return models.Teacher(
        PROCESS.denoiser(net, "v"), params, (2,), 1.16, 0.08, 14.6, process=PROCESS
    )


if __name__ == "__main__":
    train()
