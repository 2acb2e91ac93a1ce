"""Evaluation of a generator by metrics, in one pass over images that are never all in memory.

Images and, where they are JAX, features are computed by all devices, in one compiled call a batch
for a one-step generator. The sums over images are the host's, in float64: they don't depend on how
many devices there are, so neither do the metrics.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from diffjax import metrics
from diffjax.distributed import sharding
from diffjax.evaluation import drawing, sampling
from diffjax.evaluation.features import Features, compile_apply, one_behind, to_rows
from diffjax.evaluation.references import Reference
from diffjax.interfaces import Array, Params

_INCEPTION_SCORE_SPLITS = 10
_KERNEL_SUBSET = 1000
_NEIGHBOURS = 3


@dataclasses.dataclass(frozen=True)
class Metric:
    """Metric that can be asked for.

    Attributes:
      at_least: the fewest images that the metric is defined for.
      needs: content that the reference must have: "statistics", "images" or "" for no reference.
      published_only: whether the metric's name stands for Inception's published weights.
      higher_is_better: whether a larger value is a better one.
    """

    at_least: int
    needs: str = ""
    published_only: bool = False
    higher_is_better: bool = False


METRICS: dict[str, Metric] = {
    "fid": Metric(2, "statistics", published_only=True),
    "kid": Metric(_KERNEL_SUBSET, "images", published_only=True),
    "is": Metric(_INCEPTION_SCORE_SPLITS, published_only=True, higher_is_better=True),
    "fd": Metric(2, "statistics"),
    "kd": Metric(_KERNEL_SUBSET, "images"),
    "precision": Metric(_NEIGHBOURS + 1, "images", higher_is_better=True),
    "recall": Metric(_NEIGHBOURS + 1, "images", higher_is_better=True),
}


def result_name(metric: str, *, features: str, count: int) -> str:
    """Name of a value: `fid50k`, `is5k`, `fd_pixels_1797`, `recall_inception_50k`.

    Args:
      metric: one of `METRICS`.
      features: name of the features, left out where the metric's own name implies them.
      count: number of generated images.
    """
    images = f"{count // 1000}k" if count % 1000 == 0 else f"{count}"
    return (
        f"{metric}{images}" if METRICS[metric].published_only else f"{metric}_{features}_{images}"
    )


def check_request(
    names: Sequence[str], *, count: int, reference: str, holds_images: bool, prefix: str = ""
) -> None:
    """Check that metrics can be measured, before anything is downloaded or computed.

    Args:
      names: metrics, of `METRICS`.
      count: number of images to generate.
      reference: name of the reference that they are compared with; "" for none.
      holds_images: whether the reference holds images, not statistics alone.
      prefix: put before the name of a setting in an error.

    Raises:
      ValueError: naming the setting, its value and what would do.
    """
    if not names:
        raise ValueError(f"{prefix}metrics is empty; known are: {', '.join(METRICS)}.")
    for name in names:
        if name not in METRICS:
            raise ValueError(f"{prefix}metrics has {name!r}; known are: {', '.join(METRICS)}.")
        metric = METRICS[name]
        if count < metric.at_least:
            raise ValueError(
                f"{prefix}count={count}: {name!r} needs at least {metric.at_least} images."
            )
        if metric.needs and not reference:
            raise ValueError(
                f"{prefix}metrics has {name!r}, but {prefix}reference is empty: "
                "name real images, or their statistics, to compare with."
            )
        if metric.needs == "images" and not holds_images:
            raise ValueError(
                f"{prefix}metrics has {name!r}, which needs real images, but "
                f"{prefix}reference={reference!r} holds their statistics only: name the "
                "images instead (a folder, a zip, a TFDS data set)."
            )


def check_best(
    best: str, names: Sequence[str], *, field: str = "best", among: str = "metrics"
) -> None:
    """Check that the metric by which the best network is kept is measured.

    Args:
      best: the metric; "" keeps no network.
      names: metrics that are measured.
      field: name of the setting `best` in an error.
      among: name of the setting `names` in an error.

    Raises:
      ValueError: if the metric isn't measured.
    """
    if best and best not in names:
        raise ValueError(
            f"{field}={best!r} isn't among {among}={tuple(names)}; set it to "
            "one of them, or to '' to keep no best network."
        )


def check_features(names: Sequence[str], features: Features, *, prefix: str = "") -> None:
    """Check that metrics on these features may be called by their names.

    Args:
      names: metrics, of `METRICS`.
      features: features that the metrics are computed on.
      prefix: put before the name of a setting in an error.

    Raises:
      ValueError: if a metric's name implies Inception, and the features are something else.
    """
    if features.is_published_inception:
        return
    instead = {"fid": "; ask for 'fd'", "kid": "; ask for 'kd'"}
    for name in names:
        if METRICS[name].published_only:
            raise ValueError(
                f"{prefix}metrics has {name!r}, which is defined on the published "
                f"Inception network, but the features are {features.name!r}{instead.get(name, '')}."
            )


def needs_rows(names: Iterable[str]) -> bool:
    """Whether any of these metrics compares features one by one."""
    return any(METRICS[name].needs == "images" for name in names)


class Evaluator:
    """Evaluator of a generator by metrics.

    Attributes:
      seed: of the samples, which are equal every time.
      names: metric -> the name of its value.
    """

    def __init__(
        self,
        *,
        features: Features,
        names: Sequence[str],
        reference: Reference | None,
        count: int,
        batch_size: int,
        seed: int,
        mesh: Mesh,
        classes: tuple[int, ...] = (),
    ) -> None:
        """Prepare to measure.

        Args:
          features: features that metrics are computed on.
          names: metrics, of `METRICS`.
          reference: real images that metrics compare with; None where no metric compares.
          count: number of images to generate.
          batch_size: images that one device makes at a time. It isn't divided by the number of
            devices, so that a device is given the same work however many there are, and on as many
            cores a device makes images that are equal to the bit.
          seed: of the images and their classes.
          mesh: the devices.
          classes: those that are drawn; () for all.

        Raises:
          ValueError: if a metric's name implies Inception, and the features are something else.
        """
        check_features(names, features)
        self.seed = seed
        self.names = {n: result_name(n, features=features.name, count=count) for n in names}
        self._features, self._reference, self._classes = features, reference, classes
        # Once, not with every batch.
        self._variables = sharding.put(features.variables, sharding.replicated(mesh))
        self._count, self._batch_size, self._mesh = count, batch_size * mesh.size, mesh
        self._calls: dict[tuple[sampling.SampleBatch, int], Callable[..., Any]] = {}
        if reference is not None and count < reference.mean.size:
            logging.warning(
                "%d images can't fill a covariance of %d features: distances of so few say more "
                "about their number than about the generator.",
                count,
                reference.mean.size,
            )

    @property
    def record(self) -> dict[str, Any]:
        """Description of the measure: how and against what, for files that hold its numbers."""
        return {
            "metrics": list(self.names),
            "features": self._features.record,
            "reference": dict(self._reference.record) if self._reference is not None else None,
            "images": self._count,
            "seed": self.seed,
        }

    def __call__(
        self, sampler: sampling.SampleBatch, params: Params, *, label_dim: int, repeat: int = 0
    ) -> dict[str, float]:
        """Measure `count` images with uniform classes.

        Args:
          sampler: function that makes images; its seed should be this evaluator's.
          params: of the sampler's network.
          label_dim: number of classes; 0 for none.
          repeat: r takes the images from r · count on, so that repeats share none.

        Returns:
          Name -> value. Beside an inception score stands the deviation of its splits, `..._std`.

        Raises:
          FloatingPointError: if an image holds NaN.
        """
        tally = _Tally(keep_rows=needs_rows(self.names), keep_logits="is" in self.names)
        for rows, logits in self._generated(sampler, params, label_dim, repeat * self._count):
            tally.add(rows, logits)
        return self._values(tally)

    def _generated(
        self, sampler: sampling.SampleBatch, params: Params, label_dim: int, first: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yield features and logits of images `first` to `first + count`, a batch at a time."""
        features, size = self._features, self._batch_size
        call = self._call(sampler, label_dim)
        dispatched = (
            (min(size, self._count - done), *call(params, self._variables, first + done))
            for done in range(0, self._count, size)
        )
        # Every batch is of one size, so that one is compiled; images that are too many are cut.
        for count, output, has_nan in one_behind(dispatched):
            if sharding.gather(has_nan):
                raise FloatingPointError(
                    "the generated images hold NaN: what made them has diverged."
                )
            if not features.compiled:
                output = features.apply(features.variables, sharding.gather(output)[:count])
            rows, logits = output
            yield to_rows(features, rows, count), to_rows(features, logits, count)

    def _call(self, sampler: sampling.SampleBatch, label_dim: int) -> Callable[..., Any]:
        """Compiled (params, variables, first index) -> (output, whether images hold NaN).

        The output is features and logits where these are compiled, else images.
        """
        if (sampler, label_dim) not in self._calls:
            self._calls[sampler, label_dim] = self._join(sampler, label_dim)
        return self._calls[sampler, label_dim]

    def _join(self, sampler: sampling.SampleBatch, label_dim: int) -> Callable[..., Any]:
        mesh, size, seed = self._mesh, self._batch_size, self.seed

        def generate(params: Params, first: Array) -> tuple[Array, Array]:
            indices = first + jnp.arange(size, dtype=jnp.int32)
            classes = drawing.random_classes(seed, indices, label_dim, self._classes)
            return _quantise(sampler(params, indices, classes))

        # A sampler that calls the network many times in Python's loop stays outside of `jit`.
        one_call = isinstance(sampler, jax.stages.Wrapped)
        make = jax.jit(generate) if one_call else generate
        if not self._features.compiled:
            return lambda params, _, first: make(params, first)
        extract = compile_apply(self._features, mesh)

        def call(params: Params, variables: Params, first: Array) -> tuple[Any, Array]:
            pictures, has_nan = make(params, first)
            return extract(variables, pictures), has_nan

        return jax.jit(call) if one_call else call

    def _values(self, tally: "_Tally") -> dict[str, float]:
        values: dict[str, float] = {}
        rows = np.concatenate(tally.rows) if tally.rows else np.empty((0, 0))
        neighbours: dict[str, float] = {}
        for metric, name in self.names.items():
            if metric in ("fid", "fd"):
                values[name] = self._frechet(tally.moments)
            elif metric in ("kid", "kd"):
                values[name] = metrics.kernel_distance(
                    rows, self._real_rows(), subset_size=_KERNEL_SUBSET
                )
            elif metric == "is":
                logits = np.concatenate(tally.logits) - self._features.logit_bias
                values[name], values[f"{name}_std"] = metrics.inception_score(
                    logits, splits=_INCEPTION_SCORE_SPLITS
                )
            else:
                neighbours = neighbours or _precision_recall(self._real_rows(), rows)
                values[name] = neighbours[metric]
        return values

    def _frechet(self, moments: metrics.Moments) -> float:
        assert self._reference is not None
        return metrics.frechet_distance(
            moments.mean, moments.cov, self._reference.mean, self._reference.cov
        )

    def _real_rows(self) -> np.ndarray:
        assert self._reference is not None
        assert self._reference.rows is not None
        return self._reference.rows


