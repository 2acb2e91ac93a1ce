"""Axes of a chart: their range, their ticks, and where a value lies."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# Beyond this a value is drawn as one that isn't finite, so that differences don't overflow.
LARGEST = 1e150
_TICKS = 5


class Axis(NamedTuple):
    """Axis from `low` to `high`, which differ.

    Attributes:
      low: value at its start.
      high: value at its end.
      is_log: whether equal ratios have equal lengths.
    """

    low: float
    high: float
    is_log: bool

    def place(self, value: float) -> float:
        """Place of a value between 0 at the start and 1 at the end, cut to that."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values along the axis, few enough to be read."""
        if self.is_log and self.high / self.low >= 10:
            return self._log_ticks()
        step = _round_step((self.high - self.low) / _TICKS)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]

    def _log_ticks(self) -> list[float]:
        decades = range(
            math.floor(math.log10(self.low)), math.floor(math.log10(self.high) + 1e-9) + 1
        )
        for factors in ((1, 2, 5), (1, 3), (1,)):
            found = [
                factor * 10.0**decade
                for decade in decades
                for factor in factors
                if self.low <= factor * 10.0**decade * (1 + 1e-9)
                and factor * 10.0**decade <= self.high * (1 + 1e-9)
            ]
            if len(found) <= _TICKS + 2:
                return found
        return found[:: math.ceil(len(found) / _TICKS)]


def around(values: Iterable[float], *, is_log: bool) -> Axis:
    """Make the axis that shows all values, with some room about them.

    Args:
      values: finite; positive for a logarithmic axis.
      is_log: whether equal ratios are to have equal lengths.
    """
    found = list(values)
    low, high = (min(found), max(found)) if found else (1.0, 2.0)
    if is_log:
        room = max((high / low) ** 0.06, 1.02)
        return Axis(low / room, high * room, True)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    # What is never negative, such as a count, has no axis below 0.
    return Axis(max(low - room, 0.0) if low >= 0 else low - room, high + room, False)


def has_logarithms(values: Sequence[float]) -> bool:
    """Tell whether there are values, all positive, and ratios of them don't overflow."""
    return bool(values) and min(values) >= 1 / LARGEST


def is_wide(values: Sequence[float]) -> bool:
    """Tell whether values are so far apart that a logarithmic axis, if it can be, shows more."""
    return has_logarithms(values) and max(values) / min(values) > 30


def short(value: float) -> str:
    """Write a value in four digits or fewer."""
    return f"{value:.4g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def images(kimg: float) -> str:
    """Write thousands of images as a count, 12.8k or 200M."""
    count = kimg * 1000
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size * 0.9995:
            return f"{count / size:.4g}{unit}"
    return f"{count:.4g}"


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
