"""Metrics that can be asked for, and their values from what is kept of the generated samples."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from diffjax import metrics
from diffjax.evaluation.references import Reference

INCEPTION_SCORE_SPLITS = 10
KERNEL_SUBSET = 1000
NEIGHBOURS = 3
# Samples of each set that the discrepancy is of, whose time grows with their square.
MMD_SAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Metric:
    """Metric that can be asked for.

    Attributes:
      at_least: the fewest images that the metric is defined for.
      needs: content that the reference must have: "statistics", "images" (or other samples) or ""
        for no reference.
      published_only: whether the metric's name stands for Inception's published weights.
      higher_is_better: whether a larger value is a better one.
      on_samples: whether it compares samples as they are, without features.
    """

    at_least: int
    needs: str = ""
    published_only: bool = False
    higher_is_better: bool = False
    on_samples: bool = False


METRICS: dict[str, Metric] = {
    "fid": Metric(2, "statistics", published_only=True),
    "kid": Metric(KERNEL_SUBSET, "images", published_only=True),
    "is": Metric(INCEPTION_SCORE_SPLITS, published_only=True, higher_is_better=True),
    "fd": Metric(2, "statistics"),
    "kd": Metric(KERNEL_SUBSET, "images"),
    "precision": Metric(NEIGHBOURS + 1, "images", higher_is_better=True),
    "recall": Metric(NEIGHBOURS + 1, "images", higher_is_better=True),
    "moments": Metric(2, on_samples=True),
    "swd": Metric(2, "images", on_samples=True),
    "mmd": Metric(2, "images", on_samples=True),
}


def result_name(metric: str, *, features: str, count: int) -> str:
    """Name of a value: `fid50k`, `fd_pixels_1797`, `recall_inception_50k`, `swd_10k`.

    Args:
      metric: one of `METRICS`.
      features: name of the features, left out where the metric's own name implies them, or it has
        none.
      count: number of generated samples.
    """
    images = f"{count // 1000}k" if count % 1000 == 0 else f"{count}"
    if METRICS[metric].published_only:
        return f"{metric}{images}"
    return f"{metric}_{images}" if METRICS[metric].on_samples else f"{metric}_{features}_{images}"


class Tally:
    """Moments of features, and rows, logits and samples only where metrics need them.

    Attributes:
      moments: of the features.
    """

    def __init__(self, *, keep_rows: bool, keep_logits: bool) -> None:
        """Start with nothing.

        Args:
          keep_rows: whether features are kept one by one.
          keep_logits: whether logits are.
        """
        self._keep_rows, self._keep_logits = keep_rows, keep_logits
        self.moments = metrics.Moments.empty(0)
        self._rows: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self._values: list[np.ndarray] = []

    def add(
        self, rows: np.ndarray | None, logits: np.ndarray | None, values: np.ndarray | None
    ) -> None:
        """Take a batch.

        Args:
          rows: [B, D] features; None if no metric is on features.
          logits: [B, K], or None.
          values: [B, D] samples as they are; None if no metric is on them.
        """
        if rows is not None:
            if self.moments.count == 0:
                self.moments = metrics.Moments.empty(rows.shape[1])
            self.moments = self.moments.update(rows)
            if self._keep_rows:
                self._rows.append(rows)
        if self._keep_logits and logits is not None:
            self._logits.append(logits)
        if values is not None:
            self._values.append(values)

    @property
    def rows(self) -> np.ndarray:
        """Features [N, D]."""
        return np.concatenate(self._rows)

    @property
    def logits(self) -> np.ndarray:
        """Logits [N, K]."""
        return np.concatenate(self._logits)

    @property
    def values(self) -> np.ndarray:
        """Samples [N, D]."""
        return np.concatenate(self._values)


def measure(
    names: Mapping[str, str],
    tally: Tally,
    reference: Reference | None,
    *,
    logit_bias: np.ndarray | None,
    sigma_data: float,
) -> dict[str, float]:
    """Compute the values of metrics.

    Args:
      names: metric -> the name of its value.
      tally: of the generated samples.
      reference: what metrics compare with; None where no metric compares.
      logit_bias: [K], subtracted from the logits; None without logits.
      sigma_data: standard deviation of the data, in the units of the samples.

    Returns:
      Name -> value; beside some stand their parts, `<name>_std`.
    """
    values: dict[str, float] = {}
    neighbours: dict[str, float] = {}
    for metric, name in names.items():
        if metric in ("fid", "fd"):
            values[name] = _frechet(tally.moments, reference)
        elif metric in ("kid", "kd"):
            values[name] = metrics.kernel_distance(
                tally.rows, _rows(reference), subset_size=KERNEL_SUBSET
            )
        elif metric == "is":
            logits = tally.logits - logit_bias
            values[name], values[f"{name}_std"] = metrics.inception_score(
                logits, splits=INCEPTION_SCORE_SPLITS
            )
        elif metric == "moments":
            parts = _moments(tally.values, reference, sigma_data)
            values[name] = max(parts[part] for part in _compared(reference))
            values |= {f"{name}_{part}": value for part, value in parts.items()}
        elif metric == "swd":
            values[name] = metrics.sliced_wasserstein(tally.values, _values(reference))
        elif metric == "mmd":
            values[name] = _mmd(tally.values, _values(reference), sigma_data)
        else:
            neighbours = neighbours or precision_recall(_rows(reference), tally.rows)
            values[name] = neighbours[metric]
    return values


def precision_recall(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    """Precision and recall by the metric that each is.

    Args:
      real: [N, D] features.
      generated: [M, D] features.
    """
    precision, recall = metrics.precision_recall(real, generated, k=NEIGHBOURS)
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
    found = {"fd": distance, **precision_recall(real, generated)}
    return {
        result_name(metric, features=name, count=len(generated)): value
        for metric, value in found.items()
    }


def evenly_spaced(rows: np.ndarray, most: int) -> np.ndarray:
    """Take rows at even distances, all of them if there are no more than `most`.

    Args:
      rows: [N, ...].
      most: the most rows.
    """
    count = min(len(rows), most)
    return rows[np.arange(count) * len(rows) // count]


def _moments(
    values: np.ndarray, reference: Reference | None, sigma_data: float
) -> dict[str, float]:
    if reference is not None:
        return metrics.moments(values, _values(reference), sigma_data=sigma_data)
    # Nothing is known of the data but sigma_data, which is over all coordinates together.
    together = values.astype(np.float64)
    return {
        "mean": float(abs(together.mean()) / sigma_data),
        "std": float(abs(together.std() / sigma_data - 1)),
    }


def _compared(reference: Reference | None) -> tuple[str, ...]:
    """Parts that are near zero for right samples: the mean is only known of a reference."""
    return ("std",) if reference is None else ("mean", "std")


def _mmd(x: np.ndarray, y: np.ndarray, sigma_data: float) -> float:
    # The width that Gaussians of this deviation have as median distance, so that all measurements
    # of a run are by one kernel.
    width = sigma_data * np.sqrt(2 * x.shape[1])
    x, y = (evenly_spaced(each, MMD_SAMPLES) for each in (x, y))
    return metrics.mmd(x, y, bandwidth=float(width))


def _frechet(moments: metrics.Moments, reference: Reference | None) -> float:
    assert reference is not None
    assert reference.mean is not None
    assert reference.cov is not None
    return metrics.frechet_distance(moments.mean, moments.cov, reference.mean, reference.cov)


def _rows(reference: Reference | None) -> np.ndarray:
    assert reference is not None
    assert reference.rows is not None
    return reference.rows


def _values(reference: Reference | None) -> np.ndarray:
    assert reference is not None
    assert reference.values is not None
    return reference.values
