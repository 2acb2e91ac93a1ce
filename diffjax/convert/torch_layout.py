"""Arrays of PyTorch's layers in the layouts of Flax's, and what is wrong with a set of them."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.files import kinds

Path = tuple[str, ...]
_NEAR = 1e-4  # for constants, which others may have computed in float32


def flatten(tree: Any) -> list[tuple[Path, Any]]:
    """List the leaves of nested dicts with their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(tuple(str(key.key) for key in path), leaf) for path, leaf in leaves]


def nest(leaves: Mapping[Path, Any], collections: Iterable[str]) -> dict[str, Any]:
    """Make nested dicts of leaves by path.

    Args:
      leaves: by path.
      collections: keys of the result that are there even where they are empty.
    """
    tree: dict[str, Any] = {name: {} for name in collections}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def from_torch(path: Path, array: np.ndarray) -> np.ndarray:
    """Bring an array from PyTorch's layout to Flax's, in float32.

    Args:
      path: of the leaf; a kernel is transposed, all else stays.
      array: the kernel [out, in] or [out, in, h, w], or anything else.
    """
    if path[-1] == "kernel":  # [out, in] and [out, in, h, w] -> [in, out] and [h, w, in, out]
        array = array.transpose(1, 0) if array.ndim == 2 else array.transpose(2, 3, 1, 0)
    return np.asarray(array, np.float32, order="C")


def to_torch(path: Path, array: np.ndarray) -> np.ndarray:
    """Bring an array from Flax's layout to PyTorch's, in float32.

    Args:
      path: of the leaf; a kernel is transposed, all else stays.
      array: the leaf.
    """
    if path[-1] == "kernel":
        array = array.transpose(1, 0) if array.ndim == 2 else array.transpose(3, 2, 0, 1)
    return np.asarray(array, np.float32, order="C")


def torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in PyTorch's layout of a leaf.

    Args:
      path: of the leaf.
      shape: in Flax's layout.
    """
    if path[-1] != "kernel":
        return shape
    return shape[::-1] if len(shape) == 2 else (shape[3], shape[2], shape[0], shape[1])


def faults(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Say what is wrong with each array that doesn't fit.

    Args:
      arrays: as they were found.
      shapes: as they should be.

    Returns:
      One clause for each array that is missing, not expected, of another shape, not of floating
      point, or not finite in float32.
    """
    found = [f"{name} is missing" for name in shapes if name not in arrays]
    for name, array in arrays.items():
        if name not in shapes:
            found.append(f"{name} is not expected")
        elif array.shape != shapes[name]:
            found.append(f"{name} has shape {array.shape} instead of {shapes[name]}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            found.append(f"{name} is {array.dtype}, not floating point")
        elif not _is_finite_in_float32(array):
            found.append(f"{name} holds NaN or infinity")
    return found


def check(
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, np.ndarray],
) -> None:
    """Check that arrays are a network's.

    Args:
      arrays: as they were found, by name.
      shapes: as they should be.
      constants: arrays among them whose values are known, such as resampling filters.

    Raises:
      ValueError: naming each array that is missing, not expected, of another shape, not of floating
        point or not finite, and each constant that isn't the network's; or the wrapper that the
        network was saved from within.
    """
    if hint := kinds.wrapper_hint(arrays, shapes):
        raise ValueError(hint)
    found = faults(arrays, shapes)
    told = {fault.partition(" ")[0] for fault in found}
    found += [
        f"{name} is not the {name.rpartition('.')[2]} of the arguments"
        for name, constant in constants.items()
        if name not in told and not np.allclose(arrays[name], constant, rtol=1e-3, atol=_NEAR)
    ]
    if found:
        raise ValueError("the arrays do not fit the network: " + "; ".join(found))


def _is_finite_in_float32(array: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(np.float32)).all())
