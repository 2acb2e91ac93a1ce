"""An update as several programs, which are compiled at the same time.

XLA's time grows faster than the program it is given. So each pass through a network is a program
of its own, and a pass backward is handed what it needs of the pass forward.
"""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffjax.distributed import sharding
from diffjax.interfaces import Array, Params, PRNGKey
from diffjax.methods import Turn
from diffjax.methods.base import AllParams
from diffjax.methods.draws import Draws
from diffjax.training import draws as drawing
from diffjax.training import metric_sums
from diffjax.training.metric_sums import MetricSums
from diffjax.training.runner import Outcome, Pullback, Sums
from diffjax.training.state import TrainState
from diffjax.training.update import Update

_POOL = 16  # threads that wait for the compiler; an update has fewer programs


class SeparatePrograms:
    """Updates as a program for each pass of a network, called as a compiled update is.

    The result is that of one program up to rounding. Turns before the last must leave the state as
    it is until the last one's gradient is known to be finite, which costs their parameters and
    moments once more in memory; no program holds what only others need. Rounds of gradient
    accumulation are calls of the same programs, and on several devices the gradient of each is
    reduced over them.
    """

    def __init__(self, update: Update, abstract_state: TrainState, mesh: Mesh) -> None:
        """Compile nothing yet.

        Args:
          update: the update.
          abstract_state: shapes of the state.
          mesh: the devices.
        """
        update = self._update = drawing.on_mesh(update, mesh)
        self._mesh = mesh
        rounds, batch = update.method.batch.lead
        self.rounds = [np.int32(i) for i in range(rounds)]

        def of_state(tree: Any) -> Any:
            return sharding.state(tree, mesh)

        def of_round(tree: Any) -> Any:
            return sharding.batches_of(batch, tree, mesh)

        program = functools.partial(_Program, mesh=mesh)
        after = of_state(abstract_state), sharding.replicated(mesh)
        self.draw = program(self._draw, functools.partial(drawing.shardings, mesh=mesh))
        self.finish = program(self._finish, of_state, donate_argnums=0, out_shardings=after)
        self.samples, self.loss, self.pull_back, self.step, self.rest = ({} for _ in range(5))
        for turn in update.turns:
            name = turn.learner
            of_gradient = of_round if turn.through_samples else of_state
            self.samples[name] = program(self._part(_samples, turn), of_round)
            self.loss[name] = program(self._part(_loss, turn), of_gradient)
            self.pull_back[name] = program(self._part(_pull_back, turn), of_state)
            self.step[name] = program(self._part(_step, turn), of_state)
            self.rest[name] = program(self._part(_rest, turn), of_state)
        self.sum = jax.jit(lambda *trees: jax.tree.map(jnp.add, *trees), donate_argnums=0)
        self._add = jax.jit(metric_sums.add)
        self._begun: list[_Program] = []

    def lower(self, state: Any, inputs: Any, key: PRNGKey, count: int) -> "SeparatePrograms":
        """Trace all parts, by the same steps that an update takes; each is compiled from then on.

        Args:
          state: shapes, or arrays.
          inputs: likewise.
          key: of the run.
          count: updates a call; any.
        """
        del count
        self._begun = []
        pool = concurrent.futures.ThreadPoolExecutor(_POOL)
        try:
            self._follow(_Tracing(pool, self._begun), state, inputs, key, step=0)
        finally:
            pool.shutdown(wait=False)
        return self

    def compile(self) -> "SeparatePrograms":
        """Wait until all are compiled."""
        for program in self._begun:
            program.wait()
        return self

    def __call__(self, state: Any, inputs: Any, key: PRNGKey, count: int) -> tuple[Any, MetricSums]:
        """Do `count` updates, the state donated, and return it and the sums of their metrics."""
        if not self._begun:
            self.lower(state, inputs, key, count).compile()
        # Asked of the device only where it matters, since that waits for what is under way.
        waits = any(turn.every > 1 for turn in self._update.turns)
        step = int(state.step) if waits else 0
        state, so_far = self._follow(_Calling(), state, inputs, key, step)
        for latest in range(step + 1, step + count):
            state, sums = self._follow(_Calling(), state, inputs, key, latest)
            so_far = self._add(so_far, sums)
        return state, so_far

    def _follow(
        self, call: "_Calling", state: Any, inputs: Any, key: PRNGKey, step: int
    ) -> tuple[Any, MetricSums]:
        drawn, read = drawing.parted(inputs)
        draws = call(self.draw, state.step, state.images, key, drawn)
        return self._update.follow(_Apart(self, call, step), state, read, draws)

    def _draw(
        self, step: Array, images: Array, key: PRNGKey, drawn: dict[str, Any]
    ) -> dict[str, Draws]:
        key = jax.random.fold_in(key, step)
        drawn = {"data": None, **drawn}
        return drawing.draw(self._update.method, key, **drawn, mesh=self._mesh, images=images)

    def _finish(
        self, state: TrainState, outcome: Outcome, sums: Any
    ) -> tuple[TrainState, MetricSums]:
        after, metrics = self._update.finish(state, outcome, sums)
        return after, metric_sums.of_update(state, after, metrics)

    def _part(self, part: Callable[..., Any], turn: Turn) -> Callable[..., Any]:
        @functools.wraps(part)
        def of_turn(*arguments: Any) -> Any:
            return part(self._update, turn, *arguments)

        of_turn.__name__ = f"{turn.learner}_{part.__name__.strip('_')}"
        return of_turn


def _samples(
    update: Update, turn: Turn, params: AllParams, draws: Draws, time: Array, round_: Array
) -> tuple[Array, Pullback | None]:
    return update.samples(turn, params, _take(draws, time, round_))


