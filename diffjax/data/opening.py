"""Data sets by name or path, opened, verified or loaded as a whole."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.data import arrays, digits, files, labels, listing, prepared
from diffjax.data.source import ArraySource, DataSource, LatentSource
from diffjax.files import digests, images, paths
from diffjax.files.progress import warn_once

_FORMS = "digits, a zip as EDM's dataset_tool.py writes it, a folder of images, tfds:NAME[#SPLIT]"
# Images that wait to be decoded, so that memory doesn't grow with the data set.
_WINDOW = 2048


def open_source(
    source: str, *, data_dir: str | os.PathLike[str] | None = None, field: str = "data"
) -> DataSource:
    """Open a data set: read its list of images, its classes, and its first image.

    A warning tells what was left out, with its count.

    Args:
      source: "digits"; the path of a zip or of a folder (see `files.open_zip` and
        `files.open_folder`); or `tfds:` and a name (see `prepared.open_prepared`).
      data_dir: folder of TFDS's data sets; None is `$TFDS_DATA_DIR` or its default.
      field: name of the setting in an error.

    Raises:
      FileNotFoundError: there is no such file or folder.
      ValueError: naming what is wrong with the name, or with a file inside.
    """
    if source == "digits":
        pictures, classes = digits.load()
        return ArraySource(source, images.to_uint8(pictures), classes, digits.NUM_CLASSES)
    if source.startswith("tfds:"):
        return prepared.open_prepared(source.removeprefix("tfds:"), data_dir=data_dir)
    try:
        path = Path(paths.local(source))
    except ValueError as error:
        raise ValueError(f"{field}={error}") from None
    if source and (path.is_dir() or path.is_file()):
        opened = files.open_folder(path) if path.is_dir() else files.open_zip(path)
        for note in opened.notes:
            warn_once(note)
        return opened
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(
            f"{field}={source!r}: no such file or folder; a data set is {_FORMS}."
        )
    raise ValueError(f"{field}={source!r} is unknown; known are: {_FORMS}.")


def open_laws(source: str, *, field: str = "data") -> DataSource:
    """Open latents as EDM2's `dataset_tool.py encode` writes them: a law of each image's.

    Args:
      source: path of a zip or a folder, of arrays [2C, H, W] of raw means and standard deviations
        beside `dataset.json`.
      field: name of the setting in an error.

    Returns:
      A source of float32 [H, W, 2C].

    Raises:
      FileNotFoundError: there is no such file or folder.
      ValueError: naming what is wrong with the name, or with a file inside.
    """
    try:
        path = Path(paths.local(source))
    except ValueError as error:
        raise ValueError(f"{field}={error}") from None
    if not source or not path.exists():
        raise FileNotFoundError(f"{field}={source!r}: no such file or folder.")
    form = files.Form(listing.ARRAYS, arrays.decode_law)
    opened = files.open_folder(path, form) if path.is_dir() else files.open_zip(path, form)
    for note in opened.notes:
        warn_once(note)
    return opened


def verify(source: DataSource, *, progress: Callable[[int], None] | None = None) -> None:
    """Decode every image once, so that a bad one is told before anything is computed.

    Args:
      source: from `open_source`.
      progress: called with the number of images that were looked at.

    Raises:
      ValueError: naming an image that can't be read, or is of another size than the first.
    """
    for count, _ in enumerate(_decoded(source), start=1):
        if progress is not None:
            progress(count)


def content(source: DataSource) -> dict[str, Any]:
    """Describe what a data set holds: its files, or a few of its images where it isn't of files.

    Args:
      source: from `open_source`.

    Returns:
      `sha256` and sizes, as `files.digests` gives them; otherwise `images`, their number, and
      `sha256` of 64 of them at most, spread evenly, and of their classes.

    Raises:
      OSError: if a file can't be read.
      ValueError: if an image can't be.
    """
    if isinstance(source, LatentSource):
        is_file = Path(source.name).is_file()
        return digests.of_file(Path(source.name)) if is_file else content(source.stored)
    path = Path(source.name)
    if isinstance(source, files.FileSource) and path.is_file():
        return digests.of_file(path)
    if isinstance(source, files.FileSource):
        described = [labels.FILE_NAME] if (path / labels.FILE_NAME).is_file() else []
        return digests.of_files(path, [*source.files, *described])
    digest = hashlib.sha256(repr((len(source), source.image_shape, source.num_classes)).encode())
    for index in sorted({(len(source) - 1) * i // 63 for i in range(64)}):
        pixels, label = source[index]
        digest.update(np.ascontiguousarray(pixels).tobytes() + str(label).encode())
    return {"images": len(source), "sha256": digest.hexdigest()}


def load_all(source: DataSource) -> tuple[np.ndarray, np.ndarray]:
    """Load a whole data set, for those that fit in memory.

    Args:
      source: from `open_source`.

    Returns:
      Images as the source gives them, uint8 [N, H, W, C], and classes int32 [N], in its order.

    Raises:
      ValueError: naming an image that can't be read, or is of another size than the first.
    """
    first, _ = source[0]
    pictures = np.empty((len(source), *first.shape), first.dtype)
    classes = np.empty(len(source), np.int32)
    for index, (pixels, label) in enumerate(_decoded(source)):
        pictures[index], classes[index] = pixels, label
    return pictures, classes


def _decoded(source: DataSource) -> Iterator[tuple[np.ndarray, int]]:
    """Yield all images in order, decoded by several threads, a window of them at a time."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(source), _WINDOW):
            yield from pool.map(source.__getitem__, range(start, min(start + _WINDOW, len(source))))
