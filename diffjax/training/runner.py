"""Parts of an update, and the interface of what executes them."""

from collections.abc import Callable
from typing import Any, Protocol

import flax.struct
import optax

from diffjax.interfaces import Array, Params
from diffjax.methods import Turn
from diffjax.methods.base import AllParams
from diffjax.methods.draws import Draws
from diffjax.training.state import TrainState

Metrics = dict[str, Array]
# Of a round or of all rounds: a gradient and metrics, summed over examples.
Sums = tuple[Any, Metrics]
# From a gradient of samples to that of what made them.
Pullback = Callable[[Array], tuple[Params]]


@flax.struct.dataclass
class Outcome:
    """Results of the turns so far, of the learners that had one.

    Attributes:
      params: learner -> parameters.
      opt: learner -> state of its optimiser.
      metrics: name -> scalar.
      finite: bool scalar, whether all losses and gradients were.
    """

    params: dict[str, Params]
    opt: dict[str, optax.OptState]
    metrics: Metrics
    finite: Any

    def followed_by(self, other: "Outcome") -> "Outcome":
        """Add a later turn's results, whose `finite` speaks for both."""
        return Outcome(
            params={**self.params, **other.params},
            opt={**self.opt, **other.opt},
            metrics={**self.metrics, **other.metrics},
            finite=other.finite,
        )


class Runner(Protocol):
    """Execution of an update's parts. What a round's draws are is the runner's own affair."""

    def lend(self, turn: Turn, params: AllParams, draws: Draws) -> Any:
        """Make all samples of a turn, for another turn to learn from too."""

    def gradient(self, turn: Turn, params: AllParams, draws: Draws, time: Any, lent: Any) -> Sums:
        """Sum a turn's gradient and metrics over the rounds of its repetition `time`."""

    def step(self, turn: Turn, images: Array, before: Outcome, sums: Sums) -> Outcome:
        """Follow a gradient; `before` holds this learner alone."""

    def repeat(
        self, take: Callable[[Any, Outcome], Outcome], start: int, end: int, before: Outcome
    ) -> Outcome:
        """Take repetitions from `start` to before `end`, each from the one before."""

    def if_due(
        self, turn: Turn, step: Array, before: Outcome, take: Callable[[Outcome], Outcome]
    ) -> Outcome:
        """Take a turn in the updates in which it is due, and rest in others."""

    def finish(self, state: TrainState, outcome: Outcome, sums: Sums | None) -> Any:
        """End the update: the last turn's step from its sums, if any, the averages, the verdict."""
