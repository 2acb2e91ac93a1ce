"""Labels of EDM's `dataset.json`: `{"labels": [["00000/img00000000.png", 6], ...]}`, or null."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

FILE_NAME = "dataset.json"
MAX_BYTES = 1 << 27  # ImageNet's takes 50 MB
_MAX_CLASSES = 1_000_000


def parse(content: bytes, files: Sequence[str]) -> tuple[np.ndarray, int]:
    """Parse the class of every image.

    Args:
      content: of the file `dataset.json`.
      files: the images' names as the file gives them, relative to it.

    Returns:
      Classes int32 [N] in the order of `files`, and the number of classes: the largest class plus
      1, or 0 (and all classes 0) if the data set has no labels.

    Raises:
      ValueError: if the file isn't as EDM writes it, or doesn't match the images.
    """
    entries = _entries(content)
    if entries is None:
        return np.zeros(len(files), np.int32), 0
    classes: dict[str, int] = {}
    for position, entry in enumerate(entries):
        name, label = _check_entry(entry, position)
        if name in classes:
            raise ValueError(f"{FILE_NAME}: two labels for {name!r}")
        classes[name] = label
    _check_match(classes, files)
    return np.array([classes[name] for name in files], np.int32), max(classes.values()) + 1


def _entries(content: bytes) -> list[Any] | None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{FILE_NAME}: not JSON ({error})") from error
    if not isinstance(document, dict) or "labels" not in document:
        raise ValueError(f'{FILE_NAME}: no field "labels"; for images without, set it to null')
    entries = document["labels"]
    if entries is not None and not isinstance(entries, list):
        raise ValueError(f'{FILE_NAME}: its field "labels" is neither a list nor null')
    return entries


def _check_entry(entry: Any, position: int) -> tuple[str, int]:
    where = f"{FILE_NAME}: labels[{position}]"
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
        raise ValueError(f'{where} is not a pair such as ["00000/img00000000.png", 6]')
    name, label = entry
    if type(label) is not int or not 0 <= label < _MAX_CLASSES:
        raise ValueError(
            f"{where}: the class of {name!r} is not a whole number from 0 to {_MAX_CLASSES - 1}"
        )
    return name, label


def _check_match(classes: dict[str, int], files: Sequence[str]) -> None:
    unlabelled = [name for name in files if name not in classes]
    absent = classes.keys() - set(files)
    if unlabelled:
        raise ValueError(
            f"{FILE_NAME}: no label for {len(unlabelled)} of {len(files)} images, the first being "
            f"{unlabelled[0]!r}"
        )
    if absent:
        raise ValueError(
            f"{FILE_NAME}: {len(absent)} labels of images that aren't there, such as "
            f"{min(absent)!r}"
        )
