"""Score of mixture distillation: skewed Jensen-Shannon divergences, and the critic's regression."""

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.losses import _per_example
from diffjax.losses.dmd import dmd
from diffjax.losses.normalizing_weight import normalizing_weight


def smd(
    x: Array,
    d_teacher: Array,
    d_fake: Array,
    logits: Array,
    *,
    skew: Array | float,
    weight: Array | float | None = None,
    floor: float = 0.0,
    epsilon: float = 0.0,
) -> Array:
    """SMD's generator loss ½ ‖x − sg(x − g)‖², g = w (D_α/α) (D_ψ − D_φ) (Jayashankar et al. 2025).

    D_α = σ(ℓ + log(α/(1 − α))) is the probability that y = x + σn is real where a share α of all
    is. With the exact ℓ = log q_σ/p_σ, teacher over generator, exact denoisers and a weight w(σ),
    the expected gradient is that of ∫ w σ² JS_α, the skewed Jensen-Shannon divergence
    JS_α = KL(q_σ ‖ m)/(1 − α) + KL(p_σ ‖ m)/α, m = α q_σ + (1 − α) p_σ. α = 1 is DMD, KL(p ‖ q);
    towards 0 it is KL(q ‖ p), in which D_α/α is the ratio. The value, ½ ‖g‖², isn't what is
    minimised.

    The released code takes ½ the mean over all elements of the batch, as `dmd` says, and adds
    3e-3 · `gan_generator(skewed_logits(logits, skew))`, through which ℓ gets its gradient.

    Args:
      x: [B, ...] generated data.
      d_teacher: [B, ...] D_φ(x + σn; σ); no gradient flows into it.
      d_fake: [B, ...] D_ψ(x + σn; σ); no gradient flows into it.
      logits: [B, ...] ℓ at x + σn, of which the mean over all axes but the first is taken; no
        gradient flows into it.
      skew: α in [0, 1], [B] or a number; drawn from {0.5, 0.501, ..., 1} for the generator.
      weight: w, [B] or a number; None is the published 1 / mean|x − D_φ|.
      floor: least value of that mean; none is published. 0/0 counts as 0, as in `dmd`.
      epsilon: added to that mean; 0 is published.

    Returns:
      [B] float32 or wider, summed over all axes but the first.

    Raises:
      ValueError: skew is a number outside [0, 1].
    """
    x, d_teacher, d_fake = _per_example.widened(x, d_teacher, d_fake, weight=weight)
    logits = _per_example.mean(_per_example.logits_for(x, logits))
    skew = _checked_skew(skew, x)
    if weight is None:
        weight = normalizing_weight(x, d_teacher, floor=floor, epsilon=epsilon)
    # D_α/α = 1/(α + (1 − α)/r), which has limits at both ends.
    scale = jnp.exp(-jnp.logaddexp(jnp.log(skew), jnp.log1p(-jnp.asarray(skew)) - logits))
    return dmd(x, d_teacher, d_fake, weight=weight * scale)


def smd_critic(
    d_teacher: Array,
    d_fake: Array,
    logits: Array,
    *,
    skew: Array | float,
    real: bool,
    weight: Array | float = 1.0,
) -> Array:
    """SMD's regression of M = D_α D_φ + (1 − D_α) D_ψ, for the logit (Jayashankar et al. 2025).

    On real data α w ‖M − D_φ‖², on generated data (1 − α) w ‖M − D_ψ‖². Both denoisers are held
    constant, so that only ℓ learns. The sum over both is least where D_α is the share of real data
    at y: where ℓ is the exact log-ratio. At α = 0 and 1 nothing is learnt.

    The released code takes the mean over all elements for each, with the weight λ(σ) of
    `denoising`, and adds the fake score's own `denoising` loss.

    Args:
      d_teacher: [B, ...] D_φ(y; σ); no gradient flows into it.
      d_fake: [B, ...] D_ψ(y; σ); no gradient flows into it.
      logits: [B, ...] ℓ at y, of which the mean over all axes but the first is taken.
      skew: α in [0, 1], [B] or a number; published: 0 with probability 0.25, else k/1000.
      real: whether y are real data with noise, or generated ones.
      weight: w, [B] or a number; no gradient flows through it.

    Returns:
      [B] float32 or wider, summed over all axes but the first.

    Raises:
      ValueError: skew is a number outside [0, 1].
    """
    d_teacher, d_fake = _per_example.widened(d_teacher, d_fake, weight=weight)
    logits = _per_example.mean(_per_example.logits_for(d_fake, logits))
    skew = _checked_skew(skew, logits)
    probability = jax.nn.sigmoid(skewed_logits(logits, skew))
    squares = _per_example.total(jnp.square(jax.lax.stop_gradient(d_teacher - d_fake)))
    weight = jax.lax.stop_gradient(weight) * squares
    if real:
        return skew * weight * jnp.square(1 - probability)
    return (1 - skew) * weight * jnp.square(probability)


def skewed_logits(logits: Array, skew: Array | float) -> Array:
    """Logits ℓ + log(α/(1 − α)) of being real where a share α of all is.

    Args:
      logits: [B, ...] ℓ where halves are real and generated.
      skew: α in [0, 1], [B] or a number.

    Returns:
      [B, ...] float32 or wider; ±∞ at the ends.

    Raises:
      ValueError: skew is a number outside [0, 1].
    """
    (logits,) = _per_example.widened(logits)
    skew = _per_example.along(_checked_skew(skew, logits), logits)
    return logits + (jnp.log(skew) - jnp.log1p(-skew))


def _checked_skew(skew: Array | float, x: Array) -> Array | float:
    _per_example.check_weight(skew, x.shape[0])
    if isinstance(skew, int | float) and not 0 <= skew <= 1:
        raise ValueError(f"skew is a share from 0 to 1, not {skew}")
    return _per_example.wide(skew)
