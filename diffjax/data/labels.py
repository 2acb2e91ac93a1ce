"""Labels of EDM's `dataset.json`: `{"labels": [["00000/img00000000.png", 6], ...]}`, or null."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffjax.data.listing import LABELS as FILE_NAME
from diffjax.data.listing import plain

MAX_BYTES = 1 << 27  # ImageNet's takes 50 MB
_MAX_CLASSES = 1_000_000


class Labels(NamedTuple):
    """Classes of a data set.

    Attributes:
      classes: int32 [N], of each image; all 0 if there are no labels.
      num_classes: the largest class of an image plus 1; 0 if there are no labels.
      absent: names that have a label and no image, as in a zip of some of the images.
    """

    classes: np.ndarray
    num_classes: int
    absent: Sequence[str] = ()


def parse(content: bytes, files: Sequence[str]) -> Labels:
    """Parse the class of every image, by its name with forward slashes, as EDM's loader does.

    Args:
      content: of the file `dataset.json`.
      files: the images' names as the file gives them, relative to it.

    Returns:
      The classes in the order of `files`.

    Raises:
      ValueError: if the file isn't as EDM writes it, or an image has no label or two.
    """
    entries = _entries(content)
    if entries is None:
        return Labels(np.zeros(len(files), np.int32), 0)
    known: dict[str, int] = {}
    for position, entry in enumerate(entries):
        name, label = _check_entry(entry, position)
        if known.setdefault(name, label) != label:
            raise ValueError(f"{FILE_NAME}: two labels for {name!r}")
    unlabelled = [name for name in files if name not in known]
    if unlabelled:
        raise ValueError(
            f"{FILE_NAME}: no label for {len(unlabelled)} of {len(files)} images, the first being "
            f"{unlabelled[0]!r}"
        )
    classes = np.array([known[name] for name in files], np.int32)
    return Labels(classes, int(classes.max()) + 1, sorted(known.keys() - set(files)))


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
    return plain(name), label
