"""Denoising score matching, which trains teachers and fake score networks."""

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.losses import _per_example


def denoising(
    x: Array,
    d_fake: Array,
    *,
    weight: Array | float,
    log_variance: Array | None = None,
) -> Array:
    """Denoising loss λ(σ) ‖D_ψ(x + σn; σ) − x‖² (Karras et al. 2022, equation 8).

    x is held constant: the loss trains the denoiser, never a generator that made x.

    With a learnt log-variance u(σ) it is λ/exp(u) ‖D_ψ − x‖² + n u, n the values of an example
    (Karras et al. 2024, arXiv:2312.02696, equations 14 to 22): n times EDM2's mean over them. It is
    least at exp(u) = E λ ‖D_ψ − x‖² / n, at which all noise levels weigh the same.

    Args:
      x: [B, ...] clean data, generated or real.
      d_fake: [B, ...] the denoiser's output at x + σn.
      weight: λ(σ), [B] or a number; `noise.edm_weight` is EDM's.
      log_variance: u, [B], which learns too; None for none.

    Returns:
      [B] float32 or wider, summed over all axes but the first.
    """
    x, d_fake = _per_example.widened(x, d_fake, weight=weight)
    x = jax.lax.stop_gradient(x)
    loss = weight * _per_example.total(jnp.square(d_fake - x))
    if log_variance is None:
        return loss
    _per_example.check_weight(log_variance, x.shape[0])
    wide = _per_example.wide(log_variance)  # times an image's values it exceeds float16
    return loss * jnp.exp(-wide) + _per_example.elements(x) * wide
