"""Power laws of images, fitted to measurements."""

import math
from typing import NamedTuple

import numpy as np

from diffjax.reports.series import Series

# A distance so many times the best before it is no trend.
BREAKDOWN = 1.5
_FEWEST = 3


class Fit(NamedTuple):
    """Line log(value) = intercept + slope · log(images).

    Attributes:
      slope: the power of images.
      intercept: natural logarithm of the value at one image.
      r2: share of the variance explained; 1 where there is none.
    """

    slope: float
    intercept: float
    r2: float

    def images_at(self, value: float) -> float:
        """Find the images at which the line falls to a value; infinite if it never does."""
        if self.slope >= 0:
            return math.inf
        return math.exp((math.log(value) - self.intercept) / self.slope)

    def at(self, images: float) -> float:
        """Value of the line."""
        return math.exp(self.intercept + self.slope * math.log(images))


def fitted(curve: Series, skip_kimg: float = 0.0, *, rises: bool = False) -> Series:
    """Choose the points that a line is put through: those after `skip_kimg`, up to a breakdown.

    Args:
      curve: (thousands of images, value), in order; values that have no logarithm are left out.
      skip_kimg: thousands of images before the fit.
      rises: whether higher is better, so that no rise is a breakdown.
    """
    points: Series = []
    for kimg, value in curve:
        if not (kimg > 0 and 0 < value < math.inf):
            continue
        if not rises and points and value > BREAKDOWN * min(value for _, value in points):
            break
        if kimg > skip_kimg:
            points.append((kimg, value))
    return points


def fit(curve: Series, skip_kimg: float = 0.0, *, rises: bool = False) -> Fit | None:
    """Fit a line to a curve's `fitted` points by least squares; None of fewer than three.

    Args:
      curve: as for `fitted`.
      skip_kimg: likewise.
      rises: likewise.
    """
    points = np.array(fitted(curve, skip_kimg, rises=rises))
    if len(points) < _FEWEST or len(set(points[:, 0])) < _FEWEST:
        return None
    x, y = np.log(points[:, 0] * 1000), np.log(points[:, 1])
    slope, intercept = np.polyfit(x, y, 1)
    residual = y - (intercept + slope * x)
    r2 = 1 - residual.var() / y.var() if y.var() else 1.0
    return Fit(float(slope), float(intercept), float(r2))
