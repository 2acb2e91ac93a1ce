"""f-distill: distribution matching under other f-divergences, by a density ratio."""

import chex
import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.losses import _f_divergences, _per_example
from diffjax.losses.dmd import dmd
from diffjax.losses.normalizing_weight import normalizing_weight


def f_divergence_weight(ratio: Array, divergence: str) -> Array:
    """Weight h(r) = f''(r) r² of an f-divergence on the gradient of DMD (Xu et al. 2025).

    r = q_σ(y) / p_σ(y), teacher over generator, at the noised sample y. A discriminator's logit,
    real against generated, estimates log r. With p_σ the generator's marginal,
    D_f(q_σ ‖ p_σ) = E_{p_σ} f(r) has the gradient E[h(r) (s_ψ − s_φ) ∂x/∂θ].

    With their f and h these are

    - `reverse_kl`: −log r, 1;
    - `soft_reverse_kl`: (r + 1) log(½ + 1/(2r)), 1/(1 + r);
    - `jensen_shannon`: r log r − (r + 1) log((r + 1)/2), r/(1 + r);
    - `squared_hellinger`: 1 − √r, √r/4;
    - `forward_kl`: r log r, r;
    - `jeffreys`: (r − 1) log r, 1 + r;
    - `neyman`: (1/r − 1)/2, 1/r.

    f-distill's paper has the first six, FastGen Neyman's. FastGen's short names do as well: `rkl`,
    `sf`, `js`, `sh`, `kl`, `jf`.

    Args:
      ratio: r > 0, of any shape.
      divergence: a name of the list, or a short one.

    Returns:
      h(r), of the ratio's shape, float32 or wider. Gradients flow through it; `dmd` stops them.

    Raises:
      ValueError: no divergence has the name.
    """
    name, ratio = _f_divergences.full_name(divergence), jnp.asarray(ratio)
    return _f_divergences.WEIGHTS[name](ratio.astype(jnp.promote_types(ratio.dtype, jnp.float32)))


def f_distill(
    x: Array,
    d_teacher: Array,
    d_fake: Array,
    ratio: Array,
    *,
    divergence: str,
    weight: Array | float | None = None,
    floor: float = 0.0,
    epsilon: float = 1e-6,
) -> Array:
    """f-distill's generator loss ½ ‖x − sg(x − g)‖², g = h(r) w (D_ψ − D_φ) (Xu et al. 2025).

    That is `dmd` with the weight h(r) w. With exact denoisers, the exact ratio and a weight w(σ),
    the expected gradient is that of ∫ w σ² D_f(q_σ ‖ p_σ): see `f_divergence_weight`. The published
    code clamps and normalises h: see `normalized_f_divergence_weight`.

    Args:
      x: [B, ...] generated data.
      d_teacher: [B, ...] D_φ(x + σn; σ); no gradient flows into it.
      d_fake: [B, ...] D_ψ(x + σn; σ); no gradient flows into it.
      ratio: [B] density ratio at x + σn, teacher over generator; no gradient flows into it.
      divergence: a name that `f_divergence_weight` knows.
      weight: w, [B] or a number; None is 1 / mean|x − D_φ|, of which the next two speak.
      floor: least value of that mean.
      epsilon: added to that mean; FastGen's 1e-6.

    Returns:
      [B] float32 or wider, summed over all axes but the first.

    Raises:
      ValueError: no divergence has the name.
    """
    x, d_teacher, d_fake = _per_example.widened(x, d_teacher, d_fake, weight=weight)
    chex.assert_shape(ratio, (x.shape[0],))
    if weight is None:
        weight = normalizing_weight(x, d_teacher, floor=floor, epsilon=epsilon)
    return dmd(x, d_teacher, d_fake, weight=weight * f_divergence_weight(ratio, divergence))


def normalized_f_divergence_weight(
    logits: Array,
    sigma: Array,
    bins: Array,
    *,
    divergence: str,
    decay: float,
    max_logit: float = 10.0,
    ratio_range: tuple[float, float] = (0.1, 20.0),
    sigma_range: tuple[float, float] = (0.002, 80.0),
    normalize_ratio: bool = True,
) -> tuple[Array, Array]:
    """Weight h(r) as FastGen computes it: clamped and divided by running and batch means.

    In this order: the mean logit over heads; clamp to ± max_logit; r = exp; clamp to ratio_range.
    Each of the bins, linear in σ over sigma_range, keeps a mean of its ratios,
    bin ← decay · bin + (1 − decay) · mean, unless none fell into it; r is divided by its bin, just
    updated, and isn't clamped again. Then h(r), divided by its mean over the batch. FastGen adds
    1e-6 to each divisor, and has √r for the squared Hellinger distance, without the ¼.

    Bins are as wide as in FastGen: 8 wide with ten of them, so that most noise levels fall into
    the first.

    Args:
      logits: [B, ...] at the noised samples, real against generated; [B, heads] in FastGen.
      sigma: [B] their noise levels.
      bins: [N] the running means, 1 at the start.
      divergence: a name that `f_divergence_weight` knows. FastGen's own `reverse_kl` crashes; DMD2
        is that method.
      decay: how much a bin keeps of its old mean: 0 on CIFAR-10, 0.5 on ImageNet 64x64.
      max_logit: the largest absolute logit.
      ratio_range: the least and largest ratio.
      sigma_range: the ends of the first and the last bin.
      normalize_ratio: whether ratios are divided by their bins; else bins stay as they are.

    Returns:
      h [B], float32 or wider, through which no gradient flows, and the new bins [N]. Means are over
      the batch that is given, so that one example that isn't finite spoils all.

    Raises:
      ValueError: no divergence has the name.
    """
    (logits,) = _per_example.widened(logits)
    chex.assert_shape(sigma, (logits.shape[0],))
    chex.assert_rank(bins, 1)
    logits = jnp.clip(_per_example.mean(logits), -max_logit, max_logit)
    ratio = jnp.clip(jnp.exp(jax.lax.stop_gradient(logits)), *ratio_range)
    if normalize_ratio:
        low, high = sigma_range
        index = (_per_example.wide(sigma) - low) / (high - low) * bins.shape[0]
        index = jnp.clip(jnp.floor(index).astype(jnp.int32), 0, bins.shape[0] - 1)
        inside = jax.nn.one_hot(index, bins.shape[0], dtype=ratio.dtype)
        count = inside.sum(axis=0)
        means = ratio @ inside / (count + 1e-6)
        bins = jnp.where(count > 0, decay * bins + (1 - decay) * means, bins)
        ratio = ratio / (bins[index] + 1e-6)
    h = f_divergence_weight(ratio, divergence)
    if _f_divergences.full_name(divergence) == "squared_hellinger":
        h = 4 * h
    return h / (h.mean() + 1e-6), bins
