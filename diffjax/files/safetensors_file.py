"""Files of the safetensors format, arrays by name and texts beside them."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from diffjax.files import kinds, writing

MAX_FILE_BYTES = 1 << 36
FLOATING = MappingProxyType(
    {"F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": jnp.bfloat16}
)
ALL = MappingProxyType(
    {
        **FLOATING,
        **{f"I{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
        **{f"U{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
        "BOOL": np.bool_,
        "C64": np.complex64,
    }
)


def read(
    path: Path, *, dtypes: Mapping[str, Any] = ALL
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read arrays by name, each in the type that it is stored in, and the texts of the header.

    Args:
      path: of the file.
      dtypes: types that are taken, by the format's names.

    Returns:
      The arrays, read-only, and the texts by name.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: in one line, naming the file and what it is instead, or the array of another type.
    """
    try:
        content = kinds.read(path, max_bytes=MAX_FILE_BYTES)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        # Not the package's own NumPy reader: NumPy hasn't bfloat16.
        entries = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        is_another = kinds.of(path) not in (None, kinds.SAFETENSORS, kinds.CUT_SAFETENSORS)
        what = kinds.but(path) if is_another else ""
        why = what or f", or damaged ({error}): download it again"
        raise ValueError(f"{path}: not a safetensors file{why}") from error
    arrays = {}
    for name, entry in entries:
        dtype = dtypes.get(entry["dtype"])
        if dtype is None:
            raise ValueError(
                f"{path}: {name} is {entry['dtype']}; {', '.join(dtypes)} are read: save it in "
                "float32"
            )
        arrays[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return arrays, header.get("__metadata__", {})


def write(path: Path, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
    """Write arrays and texts; the file is there whole or not at all.

    Args:
      path: of the file.
      arrays: by name.
      texts: by name, for the header.

    Raises:
      OSError: if it can't be written.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with writing.replacing(path) as partial:
        partial.write_bytes(safetensors_numpy.save(contiguous, dict(texts)))
