"""Diff-Instruct's loss, whose gradient is that of the integral KL divergence."""

import jax

from diffjax.interfaces import Array
from diffjax.losses import _per_example


def diff_instruct(
    x: Array, d_teacher: Array, d_fake: Array, *, weight: Array | float = 1.0
) -> Array:
    """Diff-Instruct's generator loss w(σ) Σ sg(D_ψ − D_φ) · x (Luo et al. 2023, Theorem 3.1).

    With p_t the generator's and q_t the teacher's marginal along the forward diffusion,
    IKL = ∫ w̃(t) KL(p_t ‖ q_t) dt has the gradient E[w̃ (s_ψ − s_φ) ∂x/∂θ], where scores are
    s = (D − y) / σ². On denoisers this reads E[w (D_ψ − D_φ) ∂x/∂θ] with w = w̃ / σ²; the
    released code takes w = 1. The value itself means nothing: only its gradient in x does,
    which is w (D_ψ − D_φ).

    Args:
      x: [B, ...] generated data.
      d_teacher: [B, ...] D_φ(x + σn; σ); no gradient flows into it.
      d_fake: [B, ...] D_ψ(x + σn; σ); no gradient flows into it.
      weight: w(σ), [B] or a number.

    Returns:
      [B] float32 or wider, summed over all axes but the first.
    """
    x, d_teacher, d_fake = _per_example.widened(x, d_teacher, d_fake, weight=weight)
    direction = jax.lax.stop_gradient(d_fake - d_teacher)
    return jax.lax.stop_gradient(weight) * _per_example.total(direction * x)
