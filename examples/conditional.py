"""Blobs with a class and a width: a Flax Linen network whose condition is a pytree.

    python examples/conditional.py     # trains it, half a minute on two CPU cores

`config.teacher = "conditional:teacher"` then distils it.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import serialization

from diffjax import models

WEIGHTS = Path(__file__).with_suffix(".msgpack")
CENTRES = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]], np.float32)
LAW = models.uniform({"class": 4, "width": (0.1, 0.4)})
SIGMA_DATA = 1.03


def data(key: jax.Array, cond: dict) -> jax.Array:
    """Draw a point [B, 2] for each condition: the class is its centre, the width its sd."""
    noise = jax.random.normal(key, (len(cond["class"]), 2))
    return jnp.asarray(CENTRES)[cond["class"]] + cond["width"][:, None] * noise


def reference(count: int, seed: int) -> jax.Array:
    """Draw the data that samples are compared with, of conditions drawn by the law."""
    cond_key, key = jax.random.split(jax.random.key(seed))
    return data(key, LAW(cond_key, count))


class Network(nn.Module):
    """MLP of noisy points [B, 2], noise levels [B] and conditions, with EDM's preconditioning."""

    width: int = 128

    @nn.compact
    def __call__(self, y: jax.Array, sigma: jax.Array, cond: dict) -> jax.Array:
        """Denoise, [B, 2]."""
        sigma = sigma[:, None]
        total = jnp.sqrt(sigma**2 + SIGMA_DATA**2)
        inputs = [y / total, jnp.log(sigma) / 4, 10 * (cond["width"][:, None] - 0.25)]
        h = jnp.concatenate([*inputs, nn.Embed(4, 8)(cond["class"])], axis=1)
        for _ in range(3):
            h = nn.silu(nn.Dense(self.width)(h))
        return (SIGMA_DATA / total) ** 2 * y + sigma * SIGMA_DATA / total * nn.Dense(2)(h)


def train(steps: int = 5000, batch: int = 512) -> None:
    """Train as EDM does, with log-normal noise levels, and write the weights."""
    model = Network()
    start = LAW(jax.random.key(0), 1)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.ones(1), start)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    @jax.jit
    def step(variables: dict, state: optax.OptState, key: jax.Array) -> tuple:
        keys = jax.random.split(key, 4)
        cond = LAW(keys[0], batch)
        x, noise = data(keys[1], cond), jax.random.normal(keys[2], (batch, 2))
        sigma = jnp.exp(-0.5 + 1.4 * jax.random.normal(keys[3], (batch,)))
        weight = 1 / sigma[:, None] ** 2 + 1 / SIGMA_DATA**2
        y = x + sigma[:, None] * noise
        loss = lambda v: jnp.mean(weight * (model.apply(v, y, sigma, cond) - x) ** 2)  # noqa: E731
        updates, state = optimizer.update(jax.grad(loss)(variables), state)
        return optax.apply_updates(variables, updates), state

    state = optimizer.init(variables)
    for i in range(steps):
        variables, state = step(variables, state, jax.random.key(i))
    WEIGHTS.write_bytes(serialization.msgpack_serialize(jax.device_get(variables)))


def teacher() -> models.Teacher:
    """Read the trained network, as diffjax takes it; it has EDM's convention already."""
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"{WEIGHTS} isn't there; make it: python {__file__}")
    variables = serialization.msgpack_restore(WEIGHTS.read_bytes())
    denoise, params = models.from_linen(Network(), variables)
    return models.Teacher(denoise, params, (2,), SIGMA_DATA, 0.05, 40.0, cond=LAW)


if __name__ == "__main__":
    train()
