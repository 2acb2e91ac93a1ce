"""Uni-Instruct: matching scores under an expanded f-divergence, and what its code released."""

import chex
import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.losses import _f_divergences, _per_example
from diffjax.losses.normalizing_weight import normalizing_weight
from diffjax.losses.sid import sid
from diffjax.losses.sida import sida_gan_generator


def uni_instruct(
    x: Array,
    d_teacher: Array,
    d_fake: Array,
    log_ratio: Array,
    sigma: Array | float,
    *,
    divergence: str,
    through_ratio: bool = True,
    weight: Array | float | None = None,
) -> Array:
    """Uni-Instruct's generator loss w (hΔ · (D_ψ − x) + ½ (h − rh′) ‖Δ‖²) (Wang et al. 2025).

    Δ = D_φ − D_ψ, r = q_σ(y)/p_σ(y), teacher over generator, and h = f''(r) r² as in
    `f_divergence_weight`. Along the diffusion, D_f of the data from the samples is
    ½ ∫ g² E_{p_t}[h ‖s_φ − s_ψ‖²] dt. Its gradient has three parts: that y moves; that r at a
    fixed y changes; and that s_ψ does. The first two are the gradient in y of (h − rh′)‖Δ‖², the
    third, as in SIM, that of 2hΔ · (D_ψ − x). r and h are functions of y, and ∇ log r = Δ/σ² is
    known, so that the logit's value is enough and no gradient flows into the discriminator.

    With exact denoisers, the exact ratio and a weight w(σ), the expected gradient is that of
    ½ E w h(r) ‖Δ‖². For `reverse_kl` this is SiD at α = ½. The weights on ‖Δ‖² and its gradient
    are those that the released code has for Jensen-Shannon and χ², which can't run there.

    The slope of log r takes the denoisers for exact, and multiplies their errors by 1/σ²: trained
    networks break down by it. `through_ratio` False leaves it out, as the released code stops its
    ratio. What remains is the gradient of no divergence but for `reverse_kl`.

    Args:
      x: [B, ...] generated data.
      d_teacher: [B, ...] D_φ(x + σn; σ); gradients flow through it.
      d_fake: [B, ...] D_ψ(x + σn; σ); gradients flow through it.
      log_ratio: [B] log r at x + σn: a discriminator's logit, clipped so that exp doesn't overflow.
        No gradient flows into it.
      sigma: noise levels, [B] or a number; it counts where the gradient flows through the ratio.
      divergence: a name that `f_divergence_weight` knows.
      through_ratio: whether gradients flow through the ratio's dependence on x.
      weight: w, [B] or a number; None is 1 / max(mean|x − D_φ|, 1e-5). No gradient flows through
        it.

    Returns:
      [B] float32 or wider, summed over all axes but the first.

    Raises:
      ValueError: no divergence has the name.
    """
    x, d_teacher, d_fake = _per_example.widened(x, d_teacher, d_fake, weight=weight)
    (log_ratio,) = _per_example.widened(log_ratio)
    chex.assert_shape(log_ratio, x.shape[:1])
    _per_example.check_weight(sigma, x.shape[0])
    if weight is None:
        weight = normalizing_weight(x, d_teacher)
    delta = d_teacher - d_fake
    log_ratio = jax.lax.stop_gradient(log_ratio)
    if through_ratio:  # the same value, with the gradient Δ/σ²; x − sg(x) is 0
        slope = jax.lax.stop_gradient(delta / jnp.square(_per_example.along(sigma, x)))
        log_ratio += _per_example.total(slope * (x - jax.lax.stop_gradient(x)))
    weight_of_log = _f_divergences.WEIGHTS_OF_LOG[_f_divergences.full_name(divergence)]
    h, rh = jax.jvp(weight_of_log, (log_ratio,), (jnp.ones_like(log_ratio),))  # h, dh/d log r
    first = h * _per_example.total(delta * (d_fake - x))
    second = (h - rh) / 2 * _per_example.total(jnp.square(delta))
    return jax.lax.stop_gradient(weight) * (first + second)


def uni_instruct_released(
    x: Array,
    d_teacher: Array,
    d_fake: Array,
    logits: Array,
    *,
    forward: float = 1.0,
    reverse: float = 0.0,
    gan_scale: float = 1e-4,
    reduce_variance: bool = False,
    weight: Array | float | None = None,
) -> Array:
    """Loss of Uni-Instruct's released code, (forward · r + reverse) · SiD + GAN, for parity alone.

    SiD is `sid` at α = 1. r = −ℓ/(1 − ℓ), stopped, where ℓ is the GAN term: `sida_gan_generator`
    times the number of an example's elements. As ℓ is in the hundreds, r is 1 to a part in
    a thousand: this is no density ratio, the gradient is no f-divergence's, and hardly differs
    from SiDA's. Take `uni_instruct` for anything else.

    The code's divergences: "Forward-KL" is forward 1, reverse 0; "Jeffrey-KL" 0.4 and 0.6;
    "Forward-Clean" as the first with gan_scale 0; "None" 0 and 0. Totals are 100 times
    the mean over the batch.

    Args:
      x: [B, ...] generated data.
      d_teacher: [B, ...] D_φ(x + σn; σ); gradients flow through it.
      d_fake: [B, ...] D_ψ(x + σn; σ); gradients flow through it.
      logits: [B, ...] at x + σn, from the same pass as d_fake.
      forward: factor of the part that r weights.
      reverse: factor of the part without r.
      gan_scale: factor of the GAN term.
      reduce_variance: whether r is divided by its sum over the batch, an option of the code.
      weight: [B] or a number; None is 1 / max(mean|x − D_φ|, 1e-5). No gradient flows through it.

    Returns:
      [B] float32 or wider, summed over all axes but the first.
    """
    x, d_teacher, d_fake = _per_example.widened(x, d_teacher, d_fake, weight=weight)
    logits = _per_example.logits_for(x, logits)
    if weight is None:
        weight = normalizing_weight(x, d_teacher)
    adversarial = _per_example.elements(x) * sida_gan_generator(logits, weight=weight)
    ratio = jax.lax.stop_gradient(-adversarial / (1 - adversarial))
    if reduce_variance:
        ratio = ratio / (ratio.sum() + 1e-8)
    score = sid(x, d_teacher, d_fake, alpha=1.0, weight=weight)
    return (forward * ratio + reverse) * score + gan_scale * adversarial
