"""Provenance of statistics: which features they are of, and of which images."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

_FEATURES = ("name", "function", "sha256")


def describe(
    features: Mapping[str, str],
    image_shape: tuple[int, int, int],
    *,
    name: str = "",
    sha256: str = "",
) -> dict[str, Any]:
    """Describe of what and with what statistics are.

    Args:
      features: `Features.record`.
      image_shape: (H, W, C) of the images.
      name: of the images.
      sha256: of all their pixels, in order; "" where it isn't known.
    """
    images = {"name": name, "sha256": sha256, "image_shape": list(image_shape)}
    return {"features": dict(features), "images": images}


def parse(text: str) -> dict[str, Any]:
    """Read what `describe` gave, from JSON of any origin.

    Raises:
      ValueError: if it is something else.
    """
    try:
        record = json.loads(text)
        features = {name: str(record["features"][name]) for name in _FEATURES}
        height, width, channels = map(int, record["images"]["image_shape"])
        name, sha256 = (str(record["images"][key]) for key in ("name", "sha256"))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError("measured must say which features of which images they are") from error
    return describe(features, (height, width, channels), name=name, sha256=sha256)


def hashed(batches: Iterable[np.ndarray], digest: "hashlib._Hash") -> Iterator[np.ndarray]:
    """Yield batches of images, and put all their pixels into a digest.

    Args:
      batches: uint8 [N, H, W, C].
      digest: of `hashlib`.
    """
    for images in batches:
        digest.update(np.ascontiguousarray(images).data)
        yield images
