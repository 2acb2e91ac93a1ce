"""Reading of the trees that a checkpoint holds: the whole state, or one part of it by itself."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from diffjax.files import orbax_support

# A tree of shapes, and what makes the tree of today of such a tree of arrays.
Layout = tuple[Any, Callable[[Any], Any]]


def read(path: Path, abstract: Any, older: Callable[[Any], Sequence[Layout]]) -> Any:
    """Read all arrays that are stored in a folder of Orbax's.

    Args:
      path: the folder.
      abstract: pytree of `jax.ShapeDtypeStruct`, as `Checkpointer.restore` takes it.
      older: lists other layouts, likewise.

    Returns:
      A tree like `abstract`; of an older layout, what its function made.

    Raises:
      ValueError: naming arrays that differ in name or shape.
    """
    # Compared first: Orbax reads as it compares, and fails with pages of other errors.
    handler = ocp.StandardCheckpointHandler()
    stored = handler.metadata(path).tree
    layout, convert = _layout_of(stored, abstract, older(_shapes(stored)))
    orbax_support.check_same_arrays(path.parent, stored, layout)
    like = jax.tree.map(_with_sharding, layout)
    return convert(handler.restore(path, args=ocp.args.StandardRestore(like)))


def read_part(path: Path, abstract: Any, places: Sequence[tuple[str, ...]]) -> Any:
    """Read one tree of those that are stored, and no array beside it.

    Args:
      path: the folder.
      abstract: of the tree, as for `read`.
      places: where it may lie, as names from the root down; the first that is stored is read.

    Returns:
      A tree like `abstract`.

    Raises:
      ValueError: naming arrays of the tree that differ in name or shape.
    """
    handler = ocp.PyTreeCheckpointHandler()
    stored = handler.metadata(path).tree
    place = next((each for each in places if _at(stored, each) is not None), places[0])
    orbax_support.check_same_arrays(path.parent, _at(stored, place), abstract)
    like = jax.tree.map(_with_sharding, abstract)
    for name in reversed(place):
        like = {name: like}
    arguments = ocp.args.PyTreeRestore(
        item=like,
        restore_args=ocp.checkpoint_utils.construct_restore_args(like),
        partial_restore=True,
    )
    return _at(handler.restore(path, args=arguments), place)


def _layout_of(
    stored: Any, abstract: Any, older: Sequence[Layout]
) -> tuple[Any, Callable[[Any], Any]]:
    """Choose by names which layout is stored; where none is, the errors are about today's."""
    names = orbax_support.array_names(stored)
    for layout, convert in [(abstract, _unchanged), *older]:
        if orbax_support.array_names(layout) == names:
            return layout, convert
    return abstract, _unchanged


def _shapes(stored: Any) -> Any:
    """Shapes of stored arrays; Orbax lists empty nodes among them as leaves."""

    def shape(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf

    return jax.tree.map(shape, stored)


def _unchanged(state: Any) -> Any:
    return state


def _at(tree: Any, place: Sequence[str]) -> Any:
    """Look up names from the root of nested dicts down; None where one of them is missing."""
    for name in place:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jnp.zeros(()).sharding
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
