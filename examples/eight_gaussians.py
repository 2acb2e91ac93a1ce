"""Eight Gaussians on a circle: a Flax NNX network that predicts the noise, over a cosine process.

    python examples/eight_gaussians.py     # trains it, a minute on two CPU cores

`config.teacher = "eight_gaussians:teacher"` then distils it.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, serialization

from diffjax import models

WEIGHTS = Path(__file__).with_suffix(".msgpack")
CENTRES = 2 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1)
SD = 0.1  # of a mode
PROCESS = models.Process.cosine()  # x_t = cos(πt/2) x0 + sin(πt/2) eps


def data(key: jax.Array, count: int) -> jax.Array:
    """Draw points [count, 2]."""
    mode, noise = jax.random.split(key)
    centres = jnp.asarray(CENTRES, jnp.float32)[jax.random.randint(mode, (count,), 0, 8)]
    return centres + SD * jax.random.normal(noise, (count, 2))


def reference(count: int, seed: int) -> jax.Array:
    """Draw the data that samples are compared with."""
    return data(jax.random.key(seed), count)


class Network(nnx.Module):
    """MLP of noisy points [B, 2] and times [B]."""

    def __init__(self, width: int = 128, *, rngs: nnx.Rngs):
        layers = [nnx.Linear(2 + 16, width, rngs=rngs), nnx.silu]
        for _ in range(5):  # deep, for a student that parts eight modes sharply
            layers += [nnx.Linear(width, width, rngs=rngs), nnx.silu]
        self.layers = nnx.Sequential(*layers, nnx.Linear(width, 2, rngs=rngs))

    def __call__(self, x: jax.Array, t: jax.Array, cond: None = None) -> jax.Array:
        """Predict the noise, [B, 2]."""
        angle = t[:, None] * jnp.arange(1, 9) * jnp.pi / 2
        return self.layers(jnp.concatenate([x, jnp.sin(angle), jnp.cos(angle)], axis=1))


def train(steps: int = 15_000, batch: int = 512) -> None:
    """Train by the mean squared error of the noise, and write the weights."""
    model = Network(rngs=nnx.Rngs(0))
    rate = optax.cosine_decay_schedule(2e-3, steps)
    optimizer = nnx.Optimizer(model, optax.adam(rate), wrt=nnx.Param)

    @nnx.jit
    def step(model: Network, optimizer: nnx.Optimizer, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        x = data(keys[0], batch)
        t = jax.random.uniform(keys[1], (batch,)) ** 2  # mostly little noise, which is hardest
        eps = jax.random.normal(keys[2], x.shape)
        x_t = PROCESS.a(t)[:, None] * x + PROCESS.s(t)[:, None] * eps
        gradient = nnx.grad(lambda model: jnp.mean((model(x_t, t) - eps) ** 2))(model)
        optimizer.update(model, gradient)

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
        PROCESS.denoiser(net, "eps"),
        params,
        shape=(2,),
        sigma_data=1.42,
        sigma_min=0.03,
        sigma_max=30.0,
        process=PROCESS,
    )


if __name__ == "__main__":
    train()
