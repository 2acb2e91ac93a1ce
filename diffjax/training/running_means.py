"""Metrics of the updates since the last line of `metrics.jsonl`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffjax.training import totals as update_totals
from diffjax.training.totals import Totals


class RunningMeans:
    """Sums of metrics since the last line; kept in checkpoints, so that lines don't change.

    All of them stay on the device until they are asked for.

    Attributes:
      sums: name -> sum over the updates that were kept.
      kept: how many.
      skipped: how many updates were left out.
    """

    def __init__(self, meta: Mapping[str, Any]) -> None:
        """Goes on from what `meta` gave to a checkpoint; an empty mapping starts afresh."""
        self.sums: dict[str, Any] = dict(meta.get("pending_sums", {}))
        self.kept: Any = meta.get("pending_kept", 0)
        self.skipped: Any = meta.get("pending_skipped", 0)

    def add(self, totals: Totals) -> None:
        """Adds what more updates came to."""
        self.sums = {k: np.float32(self.sums.get(k, 0)) + v for k, v in totals.sums.items()}
        self.kept += totals.kept
        self.skipped += totals.skipped

    def meta(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as JSON can hold it."""
        return {
            "pending_sums": {k: float(v) for k, v in self.sums.items()},
            "pending_kept": int(self.kept),
            "pending_skipped": int(self.skipped),
        }

    def take(self) -> dict[str, float | int]:
        """Name -> mean, see `totals.means`, and the number of `skipped` updates.

        Waits for the device, and starts afresh. Where all were skipped there are no means.
        """
        means = update_totals.means(self.sums, int(self.kept))
        skipped = int(self.skipped)
        self.sums, self.kept, self.skipped = {}, 0, 0
        return {**means, "skipped": skipped}
