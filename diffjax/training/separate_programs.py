"""An update of a distillation as several programs, which are compiled at the same time.

What XLA takes for a program grows faster than the program. So each pass through a network is a
program of its own, and a pass backward is handed what it needs of the pass forward.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffjax.distill.draws import Draws, NetworkDraws
from diffjax.distill.state import DistillState
from diffjax.distill.update import Distillation, FakeScoreTurn, Metrics
from diffjax.distributed import sharding
from diffjax.interfaces import Array, Params, PRNGKey
from diffjax.runs.experiment import DistillExperiment
from diffjax.training import totals
from diffjax.training.totals import Totals

# From a gradient of samples to the generator's.
Pullback = Callable[[Array], tuple[Params]]
Sums = tuple[Params, Metrics]
_PROGRAMS = 9  # at most


class UpdatesApart:
    """Called as what `compilation.compile_updates` returns, with the same result up to rounding.

    The fake score's part must leave the state as it is until the generator's is known to be finite,
    which costs its parameters and their moments once more in memory; no program holds what only
    others need. Rounds of gradient accumulation are calls of the same programs, and on several
    devices the gradient of each is reduced over them.
    """

    def __init__(self, exp: DistillExperiment, mesh: Mesh) -> None:
        """Compiles nothing yet.

        Args:
          exp: the experiment.
          mesh: the devices.
        """
        sigma = jax.eval_shape(exp.draw, jax.random.key(0)).fake_score.sigma
        self._turns, self._rounds, batch = sigma.shape

        def of_draws(draws: Draws) -> Draws:
            return exp.draws_shardings(draws, mesh)

        def of_state(tree: Any) -> Any:
            return sharding.state(tree, mesh)

        def of_round(tree: Any) -> Any:
            return sharding.batches_of(batch, tree, mesh)

        self._setup = exp.setup_on(mesh)
        parts = _Parts(exp, self._setup, mesh)
        self._draw = _Program(parts.draw, of_draws, mesh)
        self._generate = _Program(parts.generate, of_round, mesh)
        self._judge = _Program(parts.judge, of_round, mesh)
        self._pull_back = _Program(parts.pull_back, of_state, mesh)
        self._sample = _Program(parts.sample, of_round, mesh)
        self._learn = _Program(parts.learn, of_state, mesh)
        self._step = _Program(parts.step, of_state, mesh)
        self._rest = _Program(parts.rest, of_state, mesh)
        after = of_state(exp.abstract_state()), sharding.replicated(mesh)
        self._finish = _Program(parts.finish, of_state, mesh, donate_argnums=0, out_shardings=after)
        self._sum = jax.jit(lambda *trees: jax.tree.map(jnp.add, *trees), donate_argnums=0)
        self._add = jax.jit(totals.add)
        self._begun: list[_Program] = []

    def lower(self, state: Any, frozen: Any, key: PRNGKey, count: int) -> "UpdatesApart":
        """Traces all parts, each of which is compiled from then on.

        The longest come first, but for what their arguments need.
        """
        del count
        self._begun = []
        pool = concurrent.futures.ThreadPoolExecutor(_PROGRAMS)

        def begin(program: _Program, *arguments: Any) -> Any:
            self._begun.append(program)
            return program.begin(pool, *arguments)

        index, finite = np.int32(0), np.bool_(True)
        try:
            draws = begin(self._draw, state.step, key)
            x, pullback = begin(self._generate, state.generator, draws, index)
            by_x, metrics = begin(self._judge, x, state.fake_score, frozen, draws, index)
            sums = begin(self._learn, state.fake_score, x, draws, index, index)
            gradient = begin(self._pull_back, pullback, by_x)
            turn = begin(self._step, state, sums, finite)
            begin(self._finish, state, turn, (gradient, metrics))
            if not self._setup.share_samples or self._turns > 1:
                begin(self._sample, state.generator, draws, index, index)
            if self._setup.fake_score_every > 1:
                begin(self._rest, state)
        finally:
            pool.shutdown(wait=False)
        return self

    def compile(self) -> "UpdatesApart":
        """Waits until all are compiled."""
        for program in self._begun:
            program.wait()
        return self

    def __call__(self, state: Any, frozen: Any, key: PRNGKey, count: int) -> tuple[Any, Totals]:
        """Does `count` updates, the state donated, and returns it and their totals."""
        if not self._begun:
            self.lower(state, frozen, key, count).compile()
        every = self._setup.fake_score_every
        # Asked of the device only where it matters, since that waits for what is under way.
        step = int(state.step) if every > 1 else 0
        state, so_far = self._update(state, frozen, key, step % every == 0)
        for latest in range(step + 1, step + count):
            state, totals_ = self._update(state, frozen, key, latest % every == 0)
            so_far = self._add(so_far, totals_)
        return state, so_far

    def _update(
        self, state: DistillState, frozen: Params, key: PRNGKey, is_turn: bool
    ) -> tuple[DistillState, Totals]:
        draws = self._draw(state.step, key)
        shared: list[tuple[Array, Pullback]] = []
        if self._setup.share_samples:
            shared = [self._generate(state.generator, draws, r) for r in _indices(self._rounds)]
        turn = self._turn(state, draws, shared) if is_turn else self._rest(state)
        sums: Sums | None = None
        for r in _indices(self._rounds):
            latest = self._generator_gradient(state, turn, frozen, draws, r, shared)
            sums = self._total(sums, latest)
        return self._finish(state, turn, sums)

    def _generator_gradient(
        self,
        state: DistillState,
        turn: FakeScoreTurn,
        frozen: Params,
        draws: Draws,
        round_: np.int32,
        shared: list[tuple[Array, Pullback]],
    ) -> Sums:
        """Of one round, whose pass forward is shared's first, if there is one, and is taken away.

        So what only its pass backward needs goes before the next round's comes.
        """
        x, pullback = shared.pop(0) if shared else self._generate(state.generator, draws, round_)
        by_x, metrics = self._judge(x, turn.fake_score, frozen, draws, round_)
        return self._pull_back(pullback, by_x), metrics

    def _turn(
        self, state: DistillState, draws: Draws, shared: list[tuple[Array, Pullback]]
    ) -> FakeScoreTurn:
        finite: Any = np.bool_(True)
        for i in _indices(self._turns):
            sums: Sums | None = None
            for r in _indices(self._rounds):
                if shared and i == self._turns - 1:
                    x, _ = shared[r]
                else:
                    x = self._sample(state.generator, draws, i, r)
                sums = self._total(sums, self._learn(state.fake_score, x, draws, i, r))
            turn = self._step(state, sums, finite)
            finite = turn.finite
            state = state.replace(  # type: ignore[attr-defined]
                fake_score=turn.fake_score, fake_score_opt=turn.fake_score_opt
            )
        return turn

    def _total(self, sums: Sums | None, latest: Sums) -> Sums:
        return latest if sums is None else self._sum(sums, latest)


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What each program computes: a step of `Distillation.update`."""

    exp: DistillExperiment
    setup: Distillation
    mesh: Mesh

    def draw(self, step: Array, key: PRNGKey) -> Draws:
        return self.exp.draws(None, jax.random.fold_in(key, step), self.mesh)

    def sample(self, params: Params, draws: Draws, turn: Array, round_: Array) -> Array:
        return self.setup.samples(params, _take(draws.fake_score, turn, round_), train=False)

    def learn(self, params: Params, x: Array, draws: Draws, turn: Array, round_: Array) -> Sums:
        return self.setup.fake_score_gradient(params, x, _take(draws.fake_score, turn, round_))

    def step(self, state: DistillState, sums: Sums, finite: Array) -> FakeScoreTurn:
        turn = self.setup.step_fake_score(state, *sums)
        turn = dataclasses.replace(turn, gradients=[], finite=turn.finite & finite)
        return self.setup.count_turn(turn, jnp.bool_(True))

    def rest(self, state: DistillState) -> FakeScoreTurn:
        turn = self.setup.count_turn(self.setup.rest(state), jnp.bool_(False))
        return jax.tree.map(jnp.copy, turn)  # since the state will be donated

    def generate(self, params: Params, draws: Draws, round_: Array) -> tuple[Array, Pullback]:
        return self.setup.generator_samples(params, self._generator_draws(draws, round_))

    def judge(
        self, x: Array, fake_score: Params, teacher: Params, draws: Draws, round_: Array
    ) -> tuple[Array, Metrics]:
        draw = self._generator_draws(draws, round_)
        return self.setup.sample_gradient(x, fake_score, teacher, draw)

    def pull_back(self, pullback: Pullback, by_x: Array) -> Params:
        return pullback(by_x)[0]

    def finish(
        self, state: DistillState, turn: FakeScoreTurn, sums: Sums
    ) -> tuple[DistillState, Totals]:
        limit = self.exp.max_skipped_in_a_row
        after, metrics = self.setup.step_generator(state, turn, *sums, max_skipped_in_a_row=limit)
        return after, totals.of_update(state, after, metrics)

    def _generator_draws(self, draws: Draws, round_: Array) -> NetworkDraws:
        return _take(self.setup.generator_draws(draws), round_)


