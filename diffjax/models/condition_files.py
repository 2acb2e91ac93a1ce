"""Conditions from a file of embeddings, such as those of a text encoder, computed beforehand."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.files import kinds
from diffjax.models import conditions
from diffjax.models.teacher import CondLaw

_WANTED = "diffjax reads conditions from .npz, .npy and .safetensors, of arrays [N, ...]"


def from_file(path: str | os.PathLike[str]) -> CondLaw:
    """Draw rows of a table that a file holds, with replacement, such as text embeddings.

    Args:
      path: of an .npz or .safetensors of arrays [N, ...], of one N, by name; a name with slashes,
        such as "text/tokens", is a path in nested dicts. Or of an .npy, which is one array.

    Returns:
      Law that gives the dict with [batch, ...] for each array, or [batch, ...] of an .npy; a row
      goes through all of them. 64-bit numbers become 32-bit ones, other types stay.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: in one line, naming the file: if it is another kind of file or damaged; if arrays
        have no rows or different numbers of them, hold other than numbers, aren't finite or don't
        fit into 32 bits; or if one's name is the start of another's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. {_WANTED}")
    try:
        arrays = _read(path)
        for name, array in arrays.items() if isinstance(arrays, dict) else [("", arrays)]:
            _check(name, array)
        return conditions.from_array(_nested(arrays) if isinstance(arrays, dict) else arrays)
    except ValueError as error:
        text = str(error).removeprefix(f"{path}: ").removeprefix("from_array: ")
        raise ValueError(f"{path}: {text}. {_WANTED}") from error


def _read(path: Path) -> dict[str, np.ndarray] | np.ndarray:
    """Read arrays by name, or the one of an .npy."""
    if kinds.of(path) in (kinds.SAFETENSORS, kinds.CUT_SAFETENSORS):
        from diffjax.files import safetensors_file

        return safetensors_file.read(path)[0]
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # NumPy and zipfile raise nearly anything on other and damaged files
        is_other = kinds.of(path) not in (kinds.NPZ, kinds.NPY, None)
        what = kinds.but(path) if is_other else f", or damaged ({error})"
        raise ValueError(f"not such a file{what}") from error


def _check(name: str, array: np.ndarray) -> None:
    what = f"its array {name!r}" if name else "its array"
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise ValueError(f"{what} holds {array.dtype}, not numbers")
    own = array.astype(np.float32) if array.dtype.kind == "V" else array  # of bfloat16
    if not np.isfinite(own).all():
        raise ValueError(f"{what} holds NaN or infinity")


def _nested(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, last = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ValueError(f"the name {name!r} goes through an array")
        if last in node:
            raise ValueError(f"the name {name!r} goes through an array")
        node[last] = array
    return tree
