"""Batches of a data source, made by Grain's threads."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import grain
import numpy as np

from diffjax.data.source import DataSource


class Batch(NamedTuple):
    """Batch of images and their classes.

    Attributes:
      images: uint8 [B, H, W, C].
      classes: int32 [B].
    """

    images: np.ndarray
    classes: np.ndarray


def shuffled(
    source: DataSource,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    x_flip: bool = False,
    start: int = 0,
    threads: int = 16,
) -> grain.DatasetIterator[Batch]:
    """Stream endless batches, every epoch in an order of its own that only the seed decides.

    Batch i of all processes together holds the same images whatever the number of processes, so a
    run may go on with another number of them.

    Args:
      source: from `open_source`.
      batch_size: images a batch, of all processes together.
      seed: of the order and of the flips.
      process_index: of this process, which gets its share of every batch.
      process_count: number of processes.
      x_flip: whether to mirror half of the images left to right, drawn anew every epoch.
      start: number of images to skip, of all processes together, without reading them.
      threads: number of threads that read and decode.

    Returns:
      An iterator of batches; `get_state()` gives its place as a small dictionary fit for JSON, and
      `set_state` goes back to it, also in the middle of an epoch.

    Raises:
      ValueError: the processes don't divide the batch, or a number is out of range.
    """
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size} does not divide over process_count={process_count}."
        )
    if not 0 <= process_index < process_count or start < 0:
        raise ValueError(
            f"process_index={process_index} must be below process_count={process_count}, and "
            f"start={start} at least 0."
        )
    images = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    if x_flip:
        images = images.random_map(_maybe_flip)
    share = images[start + process_index :: process_count]
    return iter(_batched(share, batch_size // process_count, threads))


def in_order(source: DataSource, *, batch_size: int, threads: int = 16) -> Iterator[Batch]:
    """Stream every image once, in the source's order; the last batch holds what is left.

    Args:
      source: from `open_source`.
      batch_size: images a batch.
      threads: number of threads that read and decode.
    """
    return iter(_batched(grain.MapDataset.source(source), batch_size, threads))


def _batched(
    images: grain.MapDataset[tuple[np.ndarray, int]], batch_size: int, threads: int
) -> grain.IterDataset[Batch]:
    # Threads share out single images, not batches, so that few are held in memory.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch_size)
    return images.to_iter_dataset(options).batch(batch_size, drop_remainder=False, batch_fn=_stack)


def _stack(elements: Any) -> Batch:
    pictures, classes = zip(*elements, strict=True)
    return Batch(np.stack(pictures), np.array(classes, np.int32))


def _maybe_flip(
    element: tuple[np.ndarray, int], rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    picture, label = element
    return (picture[:, ::-1] if rng.random() < 0.5 else picture), label
