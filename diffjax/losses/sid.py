"""Score identity distillation: the generator's loss of SiD."""

import jax

from diffjax.interfaces import Array
from diffjax.losses import _per_example
from diffjax.losses.normalizing_weight import normalizing_weight


def sid(
    x: Array,
    d_teacher: Array,
    d_fake: Array,
    *,
    alpha: float,
    weight: Array | float | None = None,
) -> Array:
    """SiD's generator loss w Σ Δ · ((D_φ − x) − αΔ), Δ = D_φ − D_ψ (Zhou et al. 2024, section 3).

    The Fisher divergence E‖s_φ − s_ψ‖² has two estimates that a trained fake score makes
    computable: ‖Δ‖² itself, which ignores that D_ψ follows the generator, and Δ · (D_φ − x), in
    which a score identity replaces D_ψ by the generated x. SiD takes the second less α times the
    first. With an exact D_ψ and weight 1, α = 0.5 gives half the gradient of the full
    divergence, and α = 1 half of it with the sampling measure frozen.

    Gradients flow through all three arrays, so compute the denoisers from x with their parameters
    held constant. None flows through the weight.

    Args:
      x: [B, ...] generated data.
      d_teacher: [B, ...] D_φ(x + σn; σ).
      d_fake: [B, ...] D_ψ(x + σn; σ).
      alpha: α; 1.2 in most published settings, 1.0 in some.
      weight: [B] or a number; None is the published 1 / max(mean|x − D_φ|, 1e-5), the mean over
        all axes but the first.

    Returns:
      [B] float32 or wider, summed over all axes but the first.
    """
    x, d_teacher, d_fake = _per_example.widened(x, d_teacher, d_fake, weight=weight)
    if weight is None:
        weight = normalizing_weight(x, d_teacher)
    delta = d_teacher - d_fake
    loss = _per_example.total(delta * ((d_teacher - x) - alpha * delta))
    return jax.lax.stop_gradient(weight) * loss
