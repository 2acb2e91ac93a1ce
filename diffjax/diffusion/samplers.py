"""Samplers of EDM (Karras et al. 2022, arXiv:2206.00364, Algorithms 1 and 2)."""

import itertools
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array, PRNGKey


def edm_heun(
    denoise: Callable[[Array, Array], Array],
    latents: Array,
    sigmas: Array | np.ndarray,
    *,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    rng: PRNGKey | None = None,
    noise: Array | None = None,
) -> Array:
    """Sample by Heun's second-order method, with optional stochasticity ("churn").

    The loop over steps is Python's: give it a jitted `denoise` and call it outside `jit`. It then
    compiles one network evaluation instead of 2N − 1 of them, and convolutions keep all threads of
    a CPU, which they lose inside `lax.scan`.

    Args:
      denoise: (x [B, ...], σ [B]) -> D(x; σ) [B, ...].
      latents: [B, ...] ~ N(0, I); the first step scales them by sigmas[0].
      sigmas: [N + 1], decreasing, the last of them 0; `noise.heun_sigmas` is EDM's grid.
      s_churn: S_churn, the amount of fresh noise over all steps; 0 is the deterministic sampler.
      s_min: S_min; no noise is added below this σ.
      s_max: S_max; no noise is added above this σ.
      s_noise: S_noise, the standard deviation of the noise.
      rng: key of the noise, or [B] keys, one an example, by which an example's noise does not
        depend on the batch that it is in.
      noise: [N, B, ...] ~ N(0, I), given instead of `rng` to replay a run.

    Returns:
      [B, ...] samples, after 2N − 1 evaluations of the denoiser.

    Raises:
      ValueError: s_churn without rng or noise, or both of them given.
    """
    chex.assert_rank(sigmas, 1)
    if rng is not None and noise is not None:
        raise ValueError("edm_heun takes rng or noise, not both.")
    if s_churn > 0 and rng is None and noise is None:
        raise ValueError("edm_heun: s_churn > 0 needs rng or noise.")
    batch, steps = latents.shape[0], len(sigmas) - 1
    if noise is not None:
        chex.assert_shape(noise, (steps, *latents.shape))

    def slope(x: Array, sigma: Array) -> Array:
        return (x - denoise(x, jnp.full((batch,), sigma, x.dtype))) / sigma

    if isinstance(sigmas, np.ndarray):  # of float64, which would decide the type of the samples
        sigmas = sigmas.tolist()
    x = jnp.asarray(latents)
    x = x.astype(jnp.float32 if jnp.finfo(x.dtype).bits < 32 else x.dtype) * sigmas[0]
    for step, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
        if s_churn > 0:
            in_range = jnp.logical_and(sigma >= s_min, sigma <= s_max)
            gamma = jnp.where(in_range, min(s_churn / steps, math.sqrt(2) - 1), 0.0)
            raised = sigma * (1 + gamma)
            n = noise[step] if noise is not None else _normal(rng, step, x)
            # √(raised² − σ²), in the form that rounding can't make negative where γ is 0.
            x = x + sigma * jnp.sqrt(gamma * (2 + gamma)) * s_noise * n
            sigma = raised
        gradient = slope(x, sigma)
        x_next = x + (sigma_next - sigma) * gradient
        if step < steps - 1:
            gradient = (gradient + slope(x_next, sigma_next)) / 2
            x_next = x + (sigma_next - sigma) * gradient
        x = x_next
    return x


def _normal(rng: PRNGKey | None, step: int, like: Array) -> Array:
    """Standard normals for one step, from one key or from a key an example."""
    assert rng is not None
    is_batch_of_keys = rng.ndim == (1 if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) else 2)
    if not is_batch_of_keys:
        return jax.random.normal(jax.random.fold_in(rng, step), like.shape, like.dtype)
    return jax.vmap(
        lambda key: jax.random.normal(jax.random.fold_in(key, step), like.shape[1:], like.dtype)
    )(rng)
