"""One mesh for one chip, one host or many: data parallel, and parameters sharded where asked.

The mesh has two axes. A batch is split over both; parameters and optimiser state are split over
`fsdp` and replicated over `data`, and gathered where a network is called. XLA derives every
collective from these placements, so nothing in the update knows of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp")


def make_mesh(
    *, data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over the devices of all processes.

    Args:
      data: devices along the data axis; −1 takes all that `fsdp` leaves. A process by itself may
        take fewer devices than it has.
      fsdp: devices along the axis that parameters are sharded over; 1 replicates them.
      devices: those to take instead, of hardware that is only compiled for.

    Raises:
      ValueError: if the axes don't fit the devices.
    """
    there = np.asarray(jax.devices() if devices is None else devices)
    processes = len({device.process_index for device in there})
    if fsdp < 1 or there.size % fsdp:
        raise ValueError(f"mesh.fsdp={fsdp} does not divide the {there.size} devices there are.")
    if data == -1:
        data = there.size // fsdp
    wanted = data * fsdp
    if data < 1 or wanted > there.size or (wanted < there.size and processes > 1):
        raise ValueError(
            f"mesh.data={data} times mesh.fsdp={fsdp} doesn't fit the {there.size} devices of "
            f"{processes} processes; mesh.data=-1 takes what is there."
        )
    return Mesh(there[:wanted].reshape(data, fsdp), BATCH_AXES)


def check_batch(batch_size: int, rounds: int, mesh: Mesh) -> None:
    """Checks that a batch divides into rounds of accumulation, and a round over the devices.

    Raises:
      ValueError: naming the batch size and what would do.
    """
    unit = rounds * mesh.size
    if batch_size < 1 or rounds < 1 or batch_size % unit:
        nearest = max(unit, round(batch_size / unit) * unit)
        raise ValueError(
            f"batch_size={batch_size} does not divide over {mesh.size} devices times "
            f"accumulation={rounds}; batch_size={nearest} would."
        )


def round_up(count: int, mesh: Mesh) -> int:
    """The next batch size, from `count` on, that the devices divide."""
    return -(-count // mesh.size) * mesh.size


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The given axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH_AXES))


def put(tree: Any, shardings: Any) -> Any:
    """Places arrays that every process holds whole, each taking its devices' parts of them.

    Args:
      tree: of arrays; equal in all processes.
      shardings: one for all, or a tree of them.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(place, tree, shardings)


def gather(array: Any) -> np.ndarray:
    """The whole of an array on this host, also where each process holds a part of it.

    All processes must call it together.
    """
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        if array.is_fully_replicated:
            return np.asarray(array.addressable_data(0))
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def constrain(tree: Any, shardings: Any, mesh: Mesh) -> Any:
    """Inside jit: lays a tree over the devices; nothing to do for one.

    Args:
      tree: of arrays.
      shardings: one for all, or a tree of them.
      mesh: from `make_mesh`.
    """
    if mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, shardings)


def constrain_batch(tree: Any, mesh: Mesh, axis: int) -> Any:
    """Inside jit: splits `axis` of every leaf that has it over all devices; others stay whole."""
    return constrain(tree, batches(tree, mesh, axis), mesh)


def batches(tree: Any, mesh: Mesh, axis: int) -> Any:
    """Where `constrain_batch` lays a tree: one sharding a leaf.

    Leaves of lower rank, such as a key a round, are replicated.
    """
    return jax.tree.map(
        lambda leaf: batch(mesh, axis) if len(leaf.shape) > axis else replicated(mesh), tree
    )


def batches_of(size: int, tree: Any, mesh: Mesh) -> Any:
    """Where activations go, told by their shapes alone: one sharding a leaf.

    Arrays of that many examples are split over all devices, others replicated. One whose first
    dimension is that large by chance, such as a matrix of weights, is then split too, which costs
    little.
    """

    def place(leaf: Any) -> NamedSharding:
        is_batch = len(leaf.shape) > 1 and leaf.shape[0] == size
        return batch(mesh) if is_batch else replicated(mesh)

    return jax.tree.map(place, tree)


def state(abstract: Any, mesh: Mesh) -> Any:
    """Where the arrays of a state go: one sharding a leaf.

    Each array is split along its largest dimension that `fsdp` divides, the last of equals;
    arrays without one are replicated.

    Args:
      abstract: tree of anything with a shape.
      mesh: from `make_mesh`.
    """
    fsdp = mesh.shape["fsdp"]

    def place(leaf: Any) -> NamedSharding:
        spec: list[str | None] = [None] * len(leaf.shape)
        candidates = [(size, axis) for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp > 1 and candidates:
            spec[max(candidates)[1]] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(place, abstract)


def gathering(network: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Inside jit: the network, its parameters brought together on each device where it is called.

    Left to XLA, what is computed may be split as the parameters are, and then activations cross
    devices, of which there are more.

    Args:
      network: takes its parameters first.
      mesh: from `make_mesh`.
    """
    if mesh.shape["fsdp"] == 1:
        return network

    def call(params: Any, *arguments: Any, **options: Any) -> Any:
        return network(constrain(params, replicated(mesh), mesh), *arguments, **options)

    return call


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """`jax.ShapeDtypeStruct`s that say where each array goes, as checkpoints are restored."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
