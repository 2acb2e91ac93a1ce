"""Mesh of devices and sharding of arrays: data parallel, parameters sharded where asked.

The mesh, for one chip, one host or many, has two axes. A batch is split over both; parameters and
optimiser state are split over `fsdp` and replicated over `data`, and gathered where a network is
called. XLA derives every collective from these placements, so nothing in the update knows of them.
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
    """Build a mesh over the devices of all processes.

    Args:
      data: devices along the data axis; −1 takes all that `fsdp` leaves. A process by itself may
        take fewer devices than it has.
      fsdp: devices along the axis that parameters are sharded over; 1 replicates them.
      devices: devices to take instead, of hardware that is only compiled for.

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
    """Check that a batch divides into rounds of accumulation, and a round over the devices.

    Args:
      batch_size: examples an update.
      rounds: of gradient accumulation.
      mesh: from `make_mesh`.

    Raises:
      ValueError: naming the batch size and the nearest that divides.
    """
    unit = rounds * mesh.size
    if batch_size < 1 or rounds < 1 or batch_size % unit:
        nearest = max(unit, round(batch_size / unit) * unit)
        raise ValueError(
            f"batch_size={batch_size} does not divide over {mesh.size} devices times "
            f"accumulation={rounds}; batch_size={nearest} would."
        )


def round_up(count: int, mesh: Mesh) -> int:
    """Round a count of examples up to a multiple of the number of devices."""
    return -(-count // mesh.size) * mesh.size


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding that has the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Sharding that splits one axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH_AXES))


def put(tree: Any, shardings: Any) -> Any:
    """Place arrays that every process holds whole, each taking its devices' parts of them.

    Args:
      tree: of arrays, equal in all processes.
      shardings: one sharding for all arrays, or a tree of shardings.

    Returns:
      The tree, of `jax.Array`s.
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
    """Gather the whole of an array on this host, also where each process holds a part of it.

    All processes must call it together.
    """
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        if array.is_fully_replicated:
            return np.asarray(array.addressable_data(0))
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def constrain(tree: Any, shardings: Any, mesh: Mesh) -> Any:
    """Lay a tree over the devices, inside `jax.jit`; on one device, leave it.

    Args:
      tree: of arrays.
      shardings: one sharding for all arrays, or a tree of shardings.
      mesh: from `make_mesh`.
    """
    if mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, shardings)


def constrain_batch(tree: Any, mesh: Mesh, axis: int) -> Any:
    """Split `axis` of every leaf that has it over all devices, inside `jax.jit`.

    Leaves without the axis stay whole on every device.
    """
    return constrain(tree, batches(tree, mesh, axis), mesh)


def batches(tree: Any, mesh: Mesh, axis: int) -> Any:
    """Shardings by which `constrain_batch` lays a tree, one a leaf.

    Leaves of lower rank, such as a key a round, are replicated.
    """
    return jax.tree.map(
        lambda leaf: batch(mesh, axis) if len(leaf.shape) > axis else replicated(mesh), tree
    )


def batches_of(size: int, tree: Any, mesh: Mesh) -> Any:
    """Shardings of activations by their shapes alone, one a leaf.

    Arrays of that many examples are split over all devices, others replicated. One whose first
    dimension is that large by chance, such as a matrix of weights, is then split too, which costs
    little.
    """

    def place(leaf: Any) -> NamedSharding:
        is_batch = len(leaf.shape) > 1 and leaf.shape[0] == size
        return batch(mesh) if is_batch else replicated(mesh)

    return jax.tree.map(place, tree)


def state(abstract: Any, mesh: Mesh) -> Any:
    """Shardings of the arrays of a state, one a leaf.

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
    """Wrap a network to gather its parameters on each device in a call, inside `jax.jit`.

    Left to XLA, what is computed may be split as the parameters are, and then activations cross
    devices, of which there are more.

    Args:
      network: a function that takes its parameters first.
      mesh: from `make_mesh`.
    """
    if mesh.shape["fsdp"] == 1:
        return network

    def call(params: Any, *arguments: Any, **options: Any) -> Any:
        return network(constrain(params, replicated(mesh), mesh), *arguments, **options)

    return call


def splitting(function: Callable[[Any], Any], mesh: Mesh) -> Callable[[Any], Any]:
    """Wrap a function of parameters to split its results as a state is, inside `jax.jit`.

    Args:
      function: from a tree of arrays to another.
      mesh: from `make_mesh`.
    """
    if mesh.shape["fsdp"] == 1:
        return function

    def call(params: Any) -> Any:
        result = function(params)
        return constrain(result, state(result, mesh), mesh)

    return call


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """Shapes and types of arrays with their shardings, by which checkpoints are restored.

    Args:
      abstract: tree of anything with a shape and a dtype.
      shardings: tree of shardings.

    Returns:
      Tree of `jax.ShapeDtypeStruct`s.
    """
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
