"""Flow generator matching: the generator's loss of FGM."""

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.losses import _per_example


def fgm(x: Array, d_teacher: Array, d_fake: Array, *, weight: Array | float = 1.0) -> Array:
    """FGM's generator loss w Σ (2Δ · (D_φ − x) − Δ²), Δ = D_φ − D_ψ (Huang et al. 2024).

    Flow matching has y = (1 − t) x + t n and the velocity n − x, of which u(y) = (y − D)/t is the
    best guess. FGM minimises E‖u_φ − u_ψ‖², u_ψ being the generator's own velocity. How u_ψ
    depends on the generator isn't known; but E[v(y) · (u_ψ − (n − x))] is 0 for any v that is
    held constant and any generator, and with v = 2(u_φ − u_ψ) its gradient gives that of u_ψ.
    So the loss −‖u_φ − u_ψ‖² + 2 (u_φ − u_ψ) · (u_φ − (n − x)) has the right gradient. On
    denoisers u_φ − u_ψ = −Δ/t and u_φ − (n − x) = −(D_φ − x)/t, so that it is the formula above
    with w = 1/t², where t = σ/(1 + σ) at the noise level σ = t/(1 − t) of y/(1 − t) = x + σn.

    With an exact D_ψ and a weight w(σ), the expected gradient is that of E w‖Δ‖², the whole Fisher
    divergence, which is twice `sid` at α = ½. Gradients flow through all three arrays, so compute
    the denoisers from x with their parameters held constant.

    Velocities do as well as denoisers: the formula is the same for n − x, u_φ, u_ψ in place of
    x, D_φ, D_ψ, with w = 1. The paper may drop a term when it distils a text-to-image model; that
    isn't known here.

    Args:
      x: [B, ...] generated data.
      d_teacher: [B, ...] D_φ(x + σn; σ).
      d_fake: [B, ...] D_ψ(x + σn; σ).
      weight: [B] or a number; 1/t² is FGM's. No gradient flows through it.

    Returns:
      [B] float32 or wider, summed over all axes but the first.
    """
    x, d_teacher, d_fake = _per_example.widened(x, d_teacher, d_fake, weight=weight)
    delta = d_teacher - d_fake
    loss = _per_example.total(2 * delta * (d_teacher - x) - jnp.square(delta))
    return jax.lax.stop_gradient(weight) * loss
