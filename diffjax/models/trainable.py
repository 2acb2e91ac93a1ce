"""Which of a model's parameters are trained, and which are carried along."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array, Params

Path = tuple[str, ...]  # names from the root: keys of dicts, attributes, places in lists as digits
Trainable = Callable[[Path, Array], bool]

FROZEN = "frozen"


def not_frozen(path: Path, leaf: Array) -> bool:
    """Say whether a leaf is trained, by the layout of the adapters: not below "frozen".

    Args:
      path: names from the root to the leaf.
      leaf: the leaf, which isn't looked at.
    """
    del leaf
    return FROZEN not in path


def names(path: tuple[Any, ...]) -> Path:
    """Make a path of strings of JAX's path of keys; a place in a list becomes its digits.

    Args:
      path: as `jax.tree_util.tree_flatten_with_path` gives it.

    Returns:
      One string a key, such as `("layers", "0", "weight")`.
    """
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def is_inexact_array(leaf: Any) -> bool:
    """Say whether a leaf is an array, of JAX or NumPy, of floating-point or complex numbers."""
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct) and bool(
        jnp.issubdtype(leaf.dtype, jnp.inexact)
    )


def is_trained(path: Path, leaf: Any, trainable: Trainable = not_frozen) -> bool:
    """Say whether a leaf is trained: an inexact array, not frozen, that `trainable` lets through.

    An array without elements isn't.

    Args:
      path: names from the root to the leaf.
      leaf: the leaf.
      trainable: (path, leaf) -> whether it is trained; asked about inexact arrays only.
    """
    if not is_inexact_array(leaf) or not leaf.size:
        return False
    return not_frozen(path, leaf) and bool(trainable(path, leaf))


def split(params: Params, trainable: Trainable = not_frozen) -> tuple[Params, Params]:
    """Part what is trained from all else: integers, random keys, what isn't an array.

    What an adapter froze, all below a key "frozen", is not trained whatever `trainable` says.

    Args:
      params: any pytree, also of `jax.ShapeDtypeStruct`s.
      trainable: (path, leaf) -> whether the leaf is trained; asked about inexact arrays only.

    Returns:
      (trained, rest), each the tree of `params` with None where the other has the leaf.
    """
    mask = jax.tree_util.tree_map_with_path(
        lambda path, leaf: is_trained(names(path), leaf, trainable), params
    )
    trained = jax.tree.map(lambda leaf, m: leaf if m else None, params, mask)
    rest = jax.tree.map(lambda leaf, m: None if m else leaf, params, mask)
    return trained, rest


def merge(trained: Params, rest: Params) -> Params:
    """Put together what `split` parted.

    Args:
      trained: as `split` gave it, or new values in the same tree.
      rest: as `split` gave it.

    Returns:
      The tree that `split` was given.
    """
    return jax.tree.map(
        lambda a, b: b if a is None else a, trained, rest, is_leaf=lambda leaf: leaf is None
    )
