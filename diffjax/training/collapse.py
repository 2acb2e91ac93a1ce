"""Signs that a generator collapses, told once each time they appear."""

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

# Of the first grid's variance; samples that still differ have more, whatever the images.
_FLAT = 0.02
# Times the median of |Δ|: more than nearly all healthy runs reach.
_EXPLODED = 3.0
_HISTORY = 50  # lines of metrics that the median is over
_ENOUGH = 5  # and that it needs


class CollapseWatch:
    """Watch over grids from fixed latents and over mean |Δ| between teacher and fake score.

    Its memory is kept in checkpoints, so that a run that was resumed warns as one that never
    stopped.
    """

    def __init__(self, suspects: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, or start afresh.

        Args:
          suspects: the settings that mostly cause it, field -> value.
          meta: given to the checkpoint by `meta`; an empty mapping starts afresh.
        """
        remembered = meta.get("collapse", {})
        self._suspects = ", ".join(f"{field}={value}" for field, value in suspects.items())
        self._first_variance: float | None = remembered.get("first_variance")
        self._deltas: list[float] = list(remembered.get("deltas", []))
        self._is_flat: bool = remembered.get("is_flat", False)
        self._has_exploded: bool = remembered.get("has_exploded", False)

    def meta(self) -> dict[str, Any]:
        """Memory to keep in a checkpoint, as JSON can hold it."""
        return {
            "collapse": {
                "first_variance": self._first_variance,
                "deltas": self._deltas,
                "is_flat": self._is_flat,
                "has_exploded": self._has_exploded,
            }
        }

    def look_at_grid(self, images: np.ndarray) -> str | None:
        """Warn if samples of different latents became all but equal; None if not.

        Args:
          images: [N, *shape], uint8 or floats, always from the same latents.
        """
        variance = float(images.astype(np.float64).var(axis=0).mean())
        if self._first_variance is None:
            self._first_variance = variance
        was_flat, self._is_flat = self._is_flat, variance < _FLAT * self._first_variance
        if was_flat or not self._is_flat:
            return None
        return self._warning(
            f"the samples are all but equal: their variance over the grid is {variance:.3g}, and "
            f"was {self._first_variance:.3g} in the first one"
        )

    def look_at_delta(self, delta: float) -> str | None:
        """Warn if |Δ| is far above its running median; None if not.

        Args:
          delta: mean over the updates since the last look.
        """
        median = statistics.median(self._deltas) if len(self._deltas) >= _ENOUGH else None
        had_exploded = self._has_exploded
        self._has_exploded = median is not None and delta > _EXPLODED * median
        if not self._has_exploded:
            self._deltas = [*self._deltas[1 - _HISTORY :], delta]
            return None
        if had_exploded:
            return None
        return self._warning(
            f"|Δ| between teacher and fake score is {delta:.3g}, its running median {median:.3g}"
        )

    def _warning(self, sign: str) -> str:
        return (
            f"warning: {sign}; the generator may be collapsing. Likely causes: {self._suspects} "
            "(too large, or a norm of 0, which is no limit; or a fake score that learns too slowly "
            "to follow the generator)"
        )
