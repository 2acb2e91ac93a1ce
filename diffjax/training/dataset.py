"""Real images on their way to the training of a teacher: all on the devices, or streamed to them.

Small data sets lie on the devices as uint8, where batches are drawn; nothing crosses to them while
training. Larger ones are streamed, an update's images at a time.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffjax import data
from diffjax.data import DataSource, digits
from diffjax.data.source import LatentSource
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
    of_one = int(np.prod(source.image_shape))
    if isinstance(source, LatentSource):
        of_one *= np.dtype(np.float32).itemsize * (2 if source.is_law else 1)
    return len(source) * of_one <= _MAX_RESIDENT_BYTES


def load(source: DataSource) -> Dataset:
    """Read a whole data set: uint8, of the digits the exact ink in float32, or float32 of latents.

    Raises:
      ValueError: naming an image that can't be read, or is of another size than the first.
    """
    pictures, classes = digits.load() if source.name == "digits" else data.load_all(source)
    return jax.tree.map(jnp.asarray, _parted(source, pictures, classes))


def abstract(source: DataSource) -> Dataset:
    """Shapes and types of the whole data set, as `load` returns it."""
    is_float = source.name == "digits" or isinstance(source, LatentSource)
    shape, dtype = (len(source), *source.image_shape), jnp.float32 if is_float else jnp.uint8
    images: Any = jax.ShapeDtypeStruct(shape, dtype)
    classes: Any = jax.ShapeDtypeStruct((len(source),), jnp.int32)
    return Dataset(images, classes, images if _is_law(source) else None)


def _is_law(source: DataSource) -> bool:
    return isinstance(source, LatentSource) and source.is_law


def _parted(source: DataSource, images: Any, classes: Any) -> Any:
    """Part means from standard deviations, where a source has both."""
    if not _is_law(source):
        return Dataset(images, classes)
    parts: Any = np.split(images, 2, axis=-1)
    return Dataset(parts[0], classes, parts[1])


def stream(
    source: DataSource, *, batch_size: int, seed: int, x_flip: bool, start: int, mesh: Mesh
) -> Iterator[Dataset]:
    """Give the images of one update after the other, split over the devices.

    Of laws it is the means and standard deviations, of which examples are drawn on the devices.

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
        parted = _parted(source, batch.images, batch.classes)
        yield jax.tree.map(lambda each: jax.make_array_from_process_local_data(place, each), parted)
