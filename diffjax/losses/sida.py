"""SiDA: score identity distillation with an adversarial term on the fake score's encoder."""

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.losses import _per_example
from diffjax.losses.normalizing_weight import normalizing_weight
from diffjax.losses.sid import sid


def sida(
    x: Array,
    d_teacher: Array,
    d_fake: Array,
    logits: Array,
    *,
    alpha: float = 1.0,
    weight: Array | float | None = None,
    gan_scale: float = 1e-4,
) -> Array:
    """SiDA's generator loss, ½ of SiD's and ½ of its adversarial term (Zhou et al. 2025).

    Published totals are 100 times the mean of these values over the batch; 100 and the adversarial
    term's own 0.01 make gan_scale. That term counts once for each element of an example, as SiD's
    sum does. Up to 200 kimg the published loop takes `sid` alone, not halved. The sum of the two
    is no divergence's; the first is SiD's at α = 1.

    Args:
      x: [B, ...] generated data.
      d_teacher: [B, ...] D_φ(x + σn; σ).
      d_fake: [B, ...] D_ψ(x + σn; σ).
      logits: [B, ...] at x + σn, from the same pass as d_fake.
      alpha: SiD's α.
      weight: [B] or a number, of both terms; None is 1 / max(mean|x − D_φ|, 1e-5).
      gan_scale: the adversarial term's scale over SiD's.

    Returns:
      [B] float32 or wider, summed over all axes but the first. One example's logits count in all
      values: see `sida_gan_generator`.
    """
    x, d_teacher, d_fake = _per_example.widened(x, d_teacher, d_fake, weight=weight)
    logits = _per_example.logits_for(x, logits)
    if weight is None:
        weight = normalizing_weight(x, d_teacher)
    score = sid(x, d_teacher, d_fake, alpha=alpha, weight=weight)
    scale = gan_scale * _per_example.elements(x)
    return (score + scale * sida_gan_generator(logits, weight=weight)) / 2


def sida_gan_generator(logits: Array, *, weight: Array | float, max_logit: float = 10.0) -> Array:
    """SiDA's adversarial term for the generator: w times one mean of softplus(−ℓ).

    The mean is over the batch and all positions, so that it depends on how many examples are
    given at once, and one that isn't finite spoils all. Logits beyond max_logit have no gradient.

    Args:
      logits: [B, ...] ℓ at x + σn.
      weight: [B] or a number; published is `normalizing_weight`. No gradient flows through it.
      max_logit: the largest absolute logit.

    Returns:
      [B] float32 or wider.
    """
    (logits,) = _per_example.widened(logits, weight=weight)
    clipped = jnp.clip(logits, -max_logit, max_logit)
    return _weighted(jax.nn.softplus(-clipped).mean(), weight, logits)


def sida_gan_discriminator(real: Array, fake: Array, *, weight: Array | float) -> Array:
    """SiDA's adversarial term for the fake score: w/2 times two means of softplus.

    As in `sida_gan_generator` the means are over batch and positions, without a clamp. It is added
    to `denoising`, which is a sum over pixels, as it is: without a factor for their number.

    Args:
      real: [B, ...] ℓ at real data with noise.
      fake: [B, ...] ℓ at generated data with the same noise.
      weight: [B] or a number; published is the λ(σ) of `denoising`. No gradient flows through it.

    Returns:
      [B] float32 or wider.
    """
    real, fake = _per_example.widened(real, fake, weight=weight)
    value = (jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()) / 2
    return _weighted(value, weight, real)


def _weighted(value: Array, weight: Array | float, like: Array) -> Array:
    return jnp.broadcast_to(jax.lax.stop_gradient(weight) * value, like.shape[:1])
