"""Moment matching: losses of the generator and of its auxiliary network."""

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.losses import _per_example
from diffjax.losses.diff_instruct import diff_instruct


def moment_matching(
    x: Array, d_teacher: Array, d_auxiliary: Array, *, weight: Array | float = 1.0
) -> Array:
    """Moment matching's generator loss w Σ sg(D_ψ − D_φ) · x (Salimans et al. 2024).

    The formula is `diff_instruct`'s; what differs is D_ψ, which learns by
    `moment_matching_auxiliary` to be half-way between the generator's denoiser and the teacher's.
    With that D_ψ exact and a weight w(σ), the expected gradient is thus half of Diff-Instruct's:
    that of ½ ∫ w σ² KL(p_σ ‖ q_σ). The value itself means nothing. The paper's weights of times
    aren't known here.

    Args:
      x: [B, ...] generated data.
      d_teacher: [B, ...] D_φ(x + σn; σ); no gradient flows into it.
      d_auxiliary: [B, ...] D_ψ(x + σn; σ); no gradient flows into it.
      weight: w(σ), [B] or a number.

    Returns:
      [B] float32 or wider, summed over all axes but the first.
    """
    return diff_instruct(x, d_teacher, d_auxiliary, weight=weight)


def moment_matching_auxiliary(
    x: Array, d_teacher: Array, d_auxiliary: Array, *, weight: Array | float = 1.0
) -> Array:
    """Moment matching's auxiliary loss w (‖D_ψ − x‖² + ‖D_ψ − D_φ‖²) (Salimans et al. 2024).

    The first term alone is `denoising`. The second keeps D_ψ near the teacher; at the minimum
    D_ψ = ½ (E[x|y] + D_φ).

    Args:
      x: [B, ...] generated data; no gradient flows into it.
      d_teacher: [B, ...] D_φ(x + σn; σ); no gradient flows into it.
      d_auxiliary: [B, ...] D_ψ(x + σn; σ).
      weight: [B] or a number; no gradient flows through it.

    Returns:
      [B] float32 or wider, summed over all axes but the first.
    """
    x, d_teacher, d_auxiliary = _per_example.widened(x, d_teacher, d_auxiliary, weight=weight)
    x, d_teacher, weight = jax.lax.stop_gradient((x, d_teacher, weight))
    squares = jnp.square(d_auxiliary - x) + jnp.square(d_auxiliary - d_teacher)
    return weight * _per_example.total(squares)
