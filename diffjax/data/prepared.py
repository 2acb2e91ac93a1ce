"""Data sets that TFDS has prepared, read as array_record files and so without TensorFlow."""

import contextlib
import dataclasses
import functools
import operator
import os
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np

from diffjax.data import decoding

DEFAULT_SPLIT = "train"


@dataclasses.dataclass(frozen=True)
class PreparedSource:
    """Data source of one split of a prepared data set.

    Attributes:
      name: of the data set in an error.
      records: index -> example, a dictionary whose image is still encoded.
      image_key: of the image in an example.
      label_key: of the class, or "" for none.
      num_classes: number of classes, which are 0 to it less 1; 0 if there are none.
      image_shape: (H, W, C) of every image.
    """

    name: str
    records: Sequence[dict[str, Any]]
    image_key: str
    label_key: str
    num_classes: int
    image_shape: tuple[int, int, int]

    @functools.cached_property
    def classes_with_images(self) -> tuple[int, ...]:
        """Classes that have an image, ascending; () if there are none.

        Records are read, at random, until there is one of each class: all of them if one has none.
        """
        found: set[int] = set()
        for index in np.random.default_rng(0).permutation(len(self)):
            if len(found) == self.num_classes:
                break
            found.add(self._label(self._example(int(index)), int(index)))
        return tuple(sorted(found))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, int]:
        position = operator.index(index)
        example = self._example(position)
        pixels = _decode(self.name, example[self.image_key], position)
        if pixels.shape != self.image_shape:
            raise ValueError(
                f"{self.name}: image {position} is {pixels.shape}, but image 0 is "
                f"{self.image_shape}; all images must be of one size and kind."
            )
        return pixels, self._label(example, position)

    def _example(self, position: int) -> dict[str, Any]:
        return _read(self.name, self.records, position, (self.image_key, self.label_key))

    def _label(self, example: dict[str, Any], position: int) -> int:
        label = int(example[self.label_key]) if self.label_key else 0
        if self.label_key and not 0 <= label < self.num_classes:
            raise ValueError(
                f"{self.name}: image {position} has the class {label}, which is none, and image 0 "
                "has one; name a split where all have."
            )
        return label


def open_prepared(
    reference: str, *, data_dir: str | os.PathLike[str] | None = None
) -> PreparedSource:
    """Open a split of a data set that TFDS has prepared in the array_record format.

    Args:
      reference: NAME[/CONFIG][:VERSION][#SPLIT], such as `cifar10` or
        `imagenet_resized/64x64#validation`; the split is "train" unless given, and takes TFDS's
        slices such as `train[:50%]`.
      data_dir: folder of the data sets; None is `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.

    Raises:
      ValueError: it isn't prepared (the line says how to), has no such split, or doesn't hold one
        image and at most one class an example.
    """
    # Imported here since it takes long, and other sources don't need it.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    name = f"tfds:{reference}"
    dataset, _, split = reference.partition("#")
    folder = os.fspath(data_dir or os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR)
    how = (
        f"where TensorFlow is installed, `tfds build {dataset} --file_format=array_record "
        f"--data_dir=DIR` prepares it; copy what it wrote to {folder}, or set TFDS_DATA_DIR"
    )
    try:
        builder = read_only_builder.builder_from_files(dataset, data_dir=folder)
    except ValueError as error:  # a wrong name, or no such files
        raise ValueError(f"{name}: no such data set is prepared in {folder}: {how}.") from error
    file_format = builder.info.file_format.value
    if file_format != "array_record":
        raise ValueError(f"{name}: prepared as {file_format}, which needs TensorFlow: {how}.")
    image_key, label_key = _keys(name, builder.info.features)
    with _known_splits(name, builder):
        records = builder.as_data_source(
            split or DEFAULT_SPLIT, decoders={image_key: tfds.decode.SkipDecoding()}
        )
    if not len(records):
        raise ValueError(f"{name}: the split is empty.")
    first = _read(name, records, 0, (image_key, label_key))
    height, width, channels = _decode(name, first[image_key], 0).shape
    if label_key and int(first[label_key]) < 0:  # how TFDS marks that a split has no classes
        label_key = ""
    return PreparedSource(
        name=name,
        records=records,
        image_key=image_key,
        label_key=label_key,
        num_classes=builder.info.features[label_key].num_classes if label_key else 0,
        image_shape=(height, width, channels),
    )


def _keys(name: str, features: Any) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    images = [key for key, kind in features.items() if type(kind) is tfds.features.Image]
    labels = [key for key, kind in features.items() if type(kind) is tfds.features.ClassLabel]
    if len(images) != 1 or len(labels) > 1:
        raise ValueError(
            f"{name}: its examples hold {len(images)} images and {len(labels)} classes; exactly "
            "one image and at most one class are needed."
        )
    return images[0], labels[0] if labels else ""


@contextlib.contextmanager
def _known_splits(name: str, builder: Any) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, AssertionError) as error:
        known = ", ".join(sorted(builder.info.splits))
        raise ValueError(f"{name}: no such split; known are: {known}.") from error


def _read(
    name: str, records: Sequence[dict[str, Any]], index: int, keys: Sequence[str]
) -> dict[str, Any]:
    """Read an example that has something under each key, "" aside."""
    if not -len(records) <= index < len(records):
        raise IndexError(f"{name}: no image {index} of {len(records)}.")
    try:
        example = records[index]
        if any(key and example[key] is None for key in keys):
            raise ValueError("its record is empty")
    except Exception as error:  # readers of records raise whatever they like on damaged files
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name}: image {index} can't be read, since a file is missing or damaged ({reason}); "
            "prepare the data set again."
        ) from error
    return example


def _decode(name: str, content: bytes, index: int) -> np.ndarray:
    try:
        return decoding.decode(content)
    except ValueError as error:
        raise ValueError(f"{name}: image {index}: {error}.") from error
