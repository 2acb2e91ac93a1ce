"""What the updates of one compiled call came to, skipped ones apart."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from diffjax.interfaces import Array

# Metrics that some updates leave at 0, unmeasured, and the metric that is 1 in the others.
COUNTED_BY = {"fake_loss": "fake_updates", "fake_grad_norm": "fake_updates"}


@flax.struct.dataclass
class Totals:
    """Scalars; all int32 but the sums.

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


def of_update(before: Any, after: Any, metrics: Mapping[str, Array]) -> Totals:
    """Those of one update, from the states around it.

    An update that made no step, because the run is to stop, counts as none at all.
    """
    skipped = after.skipped - before.skipped
    done = after.step - before.step
    kept = done - skipped
    losses = {name: value for name, value in metrics.items() if name != "skipped"}
    return Totals(
        # Chosen, not multiplied: 0 · NaN is NaN.
        sums={name: jnp.where(kept > 0, value, 0.0) for name, value in losses.items()},
        not_finite={name: jnp.where(jnp.isfinite(x), 0, done) for name, x in losses.items()},
        kept=kept,
        skipped=skipped,
        last_skipped=jnp.where(skipped > 0, before.step, -1),
        skipped_in_a_row=after.skipped_in_a_row,
    )


def means(sums: Mapping[str, Any], kept: int) -> dict[str, float]:
    """The means of metrics over the updates that measured them.

    Args:
      sums: name -> sum over the updates that were kept.
      kept: how many.

    Returns:
      Name -> mean, without the metrics that no update measured.
    """
    counts = {name: float(sums.get(COUNTED_BY.get(name, ""), kept)) for name in sums}
    return {name: float(value) / counts[name] for name, value in sums.items() if counts[name]}


def of_none(shapes: Totals) -> Totals:
    """Those of no update, in the shapes of another's."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return zeros.replace(last_skipped=jnp.full_like(zeros.last_skipped, -1))


def add(first: Totals, second: Totals) -> Totals:
    """Those of updates that follow each other."""
    return jax.tree.map(jnp.add, first, second).replace(
        last_skipped=jnp.maximum(first.last_skipped, second.last_skipped),
        skipped_in_a_row=second.skipped_in_a_row,
    )
