"""When what happens in a run, counted in updates."""

import dataclasses

from ml_collections import ConfigDict

from diffjax.runs import building


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Periods in updates; 0 is never.

    Attributes:
      total: updates of the run.
      log: updates from one line of metrics to the next.
      grid: the same for grids of samples.
      checkpoint: for checkpoints.
      evaluate: for measurements.
    """

    total: int
    log: int
    grid: int
    checkpoint: int
    evaluate: int

    @classmethod
    def of(cls, config: ConfigDict) -> "Schedule":
        """The schedule of a config, whose periods are thousands of images."""

        def updates(kimg: float) -> int:
            return max(1, round(kimg * 1000 / config.batch_size)) if kimg else 0

        return cls(
            total=building.total_steps(config),
            log=updates(config.log_kimg),
            grid=updates(config.grid_kimg),
            checkpoint=updates(config.checkpoint_kimg),
            evaluate=updates(config.evaluate.every_kimg),
        )

    def due(self, every: int, step: int) -> bool:
        """Whether something that happens `every` so many updates, and at the end, happens now."""
        return bool(every) and (step % every == 0 or step == self.total)

    def next_stop(self, step: int) -> int:
        """The next update after `step` at which anything happens."""
        periods = [n for n in (self.log, self.grid, self.checkpoint, self.evaluate) if n]
        return min([self.total, *(step - step % n + n for n in periods)])

    def is_stop(self, step: int) -> bool:
        """Whether anything happens at `step`."""
        return step == self.next_stop(step - 1)
