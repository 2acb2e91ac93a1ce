"""FGM, flow generator matching (Huang et al. 2024, arXiv:2410.19310)."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion import noise
from diffjax.interfaces import Array
from diffjax.methods.base import AllParams, Values, register
from diffjax.methods.denoising import denoising_losses, diffuse
from diffjax.methods.draws import Draws
from diffjax.methods.score_distillation import ScoreDistillation


@register("fgm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FGM(ScoreDistillation):
    """FGM of any teacher, read as a flow y = (1 − t) x + t n.

    The fake score learns by flow matching. Both losses are those of velocities u = (y − D)/t, and
    times are uniform in both turns. The generator's gradient flows through both scores, which have
    dropout off, into the sample.
    """

    new_labels: ClassVar = True

    def generator_sigma(self) -> noise.FlowUniform:
        """Noise levels of a uniform time."""
        published = noise.FlowUniform(sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        return published.scaled(self.scale)

    def fake_score_sigma(self) -> noise.FlowUniform:
        """Noise levels of a uniform time."""
        return self.generator_sigma()

    def fake_score_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Squared error of the fake score's velocity on each generated example, [B]."""
        fake_score = self.networks["fake_score"]
        weight = self._velocity_weight(draws)
        return denoising_losses(fake_score, params["fake_score"], x, draws, weight=weight), {}

    def generator_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """FGM's loss of each sample, [B]."""
        d_teacher, d_fake, delta = self.scores(params, diffuse(x, draws), draws, train=False)
        return losses.fgm(x, d_teacher, d_fake, weight=self._velocity_weight(draws)), delta

    def _velocity_weight(self, draws: Draws) -> Array:
        return jnp.square(1 / self.generator_sigma().time(draws.sigma))
