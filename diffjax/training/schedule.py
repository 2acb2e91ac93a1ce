"""Periods of a run, counted in updates."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Periods in updates; 0 is never.

    Attributes:
      total: updates of the run.
      log: updates from one line of metrics to the next.
      grid: from one grid of samples to the next.
      checkpoint: from one checkpoint to the next.
      evaluate: from one measurement to the next.
    """

    total: int
    log: int
    grid: int
    checkpoint: int
    evaluate: int

    @classmethod
    def of_kimg(
        cls,
        batch_size: int,
        *,
        duration: float,
        log: float,
        grid: float,
        checkpoint: float,
        evaluate: float,
    ) -> "Schedule":
        """Convert periods in thousands of images, each rounded to an update and at least one.

        Args:
          batch_size: images an update.
          duration: of the run, rounded up.
          log: see `Schedule`; so are the others, 0 being never.
          grid: likewise.
          checkpoint: likewise.
          evaluate: likewise.
        """

        def updates(kimg: float) -> int:
            return max(1, round(kimg * 1000 / batch_size)) if kimg else 0

        return cls(
            total=total_updates(duration, batch_size),
            log=updates(log),
            grid=updates(grid),
            checkpoint=updates(checkpoint),
            evaluate=updates(evaluate),
        )

    def due(self, every: int, step: int) -> bool:
        """Tell whether something that happens `every` so many updates, and at the end, is due."""
        return bool(every) and (step % every == 0 or step == self.total)

    def next_stop(self, step: int) -> int:
        """Find the next update after `step` at which anything happens."""
        periods = [n for n in (self.log, self.grid, self.checkpoint, self.evaluate) if n]
        return min([self.total, *(step - step % n + n for n in periods)])

    def is_stop(self, step: int) -> bool:
        """Tell whether anything happens at `step`."""
        return step == self.next_stop(step - 1)


def total_updates(duration_kimg: float, batch_size: int) -> int:
    """Convert a duration in thousands of images to updates, rounded up."""
    return math.ceil(duration_kimg * 1000 / batch_size)
