"""Random images, or latents, that stand in for a data set, so that none is needed here."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.data import DataSource
from diffjax.data.source import ArraySource, LatentSource
from diffjax.training.dataset import open_square

# Batches are drawn from them with replacement; their number costs no time.
COUNT = 4096
_LATENTS = 64
# Where the data set isn't there to say it: they change one small layer.
CLASSES = 10


def images_like(dataset: str, *, conditional: bool) -> ArraySource:
    """Draw random images of a data set's size, few enough to lie on the devices.

    Args:
      dataset: as `config.dataset`. A file that isn't there needs a name such as EDM gives its zips,
        cifar10-32x32.zip, from which the size of its RGB images is read.
      conditional: whether its classes are needed.

    Raises:
      FileNotFoundError: there is no such file, and its name tells no size.
      ValueError: naming what doesn't fit.
    """
    try:
        found = open_square(dataset, conditional=conditional, prefix="config.")
        shape, classes = found.image_shape, found.num_classes
    except FileNotFoundError as error:
        size = re.search(r"-(\d+)x\1(?!\d)", Path(dataset).name)
        if size is None:
            raise FileNotFoundError(
                f"{error} Random images would do, of a size that the name tells: "
                "--set dataset=images-64x64.zip."
            ) from error
        shape, classes = (int(size[1]), int(size[1]), 3), CLASSES if conditional else 0
    rng = np.random.default_rng(0)
    return ArraySource(
        name="random images",
        images=rng.integers(256, size=(COUNT, *shape), dtype=np.uint8),
        classes=rng.integers(max(classes, 1), size=COUNT, dtype=np.int32),
        num_classes=classes,
    )


def like_examples_of(teacher: Any) -> DataSource:
    """Draw random examples of a teacher's kind and classes: images, or laws of latents.

    Args:
      teacher: a denoiser.
    """
    rng = np.random.default_rng(0)
    count = COUNT if teacher.holds_images else _LATENTS
    classes = rng.integers(max(teacher.label_dim, 1), size=count, dtype=np.int32)
    if teacher.holds_images:
        images = rng.integers(256, size=(count, *teacher.shape), dtype=np.uint8)
        return ArraySource("random images", images, classes, teacher.label_dim)
    *places, channels = teacher.shape
    laws = rng.random((count, *places, 2 * channels), np.float32)
    stored = ArraySource("random latents", laws, classes, teacher.label_dim)
    one = np.ones(channels, np.float32)
    return LatentSource(stored, is_law=True, scale=one, bias=0 * one)
