"""Score implicit matching: the generator's loss of SIM, for general distances of scores."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.losses import _per_example

Distance = Callable[[Array], Array]  # [B, ...] -> [B], example by example


def sim(
    x: Array,
    d_teacher: Array,
    d_fake: Array,
    sigma: Array | float,
    *,
    distance: str | Distance = "pseudo_huber",
    c: float = 1.0,
    weight: Array | float = 1.0,
) -> Array:
    """SIM's generator loss −w d′(Y) · (s_ψ − ∇ log p(y|x)), Y = s_ψ − s_φ (Luo et al. 2024).

    On denoisers Y = (D_ψ − D_φ)/σ², and s_ψ − ∇ log p(y|x) = (D_ψ − x)/σ². With an exact D_ψ the
    expected gradient is that of E d(Y) with the sampling measure frozen: the generator changes Y
    and not where Y is asked. For this the gradient must flow through y within Y, so compute the
    denoisers from x with their parameters held constant. With `squared` this is 2/σ⁴ times SiD's
    loss at α = 1.

    The value isn't E d(Y): its expectation is 0 with an exact D_ψ.

    Neither the published c nor the weights w are known here, as the authors' released code samples
    only: the defaults, 1, are no recommendation.

    Args:
      x: [B, ...] generated data.
      d_teacher: [B, ...] D_φ(x + σn; σ).
      d_fake: [B, ...] D_ψ(x + σn; σ).
      sigma: noise levels, [B] or a number.
      distance: d. `pseudo_huber` is √(‖Y‖² + c²) − c, `squared` is ‖Y‖², with norms over all axes
        but the first. Or a function [B, ...] -> [B] whose value b depends on example b alone.
      c: of `pseudo_huber`, > 0, in units of scores: 1 over those of x.
      weight: w, [B] or a number; no gradient flows through it.

    Returns:
      [B] float32 or wider, summed over all axes but the first.

    Raises:
      ValueError: no distance has the name.
    """
    x, d_teacher, d_fake = _per_example.widened(x, d_teacher, d_fake, weight=weight)
    _per_example.check_weight(sigma, x.shape[0])
    variance = jnp.square(_per_example.along(sigma, x))
    slope = _gradient(_distance(distance, c), (d_fake - d_teacher) / variance)
    loss = _per_example.total(slope * (x - d_fake) / variance)
    return jax.lax.stop_gradient(weight) * loss


def _distance(distance: str | Distance, c: float) -> Distance:
    if callable(distance):
        return distance
    known: dict[str, Distance] = {
        "pseudo_huber": lambda y: jnp.sqrt(_per_example.total(jnp.square(y)) + c**2) - c,
        "squared": lambda y: _per_example.total(jnp.square(y)),
    }
    if distance not in known:
        raise ValueError(f"no distance is called {distance!r}; there are {', '.join(known)}")
    return known[distance]


def _gradient(distance: Distance, y: Array) -> Array:
    """d′(Y), as a function of Y, so that gradients flow on through it."""
    value, pullback = jax.vjp(distance, y)
    chex.assert_shape(value, y.shape[:1])
    return pullback(jnp.ones_like(value))[0]
