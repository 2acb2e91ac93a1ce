"""From images to numbers: features, then distances between sets of them."""

from collections.abc import Callable, Iterable

import numpy as np

from diffjax import digits, images, metrics, sampling
from diffjax.types import Params

Features = Callable[[np.ndarray], np.ndarray]


def pixels(pictures: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] -> [N, H · W · C] in [-1, 1]: pixels as their own features."""
    return pictures.reshape(len(pictures), -1).astype(np.float64) / 127.5 - 1


FEATURES: dict[str, Features] = {"pixels": pixels}


def _digits() -> tuple[np.ndarray, np.ndarray]:
    pictures, classes = digits.load()
    return images.to_uint8(pictures), classes


REFERENCES: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {"digits": _digits}


def features(name: str) -> Features:
    """The feature function of a name.

    Raises:
      ValueError: naming the known ones.
    """
    if name not in FEATURES:
        known = ", ".join(FEATURES)
        raise ValueError(f"evaluate.features={name!r} is unknown; known are: {known}.")
    return FEATURES[name]


def reference_images(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The real images of a name, uint8 [N, H, W, C], and their classes [N].

    Raises:
      ValueError: naming the known ones.
    """
    if name not in REFERENCES:
        known = ", ".join(REFERENCES)
        raise ValueError(f"evaluate.reference={name!r} is unknown; known are: {known}.")
    return REFERENCES[name]()


class Evaluator:
    """Measures samples against a reference.

    Attributes:
      seed: of the samples, the same ones every time.
    """

    def __init__(
        self,
        *,
        features_name: str,
        reference: str,
        count: int,
        batch_size: int,
        seed: int,
    ) -> None:
        """Prepares the reference.

        Args:
          features_name: one of `FEATURES`.
          reference: one of `REFERENCES`.
          count: images to generate.
          batch_size: images a batch, which the devices divide.
          seed: of the images' classes.

        Raises:
          ValueError: an unknown name.
        """
        self._name, self._extract = features_name, features(features_name)
        self._real, self._classes = reference_images(reference)
        self._real_features = collect([self._real], self._extract)
        self._count, self._batch_size, self.seed = count, batch_size, seed

    def __call__(
        self, sampler: sampling.SampleBatch, params: Params, *, label_dim: int
    ) -> dict[str, float]:
        """Metric's name -> value, of `count` images with uniform classes.

        Args:
          sampler: what makes images; its seed should be this evaluator's.
          params: its parameters.
          label_dim: number of classes; 0 for none.
        """
        produced = sampling.batches(
            sampler,
            params,
            self._count,
            batch_size=self._batch_size,
            classes=lambda indices: sampling.random_classes(self.seed, indices, label_dim),
        )
        generated = collect((pictures for pictures, _ in produced), self._extract)
        return compare(self._real_features, generated, name=self._name)

    def real_images(self, count: int, *, label_dim: int) -> np.ndarray:
        """The first of the reference, uint8, image i of class i modulo the number of classes."""
        if not label_dim:
            return self._real[:count]
        by_class = [np.flatnonzero(self._classes == c) for c in range(label_dim)]
        return self._real[[by_class[i % label_dim][i // label_dim] for i in range(count)]]


def collect(batches: Iterable[np.ndarray], extract: Features) -> np.ndarray:
    """Features of all images, [N, D]."""
    return np.concatenate([extract(pictures) for pictures in batches])


def compare(real: np.ndarray, generated: np.ndarray, *, name: str) -> dict[str, float]:
    """Fréchet distance, precision and recall of generated against real features.

    Args:
      real: [N, D].
      generated: [M, D].
      name: of the features, which goes into the metrics' names with M: `fd_pixels_1797`.

    Returns:
      Metric's name -> value.
    """
    moments = [metrics.Moments.empty(real.shape[1]).update(x) for x in (generated, real)]
    distance = metrics.frechet_distance(
        moments[0].mean, moments[0].cov, moments[1].mean, moments[1].cov
    )
    precision, recall = metrics.precision_recall(real, generated, k=3)
    suffix = f"{name}_{len(generated)}"
    return {
        f"fd_{suffix}": distance,
        f"precision_{suffix}": precision,
        f"recall_{suffix}": recall,
    }
