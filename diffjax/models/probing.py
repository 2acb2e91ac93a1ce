"""Measurements that the check of a teacher rests on: samples, and slopes by noise level."""

import dataclasses
import math
from typing import Any

import jax

from diffjax.interfaces import PRNGKey
from diffjax.models import slopes
from diffjax.models.slopes import Denoise, Examples, Level
from diffjax.models.teacher import Teacher

_STEPS, _MORE_STEPS = 24, 96
_MILD = 0.3  # deviation of a slope that a sampler of few steps may leave
FAR = 3.0  # standard deviations, in sigma_data, beyond which samples are no samples


@dataclasses.dataclass(frozen=True)
class Measured:
    """Samples of a denoiser, and its slopes on them or on data.

    Attributes:
      samples: of the denoiser.
      examples: that the slopes were taken on.
      levels: slopes by noise level, rising.
    """

    samples: Examples
    examples: Examples
    levels: tuple[Level, ...]

    @property
    def wrong(self) -> list[Level]:
        """Levels at which the denoiser is wrong."""
        return [each for each in self.levels if each.is_wrong]

    @property
    def deviation(self) -> float:
        """Largest |slope − 1| where it can be told."""
        return max((abs(each.slope - 1) for each in self.levels if each.is_told), default=math.inf)

    @property
    def std(self) -> float:
        """Standard deviation of the samples; NaN if they aren't finite."""
        return self.samples.std


@dataclasses.dataclass(frozen=True)
class Probe:
    """Draws and noise levels with which a teacher, and other readings of it, are measured.

    Attributes:
      teacher: whose shape, conditions, sigma_data and range of noise levels count.
      key: of all draws.
      data: to measure on; None: on a denoiser's own samples.
      count: number of examples.
      levels: number of noise levels.
    """

    teacher: Teacher
    key: PRNGKey
    data: Examples | None
    count: int
    levels: int

    def grid(self, low: float = 0.0, high: float = math.inf) -> list[float]:
        """Noise levels of the teacher that lie within [low, high], rising.

        Args:
          low: the least.
          high: the greatest.
        """
        t = self.teacher
        grid = slopes.levels_between(t.sigma_min, t.sigma_max, self.levels)
        return [each for each in grid if low * (1 - 1e-6) <= each <= high * (1 + 1e-6)]

    def _cond(self, count: int) -> Any:
        law = self.teacher.cond
        return None if law is None else law(jax.random.fold_in(self.key, 1), count)

    def normal(self) -> Examples:
        """Stand-ins for data where the teacher's samples are none."""
        shape = (self.count, *self.teacher.shape)
        x = self.teacher.sigma_data * jax.random.normal(jax.random.fold_in(self.key, 2), shape)
        return Examples(x, self._cond(self.count), 0.0, "N(0, sigma_data^2)")

    def _own(self, denoise: Denoise, grid: list[float], steps: int) -> Examples:
        return slopes.sample(
            denoise,
            jax.random.fold_in(self.key, 3),
            (self.count, *self.teacher.shape),
            self._cond(self.count),
            sigma_min=grid[0],
            sigma_max=grid[-1],
            sigma_data=self.teacher.sigma_data,
            steps=steps,
        )

    def slopes(self, denoise: Denoise, x: Examples, grid: list[float]) -> tuple[Level, ...]:
        """Measure a denoiser's slopes.

        Args:
          denoise: (y, sigma, cond) -> array of y's shape, compiled.
          x: examples.
          grid: noise levels.

        Returns:
          One level each.
        """
        keys = jax.random.split(jax.random.fold_in(self.key, 4), len(grid))
        return tuple(
            slopes.measure(denoise, x, sigma, key) for sigma, key in zip(grid, keys, strict=True)
        )

    def measured(self, denoise: Denoise, grid: list[float], stand_in: bool = True) -> Measured:
        """Sample from a denoiser, and measure its slopes on data, else on the samples.

        Args:
          denoise: (y, sigma, cond) -> array of y's shape, compiled.
          grid: noise levels, rising; sampling goes from the last to the first.
          stand_in: whether samples that spread far beyond sigma_data, and on which it is wrong,
            give way to a normal distribution. Those that aren't finite do in any case.

        Returns:
          All of it.
        """
        own = self._own(denoise, grid, _STEPS)
        if self.data is not None:
            data = dataclasses.replace(self.data, x=self.data.x[: self.count])
            if data.cond is not None:
                cond = jax.tree.map(lambda leaf: leaf[: self.count], data.cond)
                data = dataclasses.replace(data, cond=cond)
            return Measured(own, data, self.slopes(denoise, data, grid))
        if math.isfinite(own.std):
            found = Measured(own, own, self.slopes(denoise, own, grid))
            if found.wrong and found.deviation < _MILD:
                # It may be the sampler: few steps leave samples of thin data too wide.
                own = self._own(denoise, grid, _MORE_STEPS)
                found = Measured(own, own, self.slopes(denoise, own, grid))
            # Too wide, and right all the same: then it is sigma_data that is wrong.
            is_right = not found.wrong and any(each.is_told for each in found.levels)
            if is_right or not stand_in or own.std <= FAR * self.teacher.sigma_data:
                return found
        normal = self.normal()
        return Measured(own, normal, self.slopes(denoise, normal, grid))
