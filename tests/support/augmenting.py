"""Draws of EDM's augmentation for tests: none at all, and recorded ones."""

import numpy as np
import pytest

from diffjax.diffusion import augmentation
from tests.support import golden_cases


def no_draws(batch: int) -> augmentation.Draws:
    zeros = np.zeros(batch, np.float32)
    return augmentation.Draws(
        zeros, zeros, zeros, zeros, zeros, zeros, np.zeros((batch, 2), np.float32)
    )


OPERATIONS = ("xflip", "yflip", "scale", "rotate_frac", "aniso", "translate_frac")


def golden_draws(
    case: golden_cases.Case, kwargs: dict[str, float], prefix: str = "draw"
) -> tuple[augmentation.Draws, list[int]]:
    """The published code's random numbers, and which of the nine labels it gives with them.

    Args:
      case: that has them.
      kwargs: of the published augmentation.
      prefix: of the names of its numbers.

    Each value is switched by a uniform number after it. What is off takes no numbers.
    """
    settings = {"p": 1, **kwargs}
    others = {key for key, value in settings.items() if value} - {"p", *OPERATIONS}
    if others:
        pytest.skip(f"{case.name}: no test of augmentation with {', '.join(sorted(others))} yet")
    names = sorted(name for name in case.names if name.startswith(prefix))
    arrays = iter([case.raw(name).squeeze() for name in names])
    drawn, columns = no_draws(len(case.raw("images"))), []

    def gated(values: np.ndarray, name: str) -> np.ndarray:
        is_on = next(arrays) < settings[name] * settings["p"]
        return np.where(is_on, values, 0).astype(np.float32)

    def angle(values: np.ndarray) -> np.ndarray:
        return (values * 2 - 1) * np.float32(np.pi)

    for column, name in enumerate(("xflip", "yflip", "scale")):
        if settings.get(name):
            drawn = drawn.replace(**{name: gated(next(arrays), name)})
            columns.append(column)
    if settings.get("rotate_frac"):
        drawn = drawn.replace(rotation=gated(angle(next(arrays)), "rotate_frac"))
        columns += [3, 4]
    if settings.get("aniso"):
        aniso, rotation = next(arrays), angle(next(arrays))
        aniso = gated(aniso, "aniso")
        rotation = np.where(next(arrays) < 0.5, rotation, 0).astype(np.float32)
        drawn = drawn.replace(aniso=aniso, aniso_rotation=rotation)
        columns += [5, 6]
    if settings.get("translate_frac"):
        drawn = drawn.replace(translation=gated(next(arrays), "translate_frac").T)
        columns += [7, 8]
    assert not list(arrays)
    return drawn, columns
