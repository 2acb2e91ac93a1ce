"""The weight by which SiD, DMD and their successors make all noise levels count alike."""

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.losses import _per_example


def normalizing_weight(
    x: Array, d_teacher: Array, *, floor: float = 1e-5, epsilon: float = 0.0
) -> Array:
    """Weight w₁ = sg 1 / (max(mean|x − D_φ|, floor) + epsilon) (Yin et al. 2024).

    Published code agrees on the mean and on little else: SiD, SiDA and Uni-Instruct have a floor
    of 1e-5, DMD2 and SMD none, FastGen adds 1e-6 and DMDR 1e-8.

    Args:
      x: [B, ...] generated data; no gradient flows into it.
      d_teacher: [B, ...] D_φ(x + σn; σ); no gradient flows into it.
      floor: the least mean; 0 for none.
      epsilon: added to the mean.

    Returns:
      [B] float32 or wider; the mean is over all axes but the first. Without floor and epsilon it
      is infinite where x = D_φ.
    """
    x, d_teacher = _per_example.widened(x, d_teacher)
    distance = _per_example.mean(jnp.abs(x - d_teacher))
    return jax.lax.stop_gradient(1 / (jnp.maximum(distance, floor) + epsilon))