class _Tally:
    """Moments of features, and rows and logits only where metrics need them."""

    def __init__(self, *, keep_rows: bool, keep_logits: bool) -> None:
        self._keep_rows, self._keep_logits = keep_rows, keep_logits
        self.moments = metrics.Moments.empty(0)
        self.rows: list[np.ndarray] = []
        self.logits: list[np.ndarray] = []

    def add(self, rows: np.ndarray, logits: np.ndarray | None) -> None:
        if self.moments.count == 0:
            self.moments = metrics.Moments.empty(rows.shape[1])
        self.moments = self.moments.update(rows)
        if self._keep_rows:
            self.rows.append(rows)
        if self._keep_logits and logits is not None:
            self.logits.append(logits)


@jax.jit
def _quantise(x: Array) -> tuple[Array, Array]:
    """Quantise images as `images.to_uint8`, on the devices; tell whether they hold NaN."""
    return jnp.clip(x * 127.5 + 128, 0, 255).astype(jnp.uint8), jnp.isnan(x).any()


def _precision_recall(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    precision, recall = metrics.precision_recall(real, generated, k=_NEIGHBOURS)
    return {"precision": precision, "recall": recall}


def compare(real: np.ndarray, generated: np.ndarray, *, name: str) -> dict[str, float]:
    """Fréchet distance, precision and recall of generated against real features.

    Args:
      real: [N, D].
      generated: [M, D].
      name: of the features, part of the values' names with M: `fd_pixels_1797`.

    Returns:
      Name -> value.
    """
    moments = [metrics.Moments.empty(real.shape[1]).update(x) for x in (generated, real)]
    distance = metrics.frechet_distance(
        moments[0].mean, moments[0].cov, moments[1].mean, moments[1].cov
    )
    values = {"fd": distance, **_precision_recall(real, generated)}
    return {
        result_name(metric, features=name, count=len(generated)): value
        for metric, value in values.items()
    }
