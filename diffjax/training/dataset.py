"""Real images on their way to the training of a teacher: all on the devices, or streamed to them.

Small data sets lie on the devices as uint8, where batches are drawn; nothing crosses to them while
training. Larger ones are streamed, an update's images at a time.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffjax import data
from diffjax.data import DataSource, digits
from diffjax.distributed import sharding
from diffjax.methods.draws import Dataset

# CIFAR-10 takes 0.15 GB of every device and FFHQ at 64x64 0.9 GB; ImageNet at 64x64 would take 16.
_MAX_RESIDENT_BYTES = 2 << 30


def open_square(
    name: str, *, conditional: bool, prefix: str = "", field: str = "dataset"
) -> DataSource:
    """Open a data set that a network can be trained on.

    Args:
      name: as `data.open_source` takes it.
      conditional: whether its classes are needed.
      prefix: before the names of these arguments in an error.
      field: how the first is called there; another than "dataset" has classes because a teacher
        has them.

    Raises:
      FileNotFoundError: there is no such file or folder.
      ValueError: naming what doesn't fit.
    """
    source = data.open_source(name, field=f"{prefix}{field}")
    height, width, _ = source.image_shape
    if height != width:
        raise ValueError(
            f"{prefix}{field}={name!r} has images of {height}x{width}; networks take square ones."
        )
    if conditional and not source.num_classes:
        if field != "dataset":
            raise ValueError(
                f"{prefix}{field}={name!r} has no classes, and the teacher has; name its own data."
            )
        raise ValueError(
            f"{prefix}conditional=True, but {prefix}dataset={name!r} has no classes; set it to "
            "False."
        )
    return source


def is_resident(source: DataSource) -> bool:
    """Tell whether a data set is small enough to lie on every device."""
    return len(source) * int(np.prod(source.image_shape)) <= _MAX_RESIDENT_BYTES


def load(source: DataSource) -> Dataset:
    """Read a whole data set: uint8, and of the digits the exact ink in float32.

    Raises:
      ValueError: naming an image that can't be read, or is of another size than the first.
    """
    pictures, classes = digits.load() if source.name == "digits" else data.load_all(source)
    return Dataset(jnp.asarray(pictures), jnp.asarray(classes))


def abstract(source: DataSource) -> Dataset:
    """Shapes and types of the whole data set, as `load` returns it."""
    images = jnp.float32 if source.name == "digits" else jnp.uint8
    return Dataset(
        jax.ShapeDtypeStruct((len(source), *source.image_shape), images),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct((len(source),), jnp.int32),  # type: ignore[arg-type]
    )


def stream(
    source: DataSource, *, batch_size: int, seed: int, x_flip: bool, start: int, mesh: Mesh
) -> Iterator[Dataset]:
    """Give the images of one update after the other, split over the devices.

    Args:
      source: from `open_square`.
      batch_size: images an update.
      seed: of their order and of the flips.
      x_flip: whether to mirror half of them.
      start: images that were seen before, so that a run goes on in the middle of an epoch.
      mesh: the devices of all processes.
    """
    batches = data.shuffled(
        source,
        batch_size=batch_size,
        seed=seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        x_flip=x_flip,
        start=start,
    )
    place = sharding.batch(mesh)
    for batch in batches:
        yield Dataset(
            jax.make_array_from_process_local_data(place, batch.images),
            jax.make_array_from_process_local_data(place, batch.classes),
        )
