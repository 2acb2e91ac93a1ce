"""Denoising score matching, which trains teachers and fake score networks."""

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.losses import _per_example


def denoising(x: Array, d_fake: Array, *, weight: Array | float) -> Array:
    """Denoising loss λ(σ) ‖D_ψ(x + σn; σ) − x‖² (Karras et al. 2022, equation 8).

    x is held constant: the loss trains the denoiser, never a generator that made x.

    Args:
      x: [B, ...] clean data, generated or real.
      d_fake: [B, ...] the denoiser's output at x + σn.
      weight: λ(σ), [B] or a number; `noise.edm_weight` is EDM's.

    Returns:
      [B] float32 or wider, summed over all axes but the first.
    """
    x, d_fake = _per_example.widened(x, d_fake, weight=weight)
    x = jax.lax.stop_gradient(x)
    return weight * _per_example.total(jnp.square(d_fake - x))
