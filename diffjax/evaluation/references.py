"""References that generated images are compared with: real images, or their statistics."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging
from jax.sharding import Mesh

from diffjax import data
from diffjax.evaluation import image_statistics, statistics_origin
from diffjax.evaluation.features import Features, compute, values
from diffjax.metrics import Moments


@dataclasses.dataclass(frozen=True)
class Reference:
    """Reference: real images, or other samples of the data, as metrics see them.

    Attributes:
      mean: [D] mean of the images' features; None where nothing is measured on features.
      cov: [D, D] covariance of the features; None likewise.
      rows: [N, D] the features, or None where there are only statistics, or they weren't kept.
      values: [N, K] float32 the samples as they are, pixels in [-1, 1] or floats in the units of
        the data; None where they weren't kept.
      examples: [M, *shape] float32 some of them to look at, where they aren't images.
      record: what says which images it is, for files that hold distances to it: name, SHA-256 (of
        the images' pixels, or of the statistics), count and shape of the images, where known.
    """

    mean: np.ndarray | None = None
    cov: np.ndarray | None = None
    rows: np.ndarray | None = None
    values: np.ndarray | None = None
    examples: np.ndarray | None = None
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def holds_images(source: str) -> bool:
    """Whether a reference is images, so that any metric can be computed, not statistics alone."""
    return bool(source) and not image_statistics.is_statistics(source)


def load(
    source: str,
    features: Features | None,
    *,
    image_shape: tuple[int, ...],
    keep_rows: bool,
    batch_size: int,
    mesh: Mesh,
    prefix: str = "",
    keep_values: bool = False,
) -> Reference:
    """Read statistics, or images, every one of them once.

    Args:
      source: a reference as `image_statistics.load_reference` or `data.open_source` takes it.
      features: features to compare by; None if no metric is on features.
      image_shape: (H, W, C) of the generated images.
      keep_rows: whether features are compared one by one and not by their statistics alone.
      batch_size: images that a device takes at a time.
      mesh: the devices.
      prefix: put before the name of a setting in an error.
      keep_values: whether images are compared as they are.

    Raises:
      ValueError: naming the setting, its value and what doesn't fit.
      OSError: if there is no such reference, or it can't be downloaded.
    """
    if not holds_images(source):
        assert features is not None
        return _from_statistics(source, features, image_shape, prefix)
    field = f"{prefix}reference"
    images = data.open_source(source, field=field)
    if images.image_shape != image_shape:
        raise ValueError(
            f"{field}={source!r} has images of {images.image_shape}, but the network makes "
            f"{image_shape}."
        )
    if len(images) < 2:
        raise ValueError(f"{field}={source!r} has a single image: a distribution needs more.")
    data.verify(images)
    size = batch_size * mesh.size
    digest = hashlib.sha256()
    in_order = (batch.images for batch in data.in_order(images, batch_size=size))
    batches = statistics_origin.hashed(in_order, digest)
    kept: list[np.ndarray] = []

    def watched() -> Iterator[np.ndarray]:
        for batch in batches:
            if keep_values:
                kept.append(values(batch).astype(np.float32))
            yield batch

    reference = summarised(watched(), features, keep_rows=keep_rows, batch_size=size, mesh=mesh)
    record = {
        "name": source,
        "sha256": digest.hexdigest(),
        "count": len(images),
        "image_shape": list(image_shape),
    }
    return dataclasses.replace(
        reference, values=np.concatenate(kept) if keep_values else None, record=record
    )


def summarised(
    batches: Iterable[np.ndarray],
    features: Features | None,
    *,
    keep_rows: bool,
    batch_size: int,
    mesh: Mesh,
    **fields: Any,
) -> Reference:
    """Make a reference of samples that come in batches, each of which is taken once.

    Args:
      batches: [N, *shape] with N up to `batch_size`.
      features: features to compare by; None for none.
      keep_rows: whether features are compared one by one.
      batch_size: samples a batch, which the devices must divide.
      mesh: the devices.
      **fields: other fields of the reference.

    Raises:
      ValueError: if features aren't rows of finite floats.
    """
    if features is None:
        for _ in batches:
            pass
        return Reference(**fields)
    moments, kept = None, []
    for rows, _ in compute(features, batches, mesh=mesh, batch_size=batch_size):
        if not np.isfinite(rows).all():
            raise ValueError(
                f"features={features.name!r} make NaN or infinity of the reference's samples."
            )
        moments = (moments or Moments.empty(rows.shape[1])).update(rows)
        if keep_rows:
            kept.append(rows)
    assert moments is not None
    all_rows = np.concatenate(kept) if keep_rows else None
    return Reference(moments.mean, moments.cov, all_rows, **fields)


def examples(
    source: str,
    count: int,
    *,
    label_dim: int,
    among: tuple[int, ...] = (),
    field: str = "reference",
) -> np.ndarray:
    """Examples of real images to look at, image i of class i modulo the number of classes.

    Args:
      source: images as `data.open_source` takes them.
      count: number of images.
      label_dim: number of classes; 0, or another number than the images have, takes any images.
      among: classes that are taken in turn; () for all.
      field: name of the setting in an error.

    Returns:
      uint8 [count, H, W, C], equal ones each time; black where there are too few of a class.
    """
    images = data.open_source(source, field=field)
    by_class = bool(label_dim) and images.num_classes == label_dim
    # Places in the result that wait for an image, by class; all of one class where it is no matter.
    waiting: dict[int, list[int]] = {}
    classes = among or range(label_dim)
    for place in reversed(range(count)):
        label = classes[place % len(classes)] if by_class else 0
        waiting.setdefault(label, []).append(place)
    found = np.zeros((count, *images.image_shape), np.uint8)
    for index in np.random.default_rng(0).permutation(len(images)):
        picture, label = images[index]
        places = waiting.get(label if by_class else 0)
        if places:
            found[places.pop()] = picture
        if not any(waiting.values()):
            break
    return found


def _from_statistics(
    source: str, features: Features, image_shape: tuple[int, ...], prefix: str
) -> Reference:
    mean, cov, meta = image_statistics.load_reference(source)
    theirs = (
        f"{prefix}reference={source!r} holds statistics of {mean.size} features {meta.features!r}"
    )
    if features.is_random:
        raise ValueError(f"{theirs}, but random weights are for timing and compare with nothing.")
    dim = features.dim(image_shape)
    if (meta.features, mean.size) != (features.name, dim):
        raise ValueError(f"{theirs}, but {prefix}features are {dim} of {features.name!r}.")
    _check_same_measure(source, features, image_shape, meta, prefix)
    record = {
        "name": source,
        "sha256": hashlib.sha256(mean.tobytes() + cov.tobytes()).hexdigest(),
        "count": meta.count,
        "image_shape": meta.measured["images"]["image_shape"] if meta.measured else None,
        "statistics_of": meta.measured["images"]["name"] if meta.measured else None,
    }
    return Reference(mean, cov, record=record)


def _check_same_measure(
    source: str,
    features: Features,
    image_shape: tuple[int, ...],
    meta: image_statistics.Meta,
    prefix: str,
) -> None:
    """Check all that statistics say of themselves beside the features' name and number."""
    field = f"{prefix}reference={source!r}"
    if not meta.measured:
        logging.warning(
            "%s doesn't say of which images, and by which function, its statistics are: only the "
            "name and the number of its features were checked. python -m diffjax.stats writes all.",
            field,
        )
        return
    theirs, shape = meta.measured["features"], tuple(meta.measured["images"]["image_shape"])
    if shape != image_shape:
        raise ValueError(
            f"{field} holds statistics of images of {shape}, but the network makes {image_shape}: "
            "name statistics of images of that size."
        )
    if features.function and theirs["function"] and features.function != theirs["function"]:
        raise ValueError(
            f"{field} holds statistics of the features {theirs['function']}, but "
            f"{prefix}features={features.function!r}: compute them anew by python -m diffjax.stats."
        )
    if features.sha256 and theirs["sha256"] and features.sha256 != theirs["sha256"]:
        logging.warning(
            "%s holds statistics of %s as it was in another version of its file: compute them anew "
            "by python -m diffjax.stats if that changed the features.",
            field,
            features.function,
        )
