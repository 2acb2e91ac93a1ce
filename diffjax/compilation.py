"""Updates of an experiment as one compiled call, or as one for each network."""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from diffjax import guard, sharding, totals
from diffjax.ahead import Compilable
from diffjax.experiment import DistillExperiment, Experiment
from diffjax.totals import Totals
from diffjax.types import Array, PRNGKey


def updates(
    exp: Experiment, mesh: Mesh, updates_per_call: int, *, apart: bool = False
) -> Compilable:
    """What a run calls: `UpdatesApart` if `apart`, else `compile_updates`."""
    if not apart:
        return compile_updates(exp, mesh, updates_per_call)
    assert isinstance(exp, DistillExperiment), "a teacher's update has no halves"
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
        after = guard.freeze(state, after, guard.halted(state, exp.max_skipped_in_a_row))
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


class UpdatesApart:
    """Updates of a distillation by two programs, one for each network, compiled at the same time.

    What XLA takes for a program grows faster than the program, and the two halves don't wait for
    each other. The fake score's half must leave the state as it is until the generator's is known
    to be finite, which costs its parameters and their moments once more in memory; neither program
    holds what only the other needs, which was measured to be more.

    Called as what `compile_updates` returns, with the same result up to rounding.
    """

    def __init__(self, exp: DistillExperiment, mesh: Mesh) -> None:
        """Compiles nothing yet.

        Args:
          exp: the experiment.
          mesh: the devices.
        """
        everywhere = sharding.replicated(mesh)
        shardings = sharding.state(exp.abstract_state(), mesh)

        def first(state: Any, frozen: Any, key: PRNGKey) -> Any:
            key = jax.random.fold_in(key, state.step)
            turn = exp.update_fake_score(state, frozen, key, mesh)
            return jax.lax.with_sharding_constraint(turn, sharding.state(turn, mesh))

        def second(state: Any, turn: Any, frozen: Any, key: PRNGKey) -> tuple[Any, Totals]:
            key = jax.random.fold_in(key, state.step)
            after, metrics = exp.update_generator(state, turn, frozen, key, mesh)
            after = guard.freeze(state, after, guard.halted(state, exp.max_skipped_in_a_row))
            return after, totals.of_update(state, after, metrics)

        self._mesh = mesh
        self._first = jax.jit(first)
        self._second = jax.jit(second, donate_argnums=0, out_shardings=(shardings, everywhere))
        self._add = jax.jit(totals.add)
        self._lowered: tuple[Any, ...] = ()
        self._programs: tuple[Callable[..., Any], ...] = ()

    def lower(self, state: Any, frozen: Any, key: PRNGKey, count: int) -> "UpdatesApart":
        """Traces both halves, of which `compile` makes programs; see `jax.stages.Lowered`."""
        del count
        first = self._first.lower(state, frozen, key)
        turn = jax.eval_shape(self._first, state, frozen, key)
        turn = sharding.with_shardings(turn, sharding.state(turn, self._mesh))
        self._lowered = first, self._second.lower(state, turn, frozen, key)
        return self

    def compile(self) -> "UpdatesApart":
        """Compiles both halves at the same time."""
        halves, self._lowered = self._lowered, ()
        with concurrent.futures.ThreadPoolExecutor(len(halves)) as pool:
            self._programs = tuple(pool.map(lambda half: half.compile(), halves))
        return self

    def __call__(self, state: Any, frozen: Any, key: PRNGKey, count: int) -> tuple[Any, Totals]:
        """Does `count` updates, the state donated, and returns it and their totals."""
        if not self._programs:
            self.lower(state, frozen, key, count).compile()
        first, second = self._programs
        state, so_far = second(state, first(state, frozen, key), frozen, key)
        for _ in range(count - 1):
            state, latest = second(state, first(state, frozen, key), frozen, key)
            so_far = self._add(so_far, latest)
        return state, so_far


def abstract_inputs(exp: Experiment, mesh: Mesh) -> tuple[Any, Any]:
    """The first two arguments of what `updates` returns, as shapes that say where arrays lie.

    Returns:
      (state, what updates read; None where that is streamed).
    """
    return tuple(
        sharding.with_shardings(abstract, sharding.state(abstract, mesh))
        for abstract in (exp.abstract_state(), exp.abstract_frozen())
    )
