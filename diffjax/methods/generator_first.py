"""Algorithm of DMD2, SMD and f-distill: the generator's turn, then several of the fake score.

    repeat:
      θ: x = G_θ(z);  follow  −∇_θ [ matching(x, D_φ, D_ψ) + an adversarial term ]
      ψ: several times, with new x or first with the x above, and real x_r:
         follow  −∇_ψ [ denoising of x + telling x from x_r ]

Losses are means over the elements of an example, noise levels come from a grid of 1000.
"""

import dataclasses
from typing import ClassVar

import jax

from diffjax.diffusion import noise
from diffjax.diffusion.noise import SigmaDistribution
from diffjax.interfaces import Array, PRNGKey
from diffjax.methods.adversarial import Adversarial, like
from diffjax.methods.base import Turn
from diffjax.methods.draws import Draws
from diffjax.methods.score_distillation import ScoreDistillation
from diffjax.methods.settings import NOT_NEGATIVE, setting

# AdamW of these methods, the greatest norm of a gradient apart.
ADAMW = {"b1": 0.9, "weight_decay": 0.01}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorFirst(Adversarial):
    """Adversarial distillation whose updates begin with the generator's turn.

    Attributes:
      gan_scale: factor on the generator's adversarial term.
    """

    gan_scale: float = setting(3e-3, NOT_NEGATIVE, field="generator.gan_scale")

    suspects: ClassVar = ("generator.gan_scale", *ScoreDistillation.suspects)
    new_labels: ClassVar = True
    # Indices of the least and greatest noise levels of the two turns, in a grid of 1000.
    generator_indices: ClassVar[tuple[int, int]]
    fake_score_indices: ClassVar[tuple[int, int]]

    def turns(self) -> tuple[Turn, ...]:
        """List the generator's turn, then the fake score's, which may borrow at first."""
        fake_score, generator = super().turns()
        return generator, dataclasses.replace(fake_score, borrows_at=0)

    def generator_sigma(self) -> SigmaDistribution:
        """A part of the grid."""
        return self._grid(*self.generator_indices)

    def fake_score_sigma(self) -> SigmaDistribution:
        """A part of the grid."""
        return self._grid(*self.fake_score_indices)

    def aligned(self, draws: dict[str, Draws]) -> dict[str, Draws]:
        """Give the fake score's first repetition latents and labels of what it borrows."""
        if not self.share_samples:
            return draws
        fake_score, lender = draws["fake_score"], draws["generator"]

        def first(own: Array, lent: Array) -> Array:
            return own.at[0].set(lent[0])

        z, labels = (
            jax.tree.map(first, own, lent)
            for own, lent in ((fake_score.z, lender.z), (fake_score.labels, lender.labels))
        )
        return {**draws, "fake_score": dataclasses.replace(fake_score, z=z, labels=labels)}

    def with_noise(self, key: PRNGKey, draws: Draws, name: str, sigma: SigmaDistribution) -> Draws:
        """Draw noise besides a turn's own, as {name}_sigma and {name}_noise of `more`."""
        levels, normals = like(draws, key, sigma)
        more = {**draws.more, f"{name}_sigma": levels, f"{name}_noise": normals}
        return dataclasses.replace(draws, more=more)

    def _grid(self, first: int, last: int) -> noise.KarrasGrid:
        grid = noise.KarrasGrid(first, last, sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        return grid.scaled(self.scale)
