"""Exponential moving averages of parameters, with EDM's ramp-up."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array, Params


def decay(
    images_seen: Array | float, batch_size: int, *, halflife: float, rampup: float | None = 0.05
) -> Array:
    """β, the weight of the old average (EDM's and SiD's training loops).

    h' = min(halflife, rampup · images_seen), β = 0.5^(batch_size / max(h', 1e-8)).

    Args:
      images_seen: images generated before this update.
      batch_size: images of this update.
      halflife: h, in images.
      rampup: the average forgets what is older than this share of the run; None for no ramp-up.

    Returns:
      A float32 scalar in [0, 1); 0 at the start of a run with ramp-up.
    """
    forgotten = jnp.float32(halflife)
    if rampup is not None:
        forgotten = jnp.minimum(forgotten, jnp.float32(images_seen) * rampup)
    return jnp.float32(0.5) ** (batch_size / jnp.maximum(forgotten, 1e-8))


def update(average: Params, params: Params, beta: Array) -> Params:
    """β · average + (1 − β) · params, in the form that leaves equal values as they are.

    Args:
      average: before an update.
      params: after it.
      beta: β, as `decay` gives it.
    """
    return jax.tree.map(lambda old, new: new + beta * (old - new), average, params)


@dataclasses.dataclass(frozen=True)
class Averages:
    """Exponential moving averages of some learners' parameters.

    Attributes:
      halflife: in examples.
      rampup: see `decay`.
    """

    halflife: float = 500_000
    rampup: float | None = 0.05

    def follow(
        self,
        averages: Mapping[str, Params],
        params: Mapping[str, Params],
        *,
        images_seen: Array,
        batch_size: int,
    ) -> dict[str, Params]:
        """Move averages towards the parameters of an update.

        Args:
          averages: learner -> average before the update.
          params: learner -> parameters after it, of these learners and others.
          images_seen: examples before the update.
          batch_size: examples of the update.
        """
        beta = decay(images_seen, batch_size, halflife=self.halflife, rampup=self.rampup)
        return {name: update(tree, params[name], beta) for name, tree in averages.items()}
