"""Sizes of numbers that runs can hold: counts in 32 bits, others in float32."""

import math
from typing import Any

import numpy as np

from diffjax.methods.settings import is_number, is_whole

_COUNTED = 2**31
_SMALLEST, _LARGEST = (float(getattr(np.finfo(np.float32), name)) for name in ("tiny", "max"))


def check(field: str, value: Any) -> None:
    """Check that the numbers of a field in its range don't become 0 or infinite, or overflow.

    Args:
      field: its dotted name.
      value: a number, or several; anything else passes, and so do 0 and infinity.

    Raises:
      ValueError: naming the field, its value and what would do.
    """
    for each in value if isinstance(value, list | tuple) else (value,):
        if is_whole(each):
            # Seeds have a range of their own.
            if abs(each) >= _COUNTED and field.rpartition(".")[2] != "seed":
                raise ValueError(f"config.{field}={value}: counts are under 2**31; take less.")
        elif is_number(each) and each and math.isfinite(each) and not _fits(each):
            raise ValueError(
                f"config.{field}={value}: float32 holds {_SMALLEST:.2g} to {_LARGEST:.2g}; take a "
                "number among these."
            )


def _fits(value: float) -> bool:
    return _SMALLEST <= abs(value) <= _LARGEST
