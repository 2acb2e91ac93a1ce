"""The training state: named trees, keyed by learner."""

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
import optax

from diffjax.interfaces import Array, Params
from diffjax.training import ema


@flax.struct.dataclass
class TrainState:
    """Trees that a run carries from update to update; what it only reads is an argument instead.

    Attributes:
      step: int32 scalar, updates attempted, skipped ones among them; it seeds the draws.
      images: uint32 scalar, images of these updates, by which a run's progress is counted: its end,
        ramps, averages and decays. Updates of several batch sizes may be among them.
      skipped: int32 scalar, how many of them were left out because a number was not finite.
      skipped_in_a_row: int32 scalar, how many of those were the latest.
      params: learner -> parameters.
      averages: averages of learners' parameters, where they are kept: by the learner's name the
        exponential one, and by those of `ema.power_name` EDM2's.
      opt: learner -> state of its optimiser.
    """

    step: Array
    images: Array
    skipped: Array
    skipped_in_a_row: Array
    params: dict[str, Params]
    averages: dict[str, Params]
    opt: dict[str, optax.OptState]


def create(
    params: Mapping[str, Params],
    optimizers: Mapping[str, optax.GradientTransformation],
    averaged: tuple[str, ...],
) -> TrainState:
    """Make the state before the first update; averages start at the parameters themselves.

    Parameters are copied, so that the state can be donated while the caller, who mostly passes the
    teacher's parameters for several learners, keeps them.

    Args:
      params: learner -> parameters.
      optimizers: learner -> optimiser.
      averaged: names of averages that are kept, such as learners'.
    """

    def copy(params: Params) -> Params:
        return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)

    return TrainState(
        step=jnp.zeros((), jnp.int32),
        images=jnp.zeros((), jnp.uint32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        params={name: copy(params[name]) for name in optimizers},
        averages={name: copy(params[ema.parted(name)[0]]) for name in averaged},
        opt={name: optimizer.init(params[name]) for name, optimizer in optimizers.items()},
    )
