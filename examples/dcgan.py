"""A conditional DCGAN of the digits: Flax Linen, transposed convolutions, batch norm.

    python examples/dcgan.py     # trains it against a discriminator, a minute on two CPU cores

`config.student = "dcgan:generator"` then refines it with the score of the shipped `digits`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import serialization

from diffjax import models
from diffjax.data import digits

WEIGHTS = Path(__file__).with_suffix(".msgpack")
LATENTS, CLASSES = 32, 10


class Generator(nn.Module):
    """Latents [B, 32] and one-hot classes [B, 10] to digits [B, 8, 8, 1] in [-1, 1]."""

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array, train: bool = False) -> jax.Array:
        """Generate; in training with the statistics of the batch, else with the running ones."""
        norm = lambda: nn.BatchNorm(use_running_average=not train, momentum=0.99)  # noqa: E731
        h = jnp.concatenate([z, nn.Dense(16, use_bias=False)(labels)], axis=1)
        h = nn.relu(norm()(nn.Dense(2 * 2 * 64)(h).reshape(-1, 2, 2, 64)))
        h = nn.relu(norm()(nn.ConvTranspose(32, (4, 4), (2, 2))(h)))
        return jnp.tanh(nn.ConvTranspose(1, (4, 4), (2, 2))(h))


class Discriminator(nn.Module):
    """Digits and classes to logits [B], by projection of the class."""

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        """Judge."""
        for width in (32, 64):
            x = nn.leaky_relu(nn.Conv(width, (4, 4), (2, 2))(x), 0.2)
        x = x.reshape(len(x), -1)
        return nn.Dense(1)(x)[:, 0] + jnp.sum(x * nn.Dense(x.shape[1])(labels), axis=1) / 8


def train(steps: int = 12_000, batch: int = 64, seed: int = 0) -> None:
    """Train by the non-saturating loss, and write the weights and the running statistics."""
    images, classes = (jnp.asarray(array) for array in digits.load())
    g, d = Generator(), Discriminator()
    z, labels = jnp.zeros((2, LATENTS)), jnp.zeros((2, CLASSES))
    start = g.init(jax.random.key(seed), z, labels)
    params = {"g": start["params"], "d": d.init(jax.random.key(seed + 1), images[:2], labels)}
    adams = {"g": optax.adam(1e-3, b1=0.5), "d": optax.adam(1e-3, b1=0.5)}
    optimizer = optax.multi_transform(adams, {"g": "g", "d": "d"})

    def losses(params: dict, stats: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        pick, z_key = jax.random.split(key)
        picked = jax.random.randint(pick, (batch,), 0, len(images))
        x, labels = images[picked], jax.nn.one_hot(classes[picked], CLASSES)
        z = jax.random.normal(z_key, (batch, LATENTS))
        variables = {"params": params["g"], "batch_stats": stats}
        fake, kept = g.apply(variables, z, labels, train=True, mutable=["batch_stats"])
        real, made = (d.apply(params["d"], a, labels) for a in (x, jax.lax.stop_gradient(fake)))
        judged = d.apply(jax.lax.stop_gradient(params["d"]), fake, labels)
        loss = sum(jax.nn.softplus(logit) for logit in (-real, made, -judged))
        return jnp.mean(loss), kept["batch_stats"]

    @jax.jit
    def step(params: dict, stats: dict, state: optax.OptState, key: jax.Array) -> tuple:
        gradient, stats = jax.grad(losses, has_aux=True)(params, stats, key)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), stats, state

    stats, state = start["batch_stats"], optimizer.init(params)
    for i in range(steps):
        params, stats, state = step(params, stats, state, jax.random.key(i))
    variables = {"params": params["g"], "batch_stats": stats}
    WEIGHTS.write_bytes(serialization.msgpack_serialize(jax.device_get(variables)))


def generator(teacher: models.Teacher) -> models.Generator:
    """Read the trained generator, as diffjax takes it; the running statistics stay as they are."""
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"{WEIGHTS} isn't there; make it: python {__file__}")
    variables = serialization.msgpack_restore(WEIGHTS.read_bytes())
    return models.Generator(
        generate=lambda variables, z, labels: Generator().apply(variables, z, labels),
        params=variables,
        latent=models.normal((LATENTS,)),
        trainable=lambda path, leaf: path[0] != "batch_stats",
    )


if __name__ == "__main__":
    train()
