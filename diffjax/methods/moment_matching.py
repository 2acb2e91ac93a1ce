"""Moment matching (Salimans et al., NeurIPS 2024, arXiv:2406.04103)."""

import dataclasses
from typing import ClassVar

import jax

from diffjax import losses
from diffjax.diffusion import noise
from diffjax.diffusion.noise import SigmaDistribution
from diffjax.interfaces import Array
from diffjax.methods.base import AllParams, Values, register
from diffjax.methods.denoising import denoised, diffuse, noisy
from diffjax.methods.draws import Draws
from diffjax.methods.score_distillation import ScoreDistillation


@register("moment_matching")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentMatching(ScoreDistillation):
    """Moment matching by an auxiliary network, for a generator of one step.

    The auxiliary network is the fake score, of another loss: it ends half-way between the
    generator's denoiser and the teacher's. It and the generator take turns. Weights of times and
    learning rates of the paper aren't known here: noise levels are log-normal, the auxiliary
    loss has EDM's weight, the generator's has Diff-Instruct's, 1 on denoisers. Scores have dropout
    off in the generator's turn.
    """

    new_labels: ClassVar = True

    def generator_sigma(self) -> SigmaDistribution:
        """EDM's log-normal noise levels."""
        return self.lognormal()

    def fake_score_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Loss of the auxiliary network on each generated example, [B]."""
        data = noisy(x, draws)
        d_auxiliary = denoised(self.networks["fake_score"], params["fake_score"], data, draws)
        d_teacher = self.networks["teacher"](
            params["teacher"],
            data.y,
            draws.sigma,
            labels=draws.labels,
            augment_labels=data.augment_labels,
        )
        weight = noise.edm_weight(draws.sigma, self.sigma_data)
        return losses.moment_matching_auxiliary(data.x, d_teacher, d_auxiliary, weight=weight), {}

    def generator_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Moment matching's loss of each sample, [B]."""
        y = diffuse(jax.lax.stop_gradient(x), draws)
        d_teacher, d_auxiliary, delta = self.scores(params, y, draws, train=False)
        return losses.moment_matching(x, d_teacher, d_auxiliary), delta
