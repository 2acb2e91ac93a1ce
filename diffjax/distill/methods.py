"""What sets one method of the family apart from another, as data and one function."""

import dataclasses
import functools
from collections.abc import Callable

from diffjax import losses
from diffjax.interfaces import Array

GeneratorLoss = Callable[[Array, Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Method:
    """A distillation method.

    Attributes:
      generator_loss: (x, D_φ, D_ψ), each [B, ...], -> [B].
      constant_scores: whether the loss takes both denoisers' outputs as constants, so that no
        gradient need flow through the networks into x.
      scores_train: whether teacher and fake score have dropout on, with one mask for both, in the
        generator's update.
      new_labels: whether the generator's update draws labels of its own, or uses those of the last
        round of the fake score's.
    """

    generator_loss: GeneratorLoss
    constant_scores: bool
    scores_train: bool
    new_labels: bool


def diff_instruct() -> Method:
    """Diff-Instruct as its released training loop runs it (Luo et al. 2023)."""
    return Method(
        generator_loss=losses.diff_instruct,
        constant_scores=True,
        scores_train=True,
        new_labels=False,
    )


def sid(alpha: float) -> Method:
    """SiD as its released training loop runs it (Zhou et al. 2024)."""
    return Method(
        generator_loss=functools.partial(losses.sid, alpha=alpha),
        constant_scores=False,
        scores_train=False,
        new_labels=True,
    )
