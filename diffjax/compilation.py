"""Updates of an experiment as one compiled call."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffjax import sharding
from diffjax.experiment import Experiment
from diffjax.types import Array, PRNGKey

Totals = dict[str, Array]


def compile_updates(exp: Experiment, mesh: Mesh, updates_per_call: int) -> Callable[..., Any]:
    """One compiled call for up to `updates_per_call` updates, the state donated.

    Returns:
      (state, frozen, key, count) -> (state, metrics summed over the `count` updates). With
      `updates_per_call` 1, `count` must be 1 and there is no compiled loop, inside which a CPU
      would run convolutions on one thread.
    """
    shardings = sharding.state(exp.abstract_state(), mesh)

    def update(state: Any, frozen: Any, key: PRNGKey) -> tuple[Any, Totals]:
        return exp.update(state, frozen, jax.random.fold_in(key, state.step), mesh)

    @functools.partial(
        jax.jit, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh))
    )
    def call(state: Any, frozen: Any, key: PRNGKey, count: Array) -> tuple[Any, Totals]:
        if updates_per_call == 1:
            return update(state, frozen, key)
        _, metrics = jax.eval_shape(update, state, frozen, key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), metrics)

        def body(_: Array, carry: tuple[Any, Totals]) -> tuple[Any, Totals]:
            state, totals = carry
            state, metrics = update(state, frozen, key)
            return state, jax.tree.map(jnp.add, totals, metrics)

        return jax.lax.fori_loop(0, count, body, (state, zeros))

    return call
