"""The training state: named trees, keyed by learner."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from diffjax.interfaces import Array, Params


@flax.struct.dataclass
class TrainState:
    """Trees that a run carries from update to update; what it only reads is an argument instead.

    Attributes:
      step: int32 scalar, updates attempted, skipped ones among them; it seeds the draws, and
        images seen are step · batch size.
      skipped: int32 scalar, how many of them were left out because a number was not finite.
      skipped_in_a_row: int32 scalar, how many of those were the latest.
      params: learner -> parameters.
      averages: learner -> exponential moving average of its parameters, where one is kept.
      opt: learner -> state of its optimiser.
    """

    step: Array
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
      averaged: learners of which an average is kept.
    """

    def copy(params: Params) -> Params:
        return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)

    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        params={name: copy(params[name]) for name in optimizers},
        averages={name: copy(params[name]) for name in averaged},
        opt={name: optimizer.init(params[name]) for name, optimizer in optimizers.items()},
    )


_COUNTERS = ("step", "skipped", "skipped_in_a_row")


def to_first_layout(state: TrainState) -> dict[str, Any]:
    """Lay a state out as diffjax 0.1 did.

    Its trees were `generator`, `generator_ema`, `generator_opt` and so on, side by side. A single
    learner's optimiser state was called `opt`.
    """
    opt = {f"{name}_opt": tree for name, tree in state.opt.items()}
    if len(state.opt) == 1:
        opt = {"opt": next(iter(state.opt.values()))}
    return {
        **{name: getattr(state, name) for name in _COUNTERS},
        **state.params,
        **{f"{name}_ema": tree for name, tree in state.averages.items()},
        **opt,
    }


def from_first_layout(tree: Mapping[str, Any], like: TrainState) -> TrainState:
    """Undo `to_first_layout`.

    Args:
      tree: as `to_first_layout` gives it.
      like: a state with the same learners.
    """
    single = len(like.opt) == 1
    return TrainState(
        **{name: tree[name] for name in _COUNTERS},
        params={name: tree[name] for name in like.params},
        averages={name: tree[f"{name}_ema"] for name in like.averages},
        opt={name: tree["opt" if single else f"{name}_opt"] for name in like.opt},
    )
