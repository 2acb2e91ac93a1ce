"""Data sets that fit on a device, by name."""

import numpy as np

from diffjax import digits

_NAMES = ("digits",)


def describe(name: str) -> tuple[tuple[int, int, int], int]:
    """The image shape (H, W, C) and the number of classes of a data set.

    Raises:
      ValueError: naming the known ones.
    """
    _check(name)
    return (digits.RESOLUTION, digits.RESOLUTION, 1), digits.NUM_CLASSES


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, H, W, C] float32 in [-1, 1], and classes [N] int32.

    Raises:
      ValueError: naming the known ones.
    """
    _check(name)
    return digits.load()


def _check(name: str) -> None:
    if name not in _NAMES:
        raise ValueError(f"dataset={name!r} is unknown; known are: {', '.join(_NAMES)}.")
