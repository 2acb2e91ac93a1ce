"""Settings as JSON that every reader understands.

JSON knows neither infinities nor NumPy: the first become {"float": "inf"}, numbers of the second
become Python's, and tuples become lists.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def encode(name: str, value: Any) -> Any:
    """Encode a value in what JSON can hold.

    Args:
      name: of the value, for the message.
      value: numbers, strings, booleans, None, and lists, tuples or mappings of these.

    Returns:
      Python's numbers, strings, booleans, None, and lists or dictionaries of these.

    Raises:
      ValueError: naming the part of the value that can't be held.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"{name} has keys that aren't strings")
        return {key: encode(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(f"{name}[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{name} is a {type(value).__name__}, which a description can't hold")


def decode(value: Any) -> Any:
    """Decode what `encode` gave; tuples stay lists."""
    if isinstance(value, dict):
        if value.keys() == {"float"}:
            return float(value["float"])
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    return value


def dumps(name: str, value: Any, *, indent: int | None = 2) -> str:
    """Write a value as JSON text that ends in a newline.

    Args:
      name: of the value, for the message.
      value: as `encode` takes it.
      indent: spaces a level; None writes one line.

    Raises:
      ValueError: naming the part of the value that can't be held.
    """
    return json.dumps(encode(name, value), indent=indent, allow_nan=False) + "\n"
