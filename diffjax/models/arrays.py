"""Arrays of a user's parameters, by name, apart from the tree that they belong to.

A run trains, averages, shards and saves nested dicts of arrays, real numbers in float32. A user's
own tree may be of any nodes and hold anything: what isn't trained is put back before each call, and
arrays get their own types back.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.files import orbax_support
from diffjax.interfaces import Params
from diffjax.models import trainable as trainable_lib
from diffjax.models.trainable import Path, Trainable

_ROOT: Path = ("array",)  # name of parameters that are one array


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """Parameters of a record, parted into what is trained and the rest.

    Attributes:
      tree: the record's own.
      trainable: (path, leaf) -> whether the leaf is trained.
      read: reads the values of a tree whose own stand for their shapes and types; None where they
        are the values.
    """

    tree: Params
    trainable: Trainable
    read: Callable[[], Params] | None = None

    @functools.cached_property
    def _leaves(self) -> list[tuple[Path, Any]]:
        leaves = jax.tree_util.tree_leaves_with_path(self.tree)
        return [(trainable_lib.names(path) or _ROOT, leaf) for path, leaf in leaves]

    @functools.cached_property
    def values(self) -> Params:
        """The record's own tree, with its values."""
        return self.tree if self.read is None else self.read()

    @functools.cached_property
    def _actual(self) -> "Arrays":
        return self if self.read is None else Arrays(self.values, self.trainable)

    @functools.cached_property
    def _is_trained(self) -> list[bool]:
        return [trainable_lib.is_trained(path, leaf, self.trainable) for path, leaf in self._leaves]

    def abstract(self) -> Params:
        """Shapes and types of what is trained, as runs keep it."""
        return self._trained(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, _kept(leaf.dtype)))

    def start(self) -> Params:
        """Give what is trained, as the record has it."""
        return self._actual._trained(lambda leaf: jnp.asarray(leaf, _kept(leaf.dtype)))

    def whole(self, trained: Params) -> Params:
        """Put the rest back, for a call of the record's function.

        Args:
          trained: in the tree of `abstract`.

        Returns:
          The record's own tree, with the types that it has there.
        """
        leaves = [
            _at(trained, path).astype(jax.dtypes.canonicalize_dtype(leaf.dtype))
            if is_trained
            else leaf
            for (path, leaf), is_trained in zip(self._leaves, self._is_trained, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(self.tree), leaves)

    def stored(self, trained: Params) -> Params:
        """Give all arrays by name, to be written: those that are trained, and the others.

        Args:
          trained: in the tree of `abstract`.
        """
        return _nested(
            (path, _at(trained, path) if is_trained else _written(leaf))
            for (path, leaf), is_trained in zip(self._actual._leaves, self._is_trained, strict=True)
            if _is_array(leaf)
        )

    def abstract_stored(self) -> Params:
        """Shapes and types of what `stored` gives."""
        stored = dataclasses.replace(self, read=None).stored(self.abstract())
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stored)

    def replaced(self, stored: Params) -> "Arrays":
        """Take other values for all arrays.

        Args:
          stored: as `stored` gives them.

        Raises:
          ValueError: naming the arrays that differ in name or shape.
        """
        if differences := orbax_support.differing_arrays(stored, self.abstract_stored()):
            raise ValueError(differences)
        leaves = [
            _read(_at(stored, path), leaf) if _is_array(leaf) else leaf
            for path, leaf in self._leaves
        ]
        tree = jax.tree.unflatten(jax.tree.structure(self.tree), leaves)
        return Arrays(tree, self.trainable)

    def digest(self) -> str:
        """SHA-256 of all arrays and their names."""
        digest = hashlib.sha256()
        for path, leaf in self._actual._leaves:
            if _is_array(leaf):
                array = np.ascontiguousarray(_written(leaf))
                digest.update(f"{'/'.join(path)} {array.dtype} {array.shape}\n".encode())
                digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def _trained(self, kept: Callable[[Any], Any]) -> Params:
        return _nested(
            (path, kept(leaf))
            for (path, leaf), is_trained in zip(self._leaves, self._is_trained, strict=True)
            if is_trained
        )


def _nested(leaves: Iterable[tuple[Path, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for (*groups, name), leaf in leaves:
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = leaf
    return tree


def _at(tree: Any, path: Path) -> Any:
    return functools.reduce(lambda node, name: node[name], path, tree)


def _is_array(leaf: Any) -> bool:
    # Orbax writes no array without elements, and the function gives those again.
    return isinstance(leaf, jax.Array | np.ndarray) and leaf.size > 0


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _written(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _read(value: Any, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(like))
    if isinstance(like, np.ndarray):  # whose 64 bits JAX may not have
        return np.asarray(value).astype(like.dtype)
    return jnp.asarray(value, like.dtype)


def _kept(dtype: Any) -> Any:
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else dtype
