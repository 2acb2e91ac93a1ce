"""SIM, score implicit matching (Luo et al., NeurIPS 2024, arXiv:2410.16794)."""

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
from diffjax.methods.settings import POSITIVE, T_MAX, named, setting


@register("sim")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SIM(ScoreDistillation):
    """SIM, for distances of scores or of denoisers.

    A distance of denoisers is one of scores that depends on the noise level: they differ by σ². The
    generator's gradient flows through both scores, which have dropout off, into the sample. What
    is published leaves c, the weight and the noise levels open. Chosen here are a distance of
    denoisers, so that no level counts more than others by its σ alone, and SiD's noise levels.

    Attributes:
      distance: "pseudo_huber" for √(‖·‖² + c²) − c, "squared" for ‖·‖².
      distance_of: "denoisers" or "scores".
      c: of the pseudo-Huber distance; of denoisers of data of standard deviation 0.5, or of their
        scores.
      weight: "unit" for 1, "normalizing" for SiD's 1/mean|x − D_φ|.
      t_max: noise levels are drawn from the part of EDM's grid below t_max / 1000, (0, 1000].
    """

    distance: str = setting("pseudo_huber", named("pseudo_huber", "squared"))
    distance_of: str = setting("denoisers", named("denoisers", "scores"))
    c: float = setting(1.0, POSITIVE)
    weight: str = setting("unit", named("unit", "normalizing"))
    t_max: float = setting(800.0, T_MAX)

    suspects: ClassVar = ("c", "weight", *ScoreDistillation.suspects)
    new_labels: ClassVar = True

    def idle(self) -> dict[str, str]:
        """List the constant of another distance."""
        return {"c": "distance='squared' has no constant"} if self.distance == "squared" else {}

    def generator_sigma(self) -> SigmaDistribution:
        """EDM's sampling grid at u ~ U(0, t_max / 1000)."""
        published = noise.KarrasUniform(
            t_max=self.t_max, sigma_min=self.sigma_min, sigma_max=self.sigma_max
        )
        return published.scaled(self.scale)

    def generator_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """SIM's loss of each sample, [B]."""
        d_teacher, d_fake, delta = self.scores(params, diffuse(x, draws), draws, train=False)
        of_scores = self.distance_of == "scores"
        loss = losses.sim(
            x,
            d_teacher,
            d_fake,
            draws.sigma if of_scores else 1.0,
            distance=self.distance,
            c=self.c / self.scale if of_scores else self.c * self.scale,
            weight=losses.normalizing_weight(x, d_teacher) if self.weight == "normalizing" else 1.0,
        )
        return loss, delta
