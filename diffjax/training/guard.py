"""Guard against numbers that went wrong: such updates are left out whole, and counted.

Nothing is mended: a NaN that is turned into a number hides the divergence that made it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array


def all_finite(scalars: Mapping[str, Array]) -> Array:
    """Tell whether all of an update's losses and gradient norms are finite.

    A norm speaks for its whole gradient: one NaN or infinity in any leaf, on any device, makes it
    one. So does a finite gradient whose square overflows, which Adam would not survive either.

    Args:
      scalars: name -> scalar.

    Returns:
      A bool scalar.
    """
    return jnp.stack([jnp.isfinite(value) for value in scalars.values()]).all()


def settle(
    before: Any, after: Any, finite: Array, *, max_skipped_in_a_row: int | None = None
) -> Any:
    """Settle on the state after an update, which is left out unless it is finite.

    Selecting costs no pass over memory of its own: XLA does it where it writes the new state.

    Args:
      before: a state with the counters `step`, `skipped` and `skipped_in_a_row`.
      after: what the update made of it.
      finite: bool scalar.
      max_skipped_in_a_row: a state that is `halted` by it stays as it is, its counters too.

    Returns:
      `after` if `finite`, else `before`, to the last bit of each tree; in both cases with the
      counters of one more update. A skipped one counts as a step, since the step seeds the draws.
    """
    goes_on = jnp.bool_(True)
    if max_skipped_in_a_row is not None:
        goes_on = ~halted(before, max_skipped_in_a_row)
    skips = goes_on & ~finite
    return _select(goes_on & finite, after, before).replace(
        step=before.step + goes_on,
        skipped=before.skipped + skips,
        skipped_in_a_row=jnp.where(goes_on & finite, 0, before.skipped_in_a_row + skips),
    )


def halted(state: Any, max_skipped_in_a_row: int) -> Array:
    """Tell whether so many updates in a row were skipped that the run is to stop; a bool scalar."""
    return state.skipped_in_a_row >= max_skipped_in_a_row


def resume(state: Any) -> Any:
    """Count skipped updates in a row afresh, so that a halted run can go on."""
    return state.replace(skipped_in_a_row=0 * state.skipped_in_a_row)


def _select(condition: Array, if_true: Any, if_false: Any) -> Any:
    # One value with thousands of users: XLA would weigh them all anew whenever it fuses one.
    condition = jax.lax.optimization_barrier(condition)
    return jax.tree.map(lambda a, b: jax.lax.select(condition, a, b), if_true, if_false)
