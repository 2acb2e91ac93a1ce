"""Hand-written 8×8 digits that scikit-learn carries: a data set that needs no download."""

import numpy as np

NUM_IMAGES = 1797
NUM_CLASSES = 10
RESOLUTION = 8


def load() -> tuple[np.ndarray, np.ndarray]:
    """Load all digits, in the order in which scikit-learn stores them.

    Returns:
      Images, [1797, 8, 8, 1] float32 in [-1, 1], and labels, [1797] int32 in 0..9. The stored ink
      counts 0..16 become x / 8 - 1, so that -1 is paper and 1 is full ink.
    """
    from sklearn.datasets import load_digits  # slow to import, and few runs need it

    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, RESOLUTION, RESOLUTION, 1).astype(np.float32) / 8 - 1
    return images, labels.astype(np.int32)


def halves(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the digits at random into two halves, to tell what a perfect generator would score.

    Args:
      seed: decides the split; equal seeds give equal halves.

    Returns:
      Two disjoint arrays of images, [899, 8, 8, 1] and [898, 8, 8, 1], as `load` gives them.
    """
    images, _ = load()
    order = np.random.RandomState(seed).permutation(len(images))
    middle = (len(images) + 1) // 2
    return images[order[:middle]], images[order[middle:]]
