"""Averages of parameters: exponential with EDM's ramp-up, and by power functions as EDM2's."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array, Params
from diffjax.training import power_ema

_POWER = "_power_"  # between a learner's name and thousandths of a length


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


def power_name(learner: str, std: float) -> str:
    """Name a learner's power-function average.

    Args:
      learner: its name.
      std: σ_rel, in whole thousandths.
    """
    return f"{learner}{_POWER}{round(1000 * std):03d}"


def parted(name: str) -> tuple[str, float | None]:
    """Part the name of an average into the learner's and σ_rel; None of the exponential one."""
    learner, mark, thousandths = name.rpartition(_POWER)
    return (learner, int(thousandths) / 1000) if mark else (name, None)


@dataclasses.dataclass(frozen=True)
class Averages:
    """Moving averages of some learners' parameters.

    Attributes:
      halflife: of the exponential ones, in examples.
      rampup: see `decay`.
      power_stds: σ_rel of power-function averages that are kept besides; see `power_ema`.
    """

    halflife: float = 500_000
    rampup: float | None = 0.05
    power_stds: tuple[float, ...] = ()

    def names(self, learner: str) -> tuple[str, ...]:
        """Name all averages of a learner, the exponential one first."""
        return (learner, *(power_name(learner, std) for std in self.power_stds))

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
          averages: average before the update, by its name.
          params: learner -> parameters after it, of these learners and others.
          images_seen: examples before the update.
          batch_size: examples of the update.
        """
        beta = decay(images_seen, batch_size, halflife=self.halflife, rampup=self.rampup)

        def moved(name: str, average: Params) -> Params:
            learner, std = parted(name)
            if std is None:
                return update(average, params[learner], beta)
            share = power_ema.new_share(images_seen + batch_size, batch_size, std)
            return power_ema.blend(average, params[learner], share)

        return {name: moved(name, tree) for name, tree in averages.items()}
