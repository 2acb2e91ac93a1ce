"""Distribution matching: the generator's loss of DMD, DMD2 and, with other weights, f-distill."""

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.losses import _per_example
from diffjax.losses.normalizing_weight import normalizing_weight


def dmd(
    x: Array,
    d_teacher: Array,
    d_fake: Array,
    *,
    weight: Array | float | None = None,
    floor: float = 0.0,
    epsilon: float = 0.0,
) -> Array:
    """DMD's generator loss ½ ‖x − sg(x − g)‖², g = w (D_ψ − D_φ) (Yin et al. 2024).

    The gradient in x is g, exactly, as `diff_instruct` has it with the same weight. So with exact
    denoisers and a weight w(σ), the expected gradient is that of ∫ w σ² KL(p_σ ‖ q_σ), p_σ being
    the generator's and q_σ the teacher's marginal. With the published weight, which depends on the
    sample, it is no divergence's. The value, ½ ‖g‖², tells how large the steps are; it isn't
    what is minimised.

    DMD2, SMD and FastGen take ½ the mean over all elements of the batch: the sum of these values
    over the batch, divided by the number of elements of x.

    DMD's second term, a regression in LPIPS, is not here: its weights can't be had.

    Args:
      x: [B, ...] generated data.
      d_teacher: [B, ...] D_φ(x + σn; σ); no gradient flows into it.
      d_fake: [B, ...] D_ψ(x + σn; σ); no gradient flows into it.
      weight: [B] or a number; None is the published 1 / mean|x − D_φ|, of which the next two speak.
      floor: least value of that mean; DMD2 has none. Where x = D_φ = D_ψ, 0/0 counts as 0, as in
        DMD2. Where D_ψ differs from x = D_φ the result isn't finite.
      epsilon: added to that mean; 1e-6 in FastGen, 1e-8 in DMDR, 0 in DMD2.

    Returns:
      [B] float32 or wider, summed over all axes but the first.
    """
    x, d_teacher, d_fake = _per_example.widened(x, d_teacher, d_fake, weight=weight)
    if weight is None:
        weight = normalizing_weight(x, d_teacher, floor=floor, epsilon=epsilon)
    difference = d_fake - d_teacher
    step = jnp.where(difference == 0, 0, _per_example.along(weight, x) * difference)
    step = jax.lax.stop_gradient(step)
    # x - sg(x) is 0. Written x - (x - step), small steps would be lost in rounding.
    return _per_example.total(step * (x - jax.lax.stop_gradient(x)) + jnp.square(step) / 2)