def _loss(
    update: Update,
    turn: Turn,
    params: AllParams,
    x: Array,
    draws: Draws,
    time: Array,
    round_: Array,
) -> Sums:
    return update.loss_gradient(turn, params, x, _take(draws, time, round_))


def _pull_back(update: Update, turn: Turn, pullback: Pullback, gradient: Array) -> Params:
    del update, turn
    return pullback(gradient)[0]


def _step(update: Update, turn: Turn, images: Array, before: Outcome, sums: Sums) -> Outcome:
    return update.step(turn, images, before, sums)


def _rest(update: Update, turn: Turn, before: Outcome) -> Outcome:
    return jax.tree.map(jnp.copy, update.rest(turn, before))  # since the state will be donated


class _Calling:
    """Calls of compiled programs."""

    def __call__(self, program: "_Program", *arguments: Any) -> Any:
        return program(*arguments)

    def sum(self, add: Callable[..., Any], total: Any, latest: Any) -> Any:
        return add(total, latest)

    def if_due(self, is_due: bool, take: Callable[[], Any], rest: Callable[[], Any]) -> Any:
        return take() if is_due else rest()


class _Tracing(_Calling):
    """Calls before programs are compiled: each begins one, and gives its results' shapes."""

    def __init__(self, pool: concurrent.futures.Executor, begun: list["_Program"]) -> None:
        self._pool, self._begun = pool, begun

    def __call__(self, program: "_Program", *arguments: Any) -> Any:
        if program not in self._begun:
            self._begun.append(program)
            program.begin(self._pool, *arguments)
        return program.out

    def sum(self, add: Callable[..., Any], total: Any, latest: Any) -> Any:
        return latest

    def if_due(self, is_due: bool, take: Callable[[], Any], rest: Callable[[], Any]) -> Any:
        rest()
        return take()


class _Apart:
    """Runner whose parts are programs; a round's draws stay with all others until it takes them."""

    def __init__(self, programs: SeparatePrograms, call: _Calling, step: int) -> None:
        self._programs, self._call, self._step = programs, call, step

    def lend(self, turn: Turn, params: AllParams, draws: Draws) -> list[tuple[Array, Pullback]]:
        make, rounds = self._programs.samples[turn.learner], self._programs.rounds
        return [self._call(make, params, draws, np.int32(0), r) for r in rounds]

    def gradient(self, turn: Turn, params: AllParams, draws: Draws, time: int, lent: Any) -> Sums:
        sums: Any = None
        for r in self._programs.rounds:
            latest = self._round(turn, params, draws, np.int32(time), r, lent)
            sums = latest if sums is None else self._call.sum(self._programs.sum, sums, latest)
        return sums

    def step(self, turn: Turn, images: Array, before: Outcome, sums: Sums) -> Outcome:
        return self._call(self._programs.step[turn.learner], images, before, sums)

    def repeat(
        self, take: Callable[[Any, Outcome], Outcome], start: int, end: int, before: Outcome
    ) -> Outcome:
        for time in range(start, end):
            before = take(time, before)
        return before

    def if_due(
        self, turn: Turn, step: Array, before: Outcome, take: Callable[[Outcome], Outcome]
    ) -> Outcome:
        del step  # which only the device knows by now
        rest = self._programs.rest[turn.learner]
        is_due = self._step % turn.every == 0
        return self._call.if_due(is_due, lambda: take(before), lambda: self._call(rest, before))

    def finish(self, state: TrainState, outcome: Outcome, sums: Sums | None) -> Any:
        return self._call(self._programs.finish, state, outcome, sums)

    def _round(
        self,
        turn: Turn,
        params: AllParams,
        draws: Draws,
        time: np.int32,
        round_: np.int32,
        lent: Any,
    ) -> Sums:
        """Sum one round, whose activations go before the next round's come."""
        name = turn.learner
        if lent is None:
            x, pullback = self._call(self._programs.samples[name], params, draws, time, round_)
        elif turn.through_samples:
            x, pullback = lent[round_]
            lent[round_] = x, None  # what only its pass backward needs goes with it
        else:
            x, pullback = lent[round_][0], None
        gradient, metrics = self._call(self._programs.loss[name], params, x, draws, time, round_)
        if pullback is not None:
            gradient = self._call(self._programs.pull_back[name], pullback, gradient)
        return gradient, metrics


class _Program:
    """A function that is compiled by itself, its results placed as the next ones take them.

    Attributes:
      out: shapes of its results, and where they lie, once it has begun.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        place: Callable[[Any], Any],
        *,
        mesh: Mesh,
        **options: Any,
    ) -> None:
        """Compile nothing yet.

        Args:
          function: to compile.
          place: from its results, or their shapes, where they go.
          mesh: the devices.
          **options: of `jax.jit`.
        """

        @functools.wraps(function)  # whose name compilers and profilers then show
        def placed(*arguments: Any) -> Any:
            result = function(*arguments)
            return sharding.constrain(result, place(result), mesh)

        self.out: Any = None
        self._function = jax.jit(placed, **options)
        self._place = place
        self._program: concurrent.futures.Future[Any]

    def begin(self, pool: concurrent.futures.Executor, *arguments: Any) -> None:
        """Trace it, and let the pool compile it."""
        traced = self._function.trace(*arguments)
        self._program = pool.submit(traced.lower().compile)
        self.out = sharding.with_shardings(traced.out_info, self._place(traced.out_info))

    def wait(self) -> None:
        """Wait until it is compiled; raise what that raised."""
        self._program.result()

    def __call__(self, *arguments: Any) -> Any:
        return self._program.result()(*arguments)


def _take(draws: Draws, *indices: Array) -> Draws:
    """Pick a repetition, and a round of it."""
    for index in indices:
        draws = jax.tree.map(
            lambda x, i=index: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), draws
        )
    return draws
