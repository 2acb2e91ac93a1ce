"""Two moons: an Equinox network that predicts the velocity of a rectified flow.

    python examples/two_moons.py     # trains it, a minute on two CPU cores

`config.teacher = "two_moons:teacher"` then distils it.
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from diffjax import models

WEIGHTS = Path(__file__).with_suffix(".eqx")


def data(key: jax.Array, count: int) -> jax.Array:
    """Draw points [count, 2] of two half circles that reach into each other, about the origin."""
    angle_key, moon_key, noise_key = jax.random.split(key, 3)
    angle = jax.random.uniform(angle_key, (count, 1), maxval=jnp.pi)
    arc = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1) - jnp.array([0.5, 0.25])
    upper = jax.random.bernoulli(moon_key, 0.5, (count, 1))
    return jnp.where(upper, arc, -arc) + 0.05 * jax.random.normal(noise_key, (count, 2))


def reference(count: int, seed: int) -> jax.Array:
    """Draw the data that samples are compared with."""
    return data(jax.random.key(seed), count)


class Network(eqx.Module):
    """MLP of one noisy point [2] and its time []."""

    mlp: eqx.nn.MLP

    def __init__(self, width: int = 128, *, key: jax.Array):
        self.mlp = eqx.nn.MLP(2 + 16, 2, width, depth=5, activation=jax.nn.silu, key=key)

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Predict the velocity, [2]."""
        angle = t * jnp.arange(1, 9) * jnp.pi / 2
        return self.mlp(jnp.concatenate([x, jnp.sin(angle), jnp.cos(angle)]))


def train(steps: int = 10_000, batch: int = 512) -> None:
    """Train on lines x_t = (1 - t) x0 + t eps, of velocity eps - x0, and write the weights."""
    model = Network(key=jax.random.key(0))
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model: Network, state: optax.OptState, key: jax.Array) -> tuple:
        keys = jax.random.split(key, 3)
        x, eps = data(keys[0], batch), jax.random.normal(keys[1], (batch, 2))
        t = jax.random.uniform(keys[2], (batch,)) ** 2  # mostly little noise, which is hardest
        x_t = (1 - t[:, None]) * x + t[:, None] * eps
        loss = lambda model: jnp.mean((jax.vmap(model)(x_t, t) - (eps - x)) ** 2)  # noqa: E731
        updates, state = optimizer.update(eqx.filter_grad(loss)(model), state)
        return eqx.apply_updates(model, updates), state

    for i in range(steps):
        model, state = step(model, state, jax.random.key(i))
    eqx.tree_serialise_leaves(WEIGHTS, model)


def teacher() -> models.Teacher:
    """Read the trained network, as diffjax takes it."""
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"{WEIGHTS} isn't there; make it: python {__file__}")
    model = eqx.tree_deserialise_leaves(WEIGHTS, Network(key=jax.random.key(0)))
    net, params = models.from_equinox(model)
    process = models.Process.rectified_flow()
    return models.Teacher(
        process.denoiser(net, "velocity"),
        params,
        shape=(2,),
        sigma_data=0.71,
        sigma_min=0.03,
        sigma_max=30.0,
        process=process,
    )


if __name__ == "__main__":
    train()
