"""Periods of a run, counted in images, which go on where the batch size changes."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Periods in images; 0 is never.

    Attributes:
      batch_size: images an update.
      duration: of the run; the first update that reaches it is the last.
      log: images from one line of metrics to the next, a multiple of `batch_size`; likewise below.
      grid: from one grid of samples to the next.
      checkpoint: from one checkpoint to the next.
      evaluate: from one measurement to the next.
    """

    batch_size: int
    duration: int
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
          duration: of the run, in thousands of images.
          log: see `Schedule`; so are the others, 0 being never.
          grid: likewise.
          checkpoint: likewise.
          evaluate: likewise.
        """

        def whole_updates(kimg: float) -> int:
            return max(1, round(kimg * 1000 / batch_size)) * batch_size if kimg else 0

        return cls(
            batch_size=batch_size,
            duration=images_of_kimg(duration),
            log=whole_updates(log),
            grid=whole_updates(grid),
            checkpoint=whole_updates(checkpoint),
            evaluate=whole_updates(evaluate),
        )

    def is_over(self, images: int) -> bool:
        """Tell whether the run ends where so many images were seen."""
        return images >= self.duration

    @property
    def total(self) -> int:
        """Updates of a run from its start."""
        return self.updates_left(0)

    def images_at_end(self, images: int) -> int:
        """Count the images that will have been seen at the end, from those seen so far."""
        return images + self.updates_left(images) * self.batch_size

    def updates_left(self, images: int) -> int:
        """Count the updates that are left."""
        return max(0, math.ceil((self.duration - images) / self.batch_size))

    def due(self, every: int, images: int) -> bool:
        """Tell whether the update that reached `images` made something due.

        That is so at the end, and where it passed or met a multiple of `every`, one of the periods.
        """
        passed = every and images // every > (images - self.batch_size) // every
        return bool(every) and (bool(passed) or self.is_over(images))

    def updates_to_stop(self, images: int) -> int:
        """Count the updates from here to the next one at which anything happens."""
        periods = [n for n in (self.log, self.grid, self.checkpoint, self.evaluate) if n]
        left = [math.ceil((n - images % n) / self.batch_size) for n in periods]
        return min([self.updates_left(images), *left])

    def is_stop(self, images: int) -> bool:
        """Tell whether anything happens where so many images were seen."""
        return self.updates_to_stop(images - self.batch_size) == 1


def images_of_kimg(kimg: float) -> int:
    """Convert thousands of images to images, rounded up."""
    return math.ceil(round(kimg * 1000, 6))  # 1.001 * 1000 isn't 1001
