"""Checks of the arrays that metrics are given."""

from typing import Any

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


def as_rows(name: str, array: Any) -> Float64Array:
    """Convert an array to float64 [N, D], one row an image.

    Args:
      name: of the array in an error.
      array: [N, D], anything that NumPy or JAX can hold.

    Raises:
      ValueError: the array isn't [N, D] with N, D >= 1, or holds NaN or infinity.
    """
    rows = np.asarray(array, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"{name} must be [N, D] with one row an image, got shape {rows.shape}.")
    if not np.isfinite(rows).all():
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        raise ValueError(
            f"{name} holds NaN or infinity in {len(bad)} of {len(rows)} rows, the first being row "
            f"{bad[0]}: look at what these rows were computed from."
        )
    return rows


def as_row_pair(
    name_a: str, a: Any, name_b: str, b: Any, *, at_least: int, why: str
) -> tuple[Float64Array, Float64Array]:
    """Convert two arrays of features to float64 [N, D] and [M, D], with N, M >= `at_least`.

    Args:
      name_a: of `a` in an error.
      a: [N, D].
      name_b: of `b` in an error.
      b: [M, D].
      at_least: the fewest rows that each needs.
      why: the setting that asks for so many rows, for the error.

    Raises:
      ValueError: one of them isn't [N, D] and finite, has too few rows, or D differs.
    """
    rows_a, rows_b = as_rows(name_a, a), as_rows(name_b, b)
    if rows_a.shape[1] != rows_b.shape[1]:
        raise ValueError(
            f"{name_a} and {name_b} must have the same number of features, "
            f"got {rows_a.shape[1]} and {rows_b.shape[1]}."
        )
    for name, rows in ((name_a, rows_a), (name_b, rows_b)):
        if len(rows) < at_least:
            raise ValueError(f"{name} has {len(rows)} rows, but {why} needs at least {at_least}.")
    return rows_a, rows_b


def as_flat_pair(
    name_a: str, a: Any, name_b: str, b: Any, *, at_least: int = 1, why: str = "a distance"
) -> tuple[Float64Array, Float64Array]:
    """Convert two sets of examples of any one shape to float64 [N, D] and [M, D].

    Args:
      name_a: of `a` in an error.
      a: [N, *shape].
      name_b: of `b` in an error.
      b: [M, *shape].
      at_least: the fewest examples that each needs.
      why: what asks for so many, for the error.

    Raises:
      ValueError: the shapes of an example differ, a set is too small, or a number isn't finite.
    """
    a, b = np.asarray(a), np.asarray(b)
    for name, array in ((name_a, a), (name_b, b)):
        if array.ndim == 0 or array.size == 0:
            raise ValueError(f"{name} must be [N, *shape], got shape {array.shape}.")
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"examples of {name_a} and {name_b} must have one shape, got {a.shape[1:]} and "
            f"{b.shape[1:]}."
        )
    flat_a, flat_b = (array.reshape(len(array), -1) for array in (a, b))
    return as_row_pair(name_a, flat_a, name_b, flat_b, at_least=at_least, why=why)
