"""Metrics of the updates since the last line of `metrics.jsonl`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffjax.types import Array


class RunningMeans:
    """Sums of metrics since the last line; kept in checkpoints, so that lines don't change.

    Attributes:
      totals: name -> sum over the updates, on the device until it is asked for.
      count: how many updates.
    """

    def __init__(self, meta: Mapping[str, Any]) -> None:
        """Goes on from what `meta` gave to a checkpoint; an empty mapping starts afresh."""
        self.totals: dict[str, Any] = dict(meta.get("pending_totals", {}))
        self.count: int = meta.get("pending_count", 0)

    def add(self, totals: Mapping[str, Array], count: int) -> None:
        """Adds the sums over `count` more updates."""
        self.totals = {k: np.float32(self.totals.get(k, 0)) + v for k, v in totals.items()}
        self.count += count

    def meta(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as JSON can hold it."""
        return {
            "pending_totals": {k: float(v) for k, v in self.totals.items()},
            "pending_count": self.count,
        }

    def means(self) -> dict[str, float]:
        """Name -> mean; waits for the device."""
        return {k: float(v) / self.count for k, v in self.totals.items()}

    def take(self) -> dict[str, float]:
        """The means, and starts afresh."""
        means = self.means()
        self.totals, self.count = {}, 0
        return means
