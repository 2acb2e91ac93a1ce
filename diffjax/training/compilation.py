"""Updates as one compiled call, or as a program for each part of them."""

import functools
from typing import Any

import jax
from jax.sharding import Mesh

from diffjax.distributed import sharding
from diffjax.interfaces import Array, PRNGKey
from diffjax.training import draws as drawing
from diffjax.training import metric_sums
from diffjax.training.background_compilation import Compilable
from diffjax.training.metric_sums import MetricSums
from diffjax.training.state import TrainState
from diffjax.training.update import Update


def compile_updates(
    update: Update, abstract_state: TrainState, mesh: Mesh, updates_per_call: int
) -> Compilable:
    """Compile one call for up to `updates_per_call` updates, the state donated.

    Once `update.max_skipped_in_a_row` updates in a row were skipped, the state stays as it is, in
    this call and in those that follow it.

    Args:
      update: the update.
      abstract_state: shapes of the state.
      mesh: the devices.
      updates_per_call: the most that a call is asked for.

    Returns:
      (state, inputs, key, count) -> (state, sums of the `count` updates' metrics). With
      `updates_per_call` 1, `count` must be 1 and there is no compiled loop, inside which a CPU
      would run convolutions on one thread.
    """
    shardings = sharding.state(abstract_state, mesh)
    placed = drawing.on_mesh(update, mesh)

    @jax.jit  # traced once, though its result's shapes are asked for before the loop is built
    def one(state: Any, inputs: Any, key: PRNGKey) -> tuple[Any, MetricSums]:
        drawn, read = drawing.parted(inputs)
        key = jax.random.fold_in(key, state.step)
        drawn = {"data": None, **drawn}
        images = state.images if update.method.has_phases else None
        draws = drawing.draw(update.method, key, **drawn, mesh=mesh, images=images)
        after, metrics = placed(state, read, draws)
        return after, metric_sums.of_update(state, after, metrics)

    @functools.partial(
        jax.jit, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh))
    )
    def call(state: Any, inputs: Any, key: PRNGKey, count: Array) -> tuple[Any, MetricSums]:
        if updates_per_call == 1:
            return one(state, inputs, key)
        _, shapes = jax.eval_shape(one, state, inputs, key)

        def body(_: Array, carry: tuple[Any, MetricSums]) -> tuple[Any, MetricSums]:
            state, so_far = carry
            state, latest = one(state, inputs, key)
            return state, metric_sums.add(so_far, latest)

        return jax.lax.fori_loop(0, count, body, (state, metric_sums.of_none(shapes)))

    return call


def abstract_arguments(abstract_state: Any, abstract_inputs: Any, mesh: Mesh) -> tuple[Any, Any]:
    """Shapes of the first two arguments of a compiled update, which say where arrays lie.

    Args:
      abstract_state: shapes of the state.
      abstract_inputs: shapes of what updates read.
      mesh: the devices.
    """
    return tuple(
        sharding.with_shardings(abstract, sharding.state(abstract, mesh))
        for abstract in (abstract_state, abstract_inputs)
    )
