"""Learning rate of EDM2's training, over images seen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array


def inverse_square_root(
    images_seen: Array | np.ndarray | float,
    *,
    peak: float,
    batch_size: int,
    decay_updates: float = 70_000,
    rampup_images: float = 10_000_000,
) -> Array:
    """Rate with a linear ramp-up, then constant, then falling with the square root of the updates.

    peak · min(n / rampup_images, 1) / √max(n / (decay_updates · batch_size), 1), n the images seen
    (Karras et al. 2024, arXiv:2312.02696, equation 67).

    Args:
      images_seen: images before the update, of any shape.
      peak: the largest rate, 0.0120 for XS to 0.0065 for XXL.
      batch_size: images an update.
      decay_updates: updates after which it falls, 70,000 for latents and 35,000 for 64 pixels; 0
        for never.
      rampup_images: images after which it is whole; 0 for no ramp-up.

    Returns:
      Rates of the shape of `images_seen`, float64 unless that is JAX's.
    """
    xp: Any = jnp if isinstance(images_seen, jax.Array) else np
    rate = peak * xp.ones_like(images_seen, dtype=float)
    if decay_updates:
        rate = rate / xp.sqrt(xp.maximum(images_seen / (decay_updates * batch_size), 1))
    if rampup_images:
        rate = rate * xp.minimum(images_seen / rampup_images, 1)
    return rate
