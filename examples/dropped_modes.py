"""A GAN that dropped modes and gets them back: plain functions, a denoiser in closed form.

    python examples/dropped_modes.py     # trains the GAN, four seconds on two CPU cores

`config.student = "dropped_modes:generator"` then goes on with it, towards all eight modes.
"""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from eight_gaussians import CENTRES, SD, data

from diffjax import models

WEIGHTS = Path(__file__).with_suffix(".npz")
SIGMA_DATA = 1.42


def init(seed: int, *sizes: int) -> dict:
    """Make the parameters of an MLP."""
    draw = np.random.default_rng(seed).standard_normal
    shapes = enumerate(itertools.pairwise(sizes))
    weights = {f"w{i}": draw((n, m), np.float32) / np.float32(n**0.5) for i, (n, m) in shapes}
    return weights | {f"b{i}": np.zeros(m, np.float32) for i, m in enumerate(sizes[1:])}


def mlp(params: dict, h: jax.Array) -> jax.Array:
    """Apply it to [B, first size]."""
    last = len(params) // 2 - 1
    for i in range(last):
        h = jax.nn.silu(h @ params[f"w{i}"] + params[f"b{i}"])
    return h @ params[f"w{last}"] + params[f"b{last}"]


def train(steps: int = 1000, batch: int = 128, seed: int = 0) -> None:
    """Train a generator against a discriminator that learns faster, and write its weights."""
    params = {"g": init(seed, 2, *[128] * 6, 2), "d": init(seed + 1000, 2, *[128] * 4, 1)}
    adams = {"g": optax.adam(5e-4, b1=0.5), "d": optax.adam(2e-3, b1=0.5)}
    optimizer = optax.multi_transform(adams, {"g": "g", "d": "d"})

    def losses(params: dict, key: jax.Array) -> jax.Array:
        x_key, z_key = jax.random.split(key)
        x, fake = data(x_key, batch), mlp(params["g"], jax.random.normal(z_key, (batch, 2)))
        real, made = mlp(params["d"], x), mlp(params["d"], jax.lax.stop_gradient(fake))
        judged = mlp(jax.lax.stop_gradient(params["d"]), fake)
        return jnp.mean(sum(jax.nn.softplus(logit) for logit in (-real, made, -judged)))

    @jax.jit
    def step(params: dict, state: optax.OptState, key: jax.Array) -> tuple:
        updates, state = optimizer.update(jax.grad(losses)(params, key), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for i in range(steps):
        params, state = step(params, state, jax.random.fold_in(jax.random.key(seed), i))
    np.savez(WEIGHTS, **params["g"])


def teacher() -> models.Teacher:
    """Denoise the eight Gaussians exactly: the mean of x0, given y = x0 + sigma n."""

    def denoise(params: dict, y: jax.Array, sigma: jax.Array, cond: None) -> jax.Array:
        centres, variance = params["frozen"]["centres"], SD**2 + sigma[:, None] ** 2
        offset = y[:, None] - centres
        mode = jax.nn.softmax(-0.5 * jnp.sum(offset**2, axis=2) / variance)
        return y - (sigma[:, None] ** 2 / variance) * jnp.einsum("bk,bkd->bd", mode, offset)

    params = {"frozen": {"centres": CENTRES.astype(np.float32)}}
    return models.Teacher(denoise, params, (2,), SIGMA_DATA, 0.03, 30.0)


def fake_score() -> models.Teacher:
    """Make the network that follows the generator, from fresh weights, as EDM's denoisers are."""

    def denoise(params: dict, y: jax.Array, sigma: jax.Array, cond: None) -> jax.Array:
        sigma = sigma[:, None]
        total = jnp.sqrt(sigma**2 + SIGMA_DATA**2)
        out = mlp(params, jnp.concatenate([y / total, jnp.log(sigma) / 4], axis=1))
        return (SIGMA_DATA / total) ** 2 * y + sigma * SIGMA_DATA / total * out

    return models.Teacher(denoise, init(7, 3, *[128] * 4, 2), (2,), SIGMA_DATA, 0.03, 30.0)


def generator(teacher: models.Teacher) -> models.Generator:
    """Read the trained generator, as diffjax takes it."""
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"{WEIGHTS} isn't there; make it: python {__file__}")
    params = dict(np.load(WEIGHTS))
    return models.Generator(lambda params, z, cond: mlp(params, z), params, models.normal((2,)))


if __name__ == "__main__":
    train()
