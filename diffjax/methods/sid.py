"""SiD, Score identity Distillation (Zhou et al., ICML 2024, arXiv:2404.04057)."""

import dataclasses
from typing import ClassVar

from diffjax import losses
from diffjax.diffusion import noise
from diffjax.diffusion.noise import SigmaDistribution
from diffjax.interfaces import Array
from diffjax.methods.base import AllParams, Values, register
from diffjax.methods.denoising import diffuse
from diffjax.methods.draws import Draws
from diffjax.methods.score_distillation import ScoreDistillation
from diffjax.methods.settings import FINITE, POSITIVE, SHARES, T_MAX, named, setting

UNIFORM_TIME = "uniform_time"


@register("sid")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SiD(ScoreDistillation):
    """SiD as its released training loop runs it.

    The generator's gradient flows through both scores, which have dropout off, into the sample.
    With uncertainty weighting its loss is divided by exp(u) too, u the fake score's log-variance.

    SiD-LSG (Zhou et al. 2024, arXiv:2406.01561) is this with alpha 1, both scales of the losses 1,
    guidance, and noise levels and weight of its own: "uniform_time" in both turns, and "eps".

    Attributes:
      alpha: weight of the squared difference of the scores; 1.2 and 1 are published.
      t_max: "karras_uniform" draws from the part of EDM's grid below t_max / 1000, (0, 1000].
      generator_levels: distribution of the noise levels in the generator's turn, "karras_uniform",
        or "uniform_time" of the teacher's own process.
      fake_score_levels: in the fake score's turn, "lognormal" or "uniform_time".
      fake_score_weighting: of its loss, "edm" for λ(σ), or "eps" for 1/σ², the loss of the noise.
      time_range: shares of the process's times, from the data on, between which "uniform_time"
        draws; see `noise.UniformTime`.
      generator_loss_scale: factor on the generator's loss; 100 is published.
    """

    alpha: float = setting(1.2, FINITE)
    t_max: float = setting(800.0, T_MAX)
    generator_levels: str = setting(
        "karras_uniform", named("karras_uniform", UNIFORM_TIME), field="generator.noise_levels"
    )
    fake_score_levels: str = setting(
        "lognormal", named("lognormal", UNIFORM_TIME), field="fake_score.noise_levels"
    )
    fake_score_weighting: str = setting("edm", named("edm", "eps"), field="fake_score.weighting")
    time_range: tuple[float, float] = setting((0.02, 0.98), SHARES)
    generator_loss_scale: float = setting(100.0, POSITIVE, field="generator.loss_scale")

    suspects: ClassVar = ("alpha", *ScoreDistillation.suspects)
    weighs_by_uncertainty: ClassVar = True
    new_labels: ClassVar = True

    def generator_sigma(self) -> SigmaDistribution:
        """EDM's sampling grid at u ~ U(0, t_max / 1000), or uniform times."""
        if self.generator_levels == UNIFORM_TIME:
            return self.uniform_time()
        published = noise.KarrasUniform(
            t_max=self.t_max, sigma_min=self.sigma_min, sigma_max=self.sigma_max
        )
        return published.scaled(self.scale)

    def fake_score_sigma(self) -> SigmaDistribution:
        """EDM's log-normal noise levels, or uniform times."""
        return self.uniform_time() if self.fake_score_levels == UNIFORM_TIME else self.lognormal()

    def uniform_time(self) -> noise.UniformTime:
        """Noise levels at uniform times of the teacher's process.

        Raises:
          ValueError: if it has none, or none between those shares.
        """
        process = getattr(self.networks["teacher"], "process", None)
        if process is None:
            raise ValueError("the teacher has no diffusion process of which times could be drawn.")
        first, last = self.time_range
        return noise.UniformTime(process, first, last, self.sigma_min, self.sigma_max)

    def fake_score_weight(self, sigma: Array) -> Array | None:
        """Weight of the fake score's loss, 1/σ² or None for EDM's."""
        return noise.eps_weight(sigma) if self.fake_score_weighting == "eps" else None

    def generator_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """SiD's loss of each sample, [B]."""
        d_teacher, d_fake, delta = self.scores(params, diffuse(x, draws), draws, train=False)
        values = losses.sid(x, d_teacher, d_fake, alpha=self.alpha)
        return self.certainty(params, draws.sigma) * values, delta
