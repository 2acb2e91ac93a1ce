"""Toy distributions in two dimensions, and mixtures of Gaussians whose denoiser is exact."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

EIGHT_GAUSSIANS_RADIUS = 2.0
EIGHT_GAUSSIANS_SD = 0.1  # of a mode, by coordinate


def eight_gaussians_centres(radius: float = EIGHT_GAUSSIANS_RADIUS) -> np.ndarray:
    """Centres [8, 2] on a circle, the first on the x axis."""
    angle = 2 * np.pi * np.arange(8) / 8
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def eight_gaussians(
    count: int,
    *,
    seed: int = 0,
    radius: float = EIGHT_GAUSSIANS_RADIUS,
    sd: float = EIGHT_GAUSSIANS_SD,
) -> np.ndarray:
    """Points [count, 2] float32; by coordinate their variance is radius^2 / 2 + sd^2."""
    return mixture(count, eight_gaussians_centres(radius), sd, seed=seed)


def mixture(
    count: int,
    centres: np.ndarray,
    sd: float | np.ndarray,
    *,
    weights: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Samples [count, *shape] float32 of Gaussians with centres [K, *shape] and sd, () or [K]."""
    rng = np.random.default_rng(seed)
    mode = rng.choice(len(centres), count, p=weights)
    noise = rng.standard_normal((count, *centres.shape[1:]))
    width = np.broadcast_to(sd, len(centres))[mode].reshape(count, *[1] * (centres.ndim - 1))
    return (centres[mode] + width * noise).astype(np.float32)


def two_moons(count: int, *, seed: int = 0, noise: float = 0.05) -> np.ndarray:
    """Points [count, 2] float32 of two half circles of radius 1 that reach into each other.

    The upper one is centred at (0, 0), the lower one at (1, 0.5); each point is upper or lower
    with probability 1/2, uniform in angle, with normal noise added. The mean is (0.5, 0.25).
    """
    rng = np.random.default_rng(seed)
    angle = np.pi * rng.random(count)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = rng.random(count) < 0.5
    points = np.where(lower[:, None], np.array([1.0, 0.5]) - arc, arc)
    return (points + noise * rng.standard_normal((count, 2))).astype(np.float32)


def mixture_denoiser(
    centres: np.ndarray, sd: float | np.ndarray, *, weights: np.ndarray | None = None
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Exact D(y; sigma) = E[x0 | x0 + sigma n = y] of a mixture of Gaussians.

    Each mode's posterior mean, c + (y - c) s^2 / (s^2 + sigma^2), by the mode's probability given
    y. Computed in the dtype of y, so that float64 gives a reference.

    Args:
      centres: [K, *shape].
      sd: of a mode by coordinate, () or [K].
      weights: [K] probabilities of the modes; None: all alike.

    Returns:
      A function of y [B, *shape] and sigma [B].
    """
    shape = centres.shape[1:]
    flat = np.asarray(centres, np.float64).reshape(len(centres), -1)
    variances = np.broadcast_to(np.asarray(sd, np.float64) ** 2, len(flat))
    log_weights = np.zeros(len(flat)) if weights is None else np.log(weights)

    def denoise(y: jax.Array, sigma: jax.Array) -> jax.Array:
        c = jnp.asarray(flat, y.dtype)
        total = jnp.asarray(variances, y.dtype) + sigma[:, None] ** 2  # [B, K]
        offset = y.reshape(len(y), 1, -1) - c  # [B, K, D]
        log_density = -0.5 * (jnp.sum(offset**2, axis=2) / total + c.shape[1] * jnp.log(total))
        posterior = jax.nn.softmax(jnp.asarray(log_weights, y.dtype) + log_density, axis=1)
        kept = jnp.asarray(variances, y.dtype) / total
        means = c + kept[..., None] * offset
        return jnp.einsum("bk,bkd->bd", posterior, means).reshape(-1, *shape)

    return denoise
