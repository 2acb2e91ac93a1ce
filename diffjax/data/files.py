"""Data sets of image files, or of latents: EDM's zips, and folders."""

import dataclasses
import operator
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import SupportsIndex

import numpy as np

from diffjax.data import decoding, labels, listing, zip_entries
from diffjax.data.labels import Labels
from diffjax.data.listing import Found, Listing, Place
from diffjax.data.source import with_images
from diffjax.files import kinds

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
class Form:
    """Form that the files of a data set have.

    Attributes:
      suffixes: of their names, as `listing.sort` takes them.
      decode: from a file's content to an array [H, W, C]; raises ValueError without its name.
    """

    suffixes: tuple[str, ...]
    decode: Callable[[bytes], np.ndarray]


PICTURES = Form(listing.IMAGES, decoding.decode)


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
      notes: what was left out, a sentence each.
      form: of the files.
    """

    name: str
    files: Sequence[str]
    classes: np.ndarray
    num_classes: int
    image_shape: tuple[int, int, int]
    read: Callable[[str], bytes]
    notes: Sequence[str] = ()
    form: Form = PICTURES

    @property
    def classes_with_images(self) -> tuple[int, ...]:
        """Classes that have an image, ascending; () if there are none."""
        return with_images(self.classes) if self.num_classes else ()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, int]:
        position = operator.index(index)
        pixels = _decode(self.form, self.read, self.name, self.files[position])
        if pixels.shape != self.image_shape:
            raise ValueError(
                f"{self.name}: {self.files[position]!r} is {_size(pixels.shape)}, but "
                f"{self.files[0]!r} is {_size(self.image_shape)}; all images must be of one size "
                "and kind."
            )
        return pixels, int(self.classes[position])


def open_zip(path: Path, form: Form = PICTURES) -> FileSource:
    """Open a zip as EDM's `dataset_tool.py` writes it; nothing is ever unpacked to disk.

    Args:
      path: of the zip. Its images are taken in the order of their names, their classes from
        `dataset.json` if that is there: at the top, or in the folder that all images lie in.
      form: of its files.

    Raises:
      ValueError: naming what is wrong in it.
    """
    try:
        # Kept open: images are read as long as the source lives.
        archive = zipfile.ZipFile(path)
        archive_bytes = path.stat().st_size
    except _ZIP_ERRORS as error:
        raise ValueError(f"{path}: not a readable zip ({error}){kinds.but(path)}.") from error
    found, listed = _listed(path, lambda: listing.of_zip(archive), form)

    def read(name: str, limit: int = decoding.MAX_FILE_BYTES) -> bytes:
        entry = found.files[name]
        try:
            # Labels become lists of many times their size, images at most `limit` and their pixels.
            harmless = {} if name == listed.labels else {"harmless": limit}
            zip_entries.check(entry, limit=limit, archive_bytes=archive_bytes, **harmless)
        except ValueError as error:
            raise ValueError(f"{path}: {name!r} {error}.") from error
        try:
            return archive.read(entry)
        except _ZIP_ERRORS as error:
            raise ValueError(f"{path}: {name!r} can't be read ({error}).") from error

    if listed.labels:
        return _source(path, listed, _labels(path, listed, read), read, form)
    return _source(path, listed, Labels(np.zeros(len(listed.images), np.int32), 0), read, form)


def open_folder(path: Path, form: Form = PICTURES) -> FileSource:
    """Open a folder of images.

    Args:
      path: of the folder, searched with all its subfolders, through links. The images are taken in
        the order of their names. Classes are those of `dataset.json` if that is there, as in a
        zip; otherwise, if all images lie in subfolders, class i is the i-th subfolder by name.
      form: of its files.

    Raises:
      ValueError: naming what is wrong in it.
    """
    found, listed = _listed(path, lambda: listing.of_folder(path), form)

    def read(name: str, limit: int = decoding.MAX_FILE_BYTES) -> bytes:
        file = path / found.files[name]
        try:
            if file.stat().st_size > limit:
                raise ValueError(f"{path}: {name!r} is over {limit} bytes.")
            return file.read_bytes()
        except OSError as error:
            raise ValueError(f"{path}: {name!r} can't be read ({error.strerror}).") from error

    if listed.labels:
        return _source(path, listed, _labels(path, listed, read), read, form)
    classes, names = _subfolder_classes(path, listed.images)
    notes = []
    if empty := sorted(set(found.folders) - set(names)) if names else []:
        notes.append(
            f"{path}: subfolders without images are no classes: {len(empty)}, such as {empty[0]!r}."
        )
    return _source(path, listed, Labels(classes, len(names)), read, form, notes)


def _listed(
    path: Path, find: Callable[[], Found[Place]], form: Form
) -> tuple[Found[Place], Listing]:
    try:
        found = find()
        return found, listing.sort(found, form.suffixes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error


def _labels(path: Path, listed: Listing, read: Callable[[str, int], bytes]) -> Labels:
    content = read(listed.labels, labels.MAX_BYTES)
    try:
        return labels.parse(content, listed.label_names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error


def _subfolder_classes(path: Path, files: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Class of each image and the classes' names, none if no image lies in a subfolder."""
    tops = ["" if "/" not in name else name.partition("/")[0] for name in files]
    names = sorted(set(tops))
    if "" in names and len(names) > 1:
        loose = files[tops.index("")]
        raise ValueError(
            f"{path}: {loose!r} lies outside of the subfolders that are the classes; move it into "
            f"one, or write a {labels.FILE_NAME}."
        )
    if names == [""]:
        return np.zeros(len(files), np.int32), []
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[top] for top in tops], np.int32), names


def _source(
    path: Path,
    listed: Listing,
    known: Labels,
    read: Callable[[str], bytes],
    form: Form,
    notes: Sequence[str] = (),
) -> FileSource:
    where, files = str(path), listed.images
    height, width, channels = _decode(form, read, where, files[0]).shape
    notes = list(notes)
    if left_out := listing.describe(listed.left_out):
        notes.append(f"{where}: {left_out}.")
    if known.absent:
        notes.append(
            f"{where}: {labels.FILE_NAME} lists images that aren't there ({len(known.absent)}, "
            f"such as {known.absent[0]!r}); {len(files)} are."
        )
    shape = (height, width, channels)
    return FileSource(where, files, known.classes, known.num_classes, shape, read, notes, form)


def _decode(form: Form, read: Callable[[str], bytes], where: str, name: str) -> np.ndarray:
    content = read(name)
    try:
        return form.decode(content)
    except ValueError as error:
        raise ValueError(f"{where}: {name!r}: {error}.") from error


def _size(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"
