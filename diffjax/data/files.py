"""Data sets of image files: EDM's zips, and folders."""

import dataclasses
import operator
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import SupportsIndex

import numpy as np

from diffjax.data import decoding, labels, zip_entries

_SUFFIXES = (".png", ".jpg", ".jpeg")
# What readers of a zip raise on damage, encryption and unknown compression.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


@dataclasses.dataclass(frozen=True)
class FileSource:
    """Data source of image files, each read and decoded when it is asked for.

    Attributes:
      name: of the data set in an error.
      files: name of each image.
      classes: int32 [N].
      num_classes: number of classes, which are 0 to it less 1; 0 if there are none.
      image_shape: (H, W, C) of every image.
      read: from a name to the file's content.
    """

    name: str
    files: Sequence[str]
    classes: np.ndarray
    num_classes: int
    image_shape: tuple[int, int, int]
    read: Callable[[str], bytes]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, int]:
        position = operator.index(index)
        pixels = _decode(self.read, self.name, self.files[position])
        if pixels.shape != self.image_shape:
            raise ValueError(
                f"{self.name}: {self.files[position]!r} is {_size(pixels.shape)}, but "
                f"{self.files[0]!r} is {_size(self.image_shape)}; all images must be of one size "
                "and kind."
            )
        return pixels, int(self.classes[position])


def open_zip(path: Path) -> FileSource:
    """Open a zip as EDM's `dataset_tool.py` writes it; nothing is ever unpacked to disk.

    Args:
      path: of the zip. Its images are taken in the order of their names, their classes from
        `dataset.json` if that is there.

    Raises:
      ValueError: naming what is wrong in it.
    """
    try:
        # Kept open: images are read as long as the source lives.
        archive = zipfile.ZipFile(path)
        archive_bytes = path.stat().st_size
    except _ZIP_ERRORS as error:
        raise ValueError(f"{path}: not a readable zip ({error}).") from error
    listed = [info for info in archive.infolist() if not info.filename.endswith("/")]
    entries = {info.filename: info for info in listed}
    if len(entries) != len(listed):
        raise ValueError(f"{path}: two of its files have one name.")

    def read(name: str, limit: int = decoding.MAX_FILE_BYTES) -> bytes:
        try:
            zip_entries.check(entries[name], limit=limit, archive_bytes=archive_bytes)
        except ValueError as error:
            raise ValueError(f"{path}: {name!r} {error}.") from error
        try:
            return archive.read(entries[name])
        except _ZIP_ERRORS as error:
            raise ValueError(f"{path}: {name!r} can't be read ({error}).") from error

    files = _image_names(str(path), list(entries))
    if labels.FILE_NAME in entries:
        classes, num_classes = _labels(str(path), read(labels.FILE_NAME, labels.MAX_BYTES), files)
    else:
        classes, num_classes = np.zeros(len(files), np.int32), 0
    return _source(str(path), files, classes, num_classes, read)


def open_folder(path: Path) -> FileSource:
    """Open a folder of images.

    Args:
      path: of the folder, searched with all its subfolders. The images are taken in the order of
        their names. Classes are those of `dataset.json` if that is there; otherwise, if all images
        lie in subfolders, class i is the i-th subfolder by name.

    Raises:
      ValueError: naming what is wrong in it.
    """
    inside = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    names = list(inside)

    def read(name: str, limit: int = decoding.MAX_FILE_BYTES) -> bytes:
        try:
            if (path / name).stat().st_size > limit:
                raise ValueError(f"{path}: {name!r} is over {limit} bytes.")
            return (path / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{path}: {name!r} can't be read ({error}).") from error

    files = _image_names(str(path), names)
    if labels.FILE_NAME in names:
        classes, num_classes = _labels(str(path), read(labels.FILE_NAME, labels.MAX_BYTES), files)
    else:
        classes, num_classes = _subfolder_classes(str(path), files)
    return _source(str(path), files, classes, num_classes, read)


def _image_names(where: str, names: Sequence[str]) -> list[str]:
    """List the images among all files, sorted; an unknown file is an error, not left out."""
    files = []
    for name in names:
        parts = PurePosixPath(name).parts
        if name == labels.FILE_NAME or any(p.startswith((".", "__MACOSX")) for p in parts):
            continue
        if not name.lower().endswith(_SUFFIXES):
            raise ValueError(f"{where}: {name!r} is neither PNG nor JPEG; take it out.")
        files.append(name)
    if not files:
        raise ValueError(f"{where}: no PNG or JPEG images in it.")
    return sorted(files)


def _labels(where: str, content: bytes, files: Sequence[str]) -> tuple[np.ndarray, int]:
    try:
        return labels.parse(content, files)
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error


def _subfolder_classes(where: str, files: Sequence[str]) -> tuple[np.ndarray, int]:
    tops = ["" if "/" not in name else name.partition("/")[0] for name in files]
    names = sorted(set(tops))
    if "" in names and len(names) > 1:
        loose = files[tops.index("")]
        raise ValueError(
            f"{where}: {loose!r} lies outside of the subfolders that are the classes; move it into "
            f"one, or write a {labels.FILE_NAME}."
        )
    if names == [""]:
        return np.zeros(len(files), np.int32), 0
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[top] for top in tops], np.int32), len(names)


def _source(
    where: str,
    files: Sequence[str],
    classes: np.ndarray,
    num_classes: int,
    read: Callable[[str], bytes],
) -> FileSource:
    height, width, channels = _decode(read, where, files[0]).shape
    return FileSource(where, files, classes, num_classes, (height, width, channels), read)


def _decode(read: Callable[[str], bytes], where: str, name: str) -> np.ndarray:
    content = read(name)
    try:
        return decoding.decode(content)
    except ValueError as error:
        raise ValueError(f"{where}: {name!r}: {error}.") from error


def _size(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"
