"""Data sources: the protocol of random access to images, and images in memory."""

import dataclasses
from typing import Protocol, SupportsIndex

import numpy as np


class DataSource(Protocol):
    """Data source: random access to images of one size and their classes, also by threads.

    Attributes:
      name: of the data set in an error.
      image_shape: (H, W, C) of every image.
      num_classes: number of classes, which are 0 to it less 1; 0 if there are none.
    """

    @property
    def name(self) -> str:
        """Name of the data set in an error."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, C) of every image."""

    @property
    def num_classes(self) -> int:
        """Number of classes, which are 0 to it less 1; 0 if there are none."""

    @property
    def classes_with_images(self) -> tuple[int, ...]:
        """Classes that have an image, ascending; () if there are none."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, int]:
        """Read image `index` as stored, uint8 [H, W, C], and its class, 0 if there are none.

        Raises:
          ValueError: naming the image, if it can't be read or has another shape.
          IndexError: there is no such image.
        """


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Data source of images in memory.

    Attributes:
      name: of the data set in an error.
      images: uint8 [N, H, W, C].
      classes: int32 [N].
      num_classes: number of classes, which are 0 to it less 1; 0 if there are none.
    """

    name: str
    images: np.ndarray
    classes: np.ndarray
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, C) of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def classes_with_images(self) -> tuple[int, ...]:
        """Classes that have an image, ascending; () if there are none."""
        return with_images(self.classes) if self.num_classes else ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.classes[index])


def with_images(classes: np.ndarray) -> tuple[int, ...]:
    """Classes that have an image, ascending.

    Args:
      classes: int [N], of each image.
    """
    return tuple(np.unique(classes).tolist())
