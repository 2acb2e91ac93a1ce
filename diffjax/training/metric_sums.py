"""Metrics of updates, summed on the device and averaged for a line of `metrics.jsonl`."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array


@flax.struct.dataclass
class MetricSums:
    """Sums over updates, skipped ones apart; scalars, all int32 but the sums.

    Attributes:
      sums: metric -> its float32 sum over the updates that were kept.
      not_finite: metric -> in how many updates it was not finite.
      kept: how many updates were.
      skipped: how many were left out.
      last_skipped: the step that seeded the latest of these, or -1.
      skipped_in_a_row: how many of the latest updates were left out, those before the call too.
    """

    sums: dict[str, Array]
    not_finite: dict[str, Array]
    kept: Array
    skipped: Array
    last_skipped: Array
    skipped_in_a_row: Array


def of_update(before: Any, after: Any, metrics: Mapping[str, Array]) -> MetricSums:
    """Sums of one update, from the states around it.

    An update that made no step, because the run is to stop, counts as none at all.
    """
    skipped = after.skipped - before.skipped
    done = after.step - before.step
    kept = done - skipped
    losses = {name: value for name, value in metrics.items() if name != "skipped"}
    return MetricSums(
        # Chosen, not multiplied: 0 · NaN is NaN.
        sums={name: jnp.where(kept > 0, value, 0.0) for name, value in losses.items()},
        not_finite={name: jnp.where(jnp.isfinite(x), 0, done) for name, x in losses.items()},
        kept=kept,
        skipped=skipped,
        last_skipped=jnp.where(skipped > 0, before.step, -1),
        skipped_in_a_row=after.skipped_in_a_row,
    )


def means(
    sums: Mapping[str, Any], kept: int, counted_by: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Means of metrics over the updates that measured them.

    Args:
      sums: name -> sum over the updates that were kept.
      kept: how many.
      counted_by: metric that some updates leave at 0, unmeasured -> the metric that is 1 in the
        others; see `Update.counted_by`.

    Returns:
      Name -> mean, without the metrics that no update measured.
    """
    counts = {name: float(sums.get((counted_by or {}).get(name, ""), kept)) for name in sums}
    return {name: float(value) / counts[name] for name, value in sums.items() if counts[name]}


def of_none(shapes: MetricSums) -> MetricSums:
    """Sums over no update.

    Args:
      shapes: of the sums of another call.
    """
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return zeros.replace(last_skipped=jnp.full_like(zeros.last_skipped, -1))


def add(first: MetricSums, second: MetricSums) -> MetricSums:
    """Sums of two calls, the second after the first."""
    return jax.tree.map(jnp.add, first, second).replace(
        last_skipped=jnp.maximum(first.last_skipped, second.last_skipped),
        skipped_in_a_row=second.skipped_in_a_row,
    )


class RunningMeans:
    """Sums of metrics since the last line, kept in checkpoints so that lines don't change.

    All of them stay on the device until they are asked for.

    Attributes:
      sums: name -> sum over the updates that were kept.
      kept: how many.
      skipped: how many updates were left out.
    """

    def __init__(
        self, meta: Mapping[str, Any], counted_by: Mapping[str, str] | None = None
    ) -> None:
        """Go on from a checkpoint.

        Args:
          meta: what `meta` gave to the checkpoint; an empty mapping starts afresh.
          counted_by: see `means`.
        """
        self._counted_by = counted_by
        self.sums: dict[str, Any] = dict(meta.get("pending_sums", {}))
        self.kept: Any = meta.get("pending_kept", 0)
        self.skipped: Any = meta.get("pending_skipped", 0)

    def add(self, sums: MetricSums) -> None:
        """Add the sums of more updates."""
        self.sums = {k: np.float32(self.sums.get(k, 0)) + v for k, v in sums.sums.items()}
        self.kept += sums.kept
        self.skipped += sums.skipped

    def meta(self) -> dict[str, Any]:
        """Sums to keep in a checkpoint, as JSON can hold them."""
        return {
            "pending_sums": {k: float(v) for k, v in self.sums.items()},
            "pending_kept": int(self.kept),
            "pending_skipped": int(self.skipped),
        }

    def take(self) -> dict[str, float | int]:
        """Give name -> mean, see `means`, and the number of `skipped` updates.

        Waits for the device, and starts afresh. Where all were skipped there are no means.
        """
        averages = means(self.sums, int(self.kept), self._counted_by)
        skipped = int(self.skipped)
        self.sums, self.kept, self.skipped = {}, 0, 0
        return {**averages, "skipped": skipped}
