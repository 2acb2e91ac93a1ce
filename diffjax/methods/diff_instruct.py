"""Diff-Instruct (Luo et al., NeurIPS 2023, arXiv:2305.18455)."""

import dataclasses
from typing import ClassVar

import jax

from diffjax import losses
from diffjax.diffusion.noise import SigmaDistribution
from diffjax.interfaces import Array
from diffjax.methods.base import AllParams, Values, register
from diffjax.methods.denoising import diffuse
from diffjax.methods.draws import Draws
from diffjax.methods.score_distillation import ScoreDistillation


@register("diff_instruct")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffInstruct(ScoreDistillation):
    """Diff-Instruct as its released training loop runs it.

    Both scores are constants, so that no gradient flows through them; they have dropout on, with
    one mask for both, and see the labels of the fake score's update. Uncertainty weighting is of
    the fake score's loss alone: for the generator's nothing is published.
    """

    weighs_by_uncertainty: ClassVar = True
    new_labels: ClassVar = False

    def generator_sigma(self) -> SigmaDistribution:
        """EDM's log-normal noise levels."""
        return self.lognormal()

    def generator_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Diff-Instruct's loss of each sample, [B]; its gradient is the IKL divergence's."""
        y = diffuse(jax.lax.stop_gradient(x), draws)
        d_teacher, d_fake, delta = self.scores(params, y, draws, train=True)
        return losses.diff_instruct(x, d_teacher, d_fake), delta
