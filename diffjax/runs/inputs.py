"""Inputs of an update that it never changes: a teacher's parameters, real images."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffjax import data
from diffjax.data import DataSource
from diffjax.interfaces import Params
from diffjax.methods.draws import Dataset
from diffjax.models.denoiser import NetworkDenoiser
from diffjax.models.teacher import CondLaw
from diffjax.runs import networks
from diffjax.runs.networks import Denoiser, Network
from diffjax.training import dataset, precision


class Input(Protocol):
    """One of the trees that updates read, by name in `Method.reads`."""

    def load(self) -> Any:
        """Read it, or None where it is streamed."""

    def abstract(self) -> Any:
        """Shapes and types of what updates read, or None where it is streamed."""

    def content(self) -> dict[str, Any]:
        """Describe by sizes and digests what is there, wherever it lies."""

    def narrowed(self, tree: Any) -> Any:
        """Convert what `load` read to the type that updates read it in."""

    def stream(self, start: int, mesh: Mesh) -> Iterator[Any] | None:
        """Give the inputs of updates after `start` images, or None where `load` has them."""


@dataclasses.dataclass(frozen=True)
class TeacherInput:
    """A teacher's parameters.

    Attributes:
      source: where they are; see `networks.teacher`.
      denoiser: the teacher's network.
      storage: type that they are kept in; None is float32.
      network: what the source names; None opens it.
    """

    source: str
    denoiser: Denoiser
    storage: Any = None
    network: Network | None = None

    def load(self) -> Params:
        """Read the parameters, float32."""
        return (self.network or networks.teacher(self.source)).load()

    def abstract(self) -> Params:
        """Shapes and types of the parameters as they are kept."""
        params = self.denoiser.abstract_params()
        dtype = self.storage or jnp.float32
        kept, put_back = self._kept(params)
        return put_back(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), kept))

    def content(self) -> dict[str, Any]:
        """Describe the teacher's file or folder."""
        return (self.network or networks.teacher(self.source)).content()

    def narrowed(self, tree: Params) -> Params:
        """Convert parameters to the type that they are kept in; buffers stay as they are.

        Raises:
          ValueError: if that type can't hold them.
        """
        if self.storage is None:
            return tree
        dtype = jnp.dtype(self.storage)
        try:
            kept, put_back = self._kept(tree)
            return put_back(precision.cast(kept, dtype))
        except ValueError as error:
            raise ValueError(
                f"config.teacher_dtype={dtype.name!r}: the teacher's {error} Set it to 'bfloat16', "
                "which has the range of float32."
            ) from error

    def _kept(self, tree: Params) -> tuple[Params, Callable[[Params], Params]]:
        """Part off what is kept in `storage`, all but our own networks' buffers."""
        if isinstance(self.denoiser, NetworkDenoiser):
            return tree["params"], lambda kept: {**tree, "params": kept}
        return tree, lambda kept: kept

    def stream(self, start: int, mesh: Mesh) -> None:
        """Give None, since parameters lie on the devices."""
        del start, mesh


@dataclasses.dataclass(frozen=True)
class LawInput:
    """Arrays of a law of conditions, such as a table of embeddings.

    Attributes:
      law: a pytree of arrays, as `models.from_array` gives it.
    """

    law: CondLaw

    def load(self) -> CondLaw:
        """Give the law as it is."""
        return self.law

    def abstract(self) -> Any:
        """Shapes and types of its arrays, in the law's own tree."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self.law)

    def content(self) -> dict[str, Any]:
        """Describe nothing: the teacher's function makes it."""
        return {}

    def narrowed(self, tree: CondLaw) -> CondLaw:
        """Arrays as they are."""
        return tree

    def stream(self, start: int, mesh: Mesh) -> None:
        """Give None, since the arrays lie on the devices."""
        del start, mesh


def holds_arrays(law: CondLaw | None) -> bool:
    """Tell whether a law is a pytree of arrays, which an update should read as its input."""
    leaves = jax.tree.leaves(law)
    return bool(leaves) and all(isinstance(leaf, jax.Array) for leaf in leaves)


@dataclasses.dataclass(frozen=True)
class DataInput:
    """Real images.

    Attributes:
      source: where they are.
      batch_size: images an update.
      seed: of their order and flips where they are streamed.
      x_flip: whether half of them are mirrored.
      batches: of so many images that an update reads.
    """

    source: DataSource
    batch_size: int
    seed: int
    x_flip: bool
    batches: int = 1

    @property
    def is_streamed(self) -> bool:
        """Whether images come an update's at a time, for want of room on the devices."""
        return not dataset.is_resident(self.source)

    def load(self) -> Dataset | None:
        """Read all images; where they are streamed, look at each of them once instead."""
        if self.is_streamed:
            data.verify(self.source)
            return None
        return dataset.load(self.source)

    def abstract(self) -> Dataset | None:
        """Shapes and types of all images, or None where they are streamed."""
        return None if self.is_streamed else dataset.abstract(self.source)

    def content(self) -> dict[str, Any]:
        """Describe the data set's files."""
        return data.content(self.source)

    def narrowed(self, tree: Dataset | None) -> Dataset | None:
        """Images as they are: uint8 already."""
        return tree

    def stream(self, start: int, mesh: Mesh) -> Iterator[Dataset] | None:
        """Images of updates after `start` images of a run, or None where `load` has all."""
        if not self.is_streamed:
            return None
        return dataset.stream(
            self.source,
            batch_size=self.batch_size * self.batches,
            seed=self.seed,
            x_flip=self.x_flip,
            start=start * self.batches,
            mesh=mesh,
        )
