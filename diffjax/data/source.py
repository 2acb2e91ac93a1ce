"""Data sources: the protocol of random access to images, images in memory, and latents."""

import dataclasses
from typing import Any, Protocol, SupportsIndex

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

        Of latents it is float32; see `LatentSource`.

        Raises:
          ValueError: naming the image, if it can't be read or has another shape.
          IndexError: there is no such image.
        """


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Data source of images in memory.

    Attributes:
      name: of the data set in an error.
      images: uint8 [N, H, W, C], or float32 [N, ...] in a teacher's units.
      classes: int32 [N].
      num_classes: number of classes, which are 0 to it less 1; 0 if there are none.
    """

    name: str
    images: np.ndarray
    classes: np.ndarray
    num_classes: int

    @property
    def image_shape(self) -> Any:
        """Shape of every image, (H, W, C), or of other examples."""
        return self.images.shape[1:]

    @property
    def classes_with_images(self) -> tuple[int, ...]:
        """Classes that have an image, ascending; () if there are none."""
        return with_images(self.classes) if self.num_classes else ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.classes[index])


@dataclasses.dataclass(frozen=True)
class LatentSource:
    """Data source of examples in a teacher's units, float32, known exactly or by a normal law.

    Attributes:
      stored: where they are: float32 [H, W, C], or [H, W, 2C] with the standard deviations of each
        example behind its means.
      is_law: whether it is the latter; each time an example is looked at it is drawn anew.
      scale: [C], on what is stored.
      bias: [C], added to it then.
    """

    stored: DataSource
    is_law: bool
    scale: np.ndarray
    bias: np.ndarray

    @property
    def name(self) -> str:
        """Name of the data set in an error."""
        return self.stored.name

    @property
    def num_classes(self) -> int:
        """Number of classes, which are 0 to it less 1; 0 if there are none."""
        return self.stored.num_classes

    @property
    def classes_with_images(self) -> tuple[int, ...]:
        """Classes that have an example, ascending; () if there are none."""
        return self.stored.classes_with_images

    @property
    def image_shape(self) -> Any:
        """Shape of every example."""
        *places, channels = self.stored.image_shape
        return (*places, channels // 2 if self.is_law else channels)

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, int]:
        values, label = self.stored[index]
        scale, bias = self.scale, self.bias
        if self.is_law:
            scale, bias = np.tile(scale, 2), np.concatenate([bias, np.zeros_like(bias)])
        return (values * scale + bias).astype(np.float32), label


def with_images(classes: np.ndarray) -> tuple[int, ...]:
    """Classes that have an image, ascending.

    Args:
      classes: int [N], of each image.
    """
    return tuple(np.unique(classes).tolist())
