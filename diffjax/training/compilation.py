"""Updates of an experiment as one compiled call, or as one for each part of them."""

import functools
from typing import Any

import jax
from jax.sharding import Mesh

from diffjax.distributed import sharding
from diffjax.interfaces import Array, PRNGKey
from diffjax.runs.experiment import DistillExperiment, Experiment
from diffjax.training import totals
from diffjax.training.background_compilation import Compilable
from diffjax.training.separate_programs import UpdatesApart
from diffjax.training.totals import Totals


def updates(
    exp: Experiment, mesh: Mesh, updates_per_call: int, *, apart: bool = False
) -> Compilable:
    """What a run calls: `UpdatesApart` if `apart`, else `compile_updates`."""
    if not apart:
        return compile_updates(exp, mesh, updates_per_call)
    assert isinstance(exp, DistillExperiment), "a teacher's update has no parts"
    return UpdatesApart(exp, mesh)


def compile_updates(exp: Experiment, mesh: Mesh, updates_per_call: int) -> Compilable:
    """One compiled call for up to `updates_per_call` updates, the state donated.

    Once `exp.max_skipped_in_a_row` updates in a row were skipped, the state stays as it is, in this
    call and in those that follow it.

    Returns:
      (state, frozen, key, count) -> (state, totals of the `count` updates). With
      `updates_per_call` 1, `count` must be 1 and there is no compiled loop, inside which a CPU
      would run convolutions on one thread.
    """
    shardings = sharding.state(exp.abstract_state(), mesh)

    @jax.jit  # traced once, though its result's shapes are asked for before the loop is built
    def update(state: Any, frozen: Any, key: PRNGKey) -> tuple[Any, Totals]:
        after, metrics = exp.update(state, frozen, jax.random.fold_in(key, state.step), mesh)
        return after, totals.of_update(state, after, metrics)

    @functools.partial(
        jax.jit, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh))
    )
    def call(state: Any, frozen: Any, key: PRNGKey, count: Array) -> tuple[Any, Totals]:
        if updates_per_call == 1:
            return update(state, frozen, key)
        _, shapes = jax.eval_shape(update, state, frozen, key)

        def body(_: Array, carry: tuple[Any, Totals]) -> tuple[Any, Totals]:
            state, so_far = carry
            state, latest = update(state, frozen, key)
            return state, totals.add(so_far, latest)

        return jax.lax.fori_loop(0, count, body, (state, totals.of_none(shapes)))

    return call


def abstract_inputs(exp: Experiment, mesh: Mesh) -> tuple[Any, Any]:
    """The first two arguments of what `updates` returns, as shapes that say where arrays lie.

    Returns:
      (state, what updates read; None where that is streamed).
    """
    return tuple(
        sharding.with_shardings(abstract, sharding.state(abstract, mesh))
        for abstract in (exp.abstract_state(), exp.abstract_frozen())
    )
