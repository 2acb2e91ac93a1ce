"""DMD, distribution matching distillation (Yin et al., CVPR 2024, arXiv:2311.18828)."""

import dataclasses
from typing import ClassVar

import jax

from diffjax import losses
from diffjax.diffusion import noise
from diffjax.diffusion.noise import SigmaDistribution
from diffjax.interfaces import Array
from diffjax.methods.base import AllParams, Values, register
from diffjax.methods.denoising import diffuse
from diffjax.methods.draws import Draws
from diffjax.methods.score_distillation import ScoreDistillation

# Of the grid's 1000 points, those that noise levels are drawn from.
FIRST, LAST = 20, 980
# Of the mean |x - D_teacher| that the loss is divided by.
FLOOR = 1e-5


@register("dmd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DMD(ScoreDistillation):
    """DMD's distribution matching alone.

    DMD has a second term, a regression in LPIPS on pairs of noise and teacher's sample. It isn't
    here: the weights of LPIPS can't be had. Both scores are constants, so that no gradient flows
    through them, and have dropout off.
    """

    new_labels: ClassVar = True

    def generator_sigma(self) -> SigmaDistribution:
        """Points 20 to 980 of EDM's grid of 1000, all alike."""
        published = noise.KarrasGrid(
            FIRST, LAST, sigma_min=self.sigma_min, sigma_max=self.sigma_max
        )
        return published.scaled(self.scale)

    def generator_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """DMD's loss of each sample, [B]: half of the squared step that it asks for."""
        y = diffuse(jax.lax.stop_gradient(x), draws)
        d_teacher, d_fake, delta = self.scores(params, y, draws, train=False)
        return losses.dmd(x, d_teacher, d_fake, floor=FLOOR), delta
