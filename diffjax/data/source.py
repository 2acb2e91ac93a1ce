"""What every data set gives, and one that lies in memory."""

import dataclasses
from typing import Protocol, SupportsIndex

import numpy as np


class DataSource(Protocol):
    """Random access to images of one size and their classes; threads may read at once.

    Attributes:
      name: what to call it in an error.
      image_shape: (H, W, C) of every image.
      num_classes: classes are below this; 0 if there are none.
    """

    @property
    def name(self) -> str:
        """What to call it in an error."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""

    @property
    def num_classes(self) -> int:
        """Classes are below this; 0 if there are none."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, int]:
        """Image `index` as stored, uint8 [H, W, C], and its class, 0 if there are none.

        Raises:
          ValueError: naming the image, if it can't be read or has another shape.
          IndexError: there is no such image.
        """


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Images that lie in memory.

    Attributes:
      name: what to call it in an error.
      images: uint8 [N, H, W, C].
      classes: int32 [N].
      num_classes: classes are below this; 0 if there are none.
    """

    name: str
    images: np.ndarray
    classes: np.ndarray
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.classes[index])