class _Program:
    """A function that is compiled by itself, its results placed as the next ones take them."""

    def __init__(
        self,
        function: Callable[..., Any],
        place: Callable[[Any], Any],
        mesh: Mesh,
        **options: Any,
    ) -> None:
        """Compiles nothing yet.

        Args:
          function: what to compile.
          place: from its results, or their shapes, where they go.
          mesh: the devices.
          **options: of `jax.jit`.
        """

        @functools.wraps(function)  # whose name compilers and profilers then show
        def placed(*arguments: Any) -> Any:
            result = function(*arguments)
            return sharding.constrain(result, place(result), mesh)

        self._function = jax.jit(placed, **options)
        self._place = place
        self._program: concurrent.futures.Future[Any]

    def begin(self, pool: concurrent.futures.Executor, *arguments: Any) -> Any:
        """Traces it and lets the pool compile it; its results' shapes, which say where they lie."""
        traced = self._function.trace(*arguments)
        self._program = pool.submit(traced.lower().compile)
        return sharding.with_shardings(traced.out_info, self._place(traced.out_info))

    def wait(self) -> None:
        """Until it is compiled; raises what that raised."""
        self._program.result()

    def __call__(self, *arguments: Any) -> Any:
        return self._program.result()(*arguments)


def _take(draws: NetworkDraws, *indices: Array) -> NetworkDraws:
    """Those of a turn, of a round."""
    for index in indices:
        draws = jax.tree.map(
            lambda x, i=index: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), draws
        )
    return draws


def _indices(count: int) -> list[np.int32]:
    return [np.int32(i) for i in range(count)]
