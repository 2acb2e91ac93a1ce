"""f-distill, distribution matching under f-divergences (Xu et al. 2025, arXiv:2502.15681).

    repeat:
      θ: x = G_θ(z);  follow  −∇_θ [ mean ½ (x − sg(x − h w (D_ψ − D_φ)))² + 3e-3 softplus(−ℓ(y)) ]
      ψ: four times, with new x, and real x_r:
         follow  −∇_ψ [ mean (D_ψ(y; σ) − x)² + softplus(ℓ(y)) + softplus(−ℓ(x_r + σ'n')) ]

where y = x + σn, ℓ are heads on the encoder of the teacher D_φ, and h is made of the density ratio
exp ℓ(y).
As FastGen has it, NVIDIA's code; formulas in `losses.f_distill`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.noise import KarrasGrid
from diffjax.interfaces import Array, PRNGKey
from diffjax.methods.base import AllParams, Learner, Turn, Values, register
from diffjax.methods.denoising import diffuse
from diffjax.methods.draws import Dataset, Draws
from diffjax.methods.generator_first import ADAMW, GeneratorFirst
from diffjax.methods.score_distillation import ScoreDistillation, mean_difference
from diffjax.methods.settings import (
    COUNT,
    FLAG,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    WHOLE,
    named,
    setting,
)
from diffjax.networks.discriminator_head import DiscriminatorHeads

_BINS = 10
_R1_NOISE = 0.1


def _ones() -> Array:
    return jnp.ones(_BINS, jnp.float32)


@register("f_distill")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FDistill(GeneratorFirst):
    """f-distill as FastGen runs it; under `reverse_kl`, DMD2 as FastGen runs that.

    The heads' parameters are kept with the fake score's: their losses share none, so that each
    learns as if alone. Means over the batch are over a round's examples, in h as well.

    Attributes:
      divergence: a name of `losses.F_DIVERGENCES`. Under "reverse_kl" h is 1, no ratio is needed.
      gan_scale: factor on the generator's adversarial term; published are 1e-3 on CIFAR-10 and
        3e-3 on ImageNet 64x64.
      discriminator_scale: factor on the discriminator's loss; 1 is published.
      r1_scale: factor on the approximate R1 penalty; published is 1 on CIFAR-10, else none.
      fake_score_updates: updates of fake score and discriminator an update of the generator.
      same_noise: whether real examples get the noise of the generated ones.
      head_levels: levels of the encoder with a head, from the coarsest; 0 for all, as on CIFAR-10.
      ratio_min: the least density ratio.
      ratio_max: the greatest.
      normalize_ratio: whether ratios are divided by their mean among like noise levels.
      ratio_decay: how much of these means an update keeps; published are 0.5 on ImageNet 64x64 and
        0 on CIFAR-10, where nothing is kept from update to update.
    """

    divergence: str = setting("jensen_shannon", named(*losses.F_DIVERGENCES))
    discriminator_scale: float = setting(1.0, NOT_NEGATIVE, field="fake_score.gan_scale")
    r1_scale: float = setting(0.0, NOT_NEGATIVE, field="fake_score.r1_scale")
    fake_score_updates: int = setting(4, COUNT, field="fake_score.updates")
    same_noise: bool = setting(False, FLAG)
    head_levels: int = setting(1, WHOLE)
    ratio_min: float = setting(0.1, POSITIVE)
    ratio_max: float = setting(20.0, POSITIVE)
    normalize_ratio: bool = setting(True, FLAG)
    ratio_decay: float = setting(0.5, SHARE)

    learners: ClassVar = (
        Learner("ratio_means", starts_as=_ones),
        Learner("generator", averaged=True, fields={**ADAMW, "max_grad_norm": 10.0}),
        Learner("fake_score", fields=ADAMW, has_head=True),
    )
    judged_by: ClassVar = "teacher"
    couples_examples: ClassVar = True
    shown: ClassVar = {**ScoreDistillation.shown, "gan": "gan", "discriminator": "judge"}
    fake_reports: ClassVar = ("discriminator", "r1")
    generator_reports: ClassVar = ("delta", "gan")
    generator_indices: ClassVar = (2, 998)
    fake_score_indices: ClassVar = (2, 998)

    def __post_init__(self) -> None:
        """Refuse a range that is empty, and means that never change."""
        if self.ratio_min >= self.ratio_max:
            raise ValueError(
                f"ratio_min={self.ratio_min} must be under ratio_max={self.ratio_max}."
            )
        if self.ratio_decay == 1:
            raise ValueError("ratio_decay=1.0 never changes the means: less is needed.")

    def idle(self) -> dict[str, str]:
        """List augmentation, and settings of a ratio that isn't taken."""
        found = {"augment_probability": "f-distill's fake score learns from samples as they are"}
        if self.divergence == "reverse_kl":
            of_ratio = ("ratio_min", "ratio_max", "ratio_decay")
            found |= dict.fromkeys(of_ratio, "divergence='reverse_kl' takes no density ratio")
            if not self.gan_scale:
                heads = "fake_score.gan_scale", "fake_score.r1_scale", "head_levels", "same_noise"
                why = "generator.gan_scale=0 and divergence='reverse_kl' ask no discriminator"
                found |= dict.fromkeys(heads, why)
        elif not self.normalize_ratio:
            found["ratio_decay"] = "normalize_ratio=False takes no means"
        return found

    @classmethod
    def head(cls, settings: Mapping[str, Any]) -> nn.Module:
        """Make a head for each level that is judged."""
        return DiscriminatorHeads(levels=settings["head_levels"])

    def turns(self) -> tuple[Turn, ...]:
        """List the turns of the ratios' running means, if any are kept, generator, fake score."""
        means = Turn("ratio_means", self.training_samples, self.ratio_loss, prefix="ratio_")
        return (*[means] * self._keeps_means, *super().turns())

    def ratio_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Half the squared distance of the running means to those that they become, for each."""
        _, logits = self.judged(params, diffuse(x, draws), draws.sigma, draws.labels)
        means = params["ratio_means"]
        _, after = self._weight(logits, draws.sigma, means, self.ratio_decay)
        value = jnp.square(means - jax.lax.stop_gradient(after)).sum() / 2
        return jnp.broadcast_to(value, x.shape[:1]), {}

    def generator_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Matching of each sample, and passing for a real one, [B]."""
        y = diffuse(x, draws)
        d_teacher, logits = self.judged(params, y, draws.sigma, draws.labels)
        d_fake = self.networks["fake_score"](
            params["fake_score"], jax.lax.stop_gradient(y), draws.sigma, labels=draws.labels
        )
        weight = losses.normalizing_weight(x, d_teacher, floor=0.0, epsilon=1e-6)
        if self.divergence != "reverse_kl":
            kept = (params["ratio_means"], 1.0) if self._keeps_means else (_ones(), 0.0)
            weight *= self._weight(logits, draws.sigma, *kept)[0]
        matching = losses.dmd(x, d_teacher, d_fake, weight=weight) / x[0].size
        adversarial = losses.gan_generator(logits)
        figures = {"delta": mean_difference(d_teacher, d_fake), "gan": adversarial}
        return matching + self.gan_scale * adversarial, figures

    def fake_score_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Denoising of each generated example, and telling it from a real one, [B]."""
        assert draws.real is not None, "f-distill's discriminator sees real examples"
        x = jax.lax.stop_gradient(x)
        y = diffuse(x, draws)
        denoised = self.networks["fake_score"](
            params["fake_score"],
            y,
            draws.sigma,
            labels=draws.labels,
            train=True,
            rng=draws.dropout,
        )
        of_score = losses.denoising(x, denoised, weight=1.0) / x[0].size
        of_real = draws
        if not self.same_noise:
            of_real = dataclasses.replace(
                draws, sigma=draws.more["real_sigma"], noise=draws.more["real_noise"]
            )
        sigma, labels = of_real.sigma, draws.real_labels
        _, fake = self.judged(params, y, draws.sigma, draws.labels)
        _, real = self.judged(params, diffuse(draws.real, of_real), sigma, labels)
        told = losses.gan_discriminator(real, fake)
        penalty = jnp.zeros_like(told)
        if self.r1_scale:
            nudged = draws.real + _R1_NOISE * self.scale * draws.more["r1_noise"]
            _, beside = self.judged(params, nudged, sigma, labels)
            penalty = losses.approximate_r1(real, beside)
        adversarial = self.discriminator_scale * told + self.r1_scale * penalty
        return of_score + adversarial, {"discriminator": told, "r1": penalty}

    def draw(self, key: PRNGKey, data: Dataset | None = None) -> dict[str, Draws]:
        """Draw the randomness of an update; the ratios' means are of the generator's samples."""
        draws = super().draw(key, data)
        return {**draws, "ratio_means": draws["generator"]} if self._keeps_means else draws

    def with_more(self, key: PRNGKey, draws: dict[str, Draws]) -> dict[str, Draws]:
        """Give generated examples the real ones' labels, and real ones noise of their own."""
        fake_score = draws["fake_score"]
        fake_score = dataclasses.replace(fake_score, labels=fake_score.real_labels)
        fake_score = self.with_noise(key, fake_score, "real", self.fake_score_sigma())
        more = dict(fake_score.more)
        if self.r1_scale:
            shape = fake_score.noise.shape
            more["r1_noise"] = jax.random.normal(jax.random.fold_in(key, 1), shape, jnp.float32)
        fake_score = dataclasses.replace(fake_score, more=more)
        return self.aligned({**draws, "fake_score": fake_score})

    @property
    def _keeps_means(self) -> bool:
        needs = self.normalize_ratio and self.divergence != "reverse_kl"
        return bool(needs and self.ratio_decay)

    def _weight(
        self, logits: Array, sigma: Array, means: Array, decay: float
    ) -> tuple[Array, Array]:
        ends = KarrasGrid().scaled(self.scale)
        return losses.normalized_f_divergence_weight(
            logits,
            sigma,
            means,
            divergence=self.divergence,
            decay=decay,
            ratio_range=(self.ratio_min, self.ratio_max),
            sigma_range=(ends.grid_min, ends.grid_max),
            normalize_ratio=self.normalize_ratio,
        )
