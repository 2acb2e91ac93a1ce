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
from diffjax.methods.settings import FINITE, POSITIVE, T_MAX, setting


@register("sid")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SiD(ScoreDistillation):
    """SiD as its released training loop runs it.

    The generator's gradient flows through both scores, which have dropout off, into the sample.
    With uncertainty weighting its loss is divided by exp(u) too, u the fake score's log-variance.

    Attributes:
      alpha: weight of the squared difference of the scores; 1.2 and 1 are published.
      t_max: noise levels are drawn from the part of EDM's grid below t_max / 1000, (0, 1000].
      generator_loss_scale: factor on the generator's loss; 100 is published.
    """

    alpha: float = setting(1.2, FINITE)
    t_max: float = setting(800.0, T_MAX)
    generator_loss_scale: float = setting(100.0, POSITIVE, field="generator.loss_scale")

    suspects: ClassVar = ("alpha", *ScoreDistillation.suspects)
    weighs_by_uncertainty: ClassVar = True
    new_labels: ClassVar = True

    def generator_sigma(self) -> SigmaDistribution:
        """EDM's sampling grid at u ~ U(0, t_max / 1000)."""
        published = noise.KarrasUniform(
            t_max=self.t_max, sigma_min=self.sigma_min, sigma_max=self.sigma_max
        )
        return published.scaled(self.scale)

    def generator_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """SiD's loss of each sample, [B]."""
        d_teacher, d_fake, delta = self.scores(params, diffuse(x, draws), draws, train=False)
        values = losses.sid(x, d_teacher, d_fake, alpha=self.alpha)
        return self.certainty(params, draws.sigma) * values, delta
