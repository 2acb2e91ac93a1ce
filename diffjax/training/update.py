"""One update: the turns of a method in order, the averages, and all of it left out unless finite.

There is one definition of an update, `Update.follow`, and a runner that decides how its parts are
executed: `Inline` within one program, `separate_programs.SeparatePrograms` as a program each, and
`tools.replay` with a record of each.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffjax.interfaces import Array, Params
from diffjax.methods import Method, Turn
from diffjax.methods.base import AllParams
from diffjax.methods.draws import Draws
from diffjax.models import guidance
from diffjax.training import ema, guard, optimizer
from diffjax.training.runner import Metrics, Outcome, Pullback, Runner, Sums
from diffjax.training.state import TrainState


@dataclasses.dataclass(frozen=True, eq=False)  # equal to itself alone, so that jit takes it
class Update:
    """One update of a method's learners.

    Attributes:
      method: whose turns it takes.
      optimizers: learner -> optimiser.
      averages: how learners' averages follow them.
      max_skipped_in_a_row: once so many updates in a row were left out, the state stays as it is,
        its counters too; None for never.
      unroll: whether loops are unrolled, and a turn that isn't always due is computed each time;
        on a CPU convolutions inside a compiled loop or condition run on one thread.
      overwritten: learner -> its parameters as a training pass forward leaves them, from which its
        optimiser steps, such as `NetworkDenoiser.normalized`; others step from what they have.
      prepared: learner -> its parameters with what training passes would compute of them alone,
        such as `NetworkDenoiser.prepared`. Within one program the rounds of gradient accumulation
        share it, and the way back through it is taken once, by their sum.
    """

    method: Method
    optimizers: Mapping[str, optax.GradientTransformation]
    averages: ema.Averages = dataclasses.field(default_factory=ema.Averages)
    max_skipped_in_a_row: int | None = None
    unroll: bool = False
    overwritten: Mapping[str, Callable[[Params], Params]] = dataclasses.field(default_factory=dict)
    prepared: Mapping[str, Callable[[Params], Params]] = dataclasses.field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Examples an update."""
        return self.method.batch.size

    @functools.cached_property
    def turns(self) -> tuple[Turn, ...]:
        """Turns of the method, in order."""
        return self.method.turns()

    @property
    def averaged(self) -> tuple[str, ...]:
        """Names of the averages that are kept."""
        learners = (each.name for each in self.method.learners if each.averaged)
        return tuple(name for learner in learners for name in self.averages.names(learner))

    @property
    def counted_by(self) -> dict[str, str]:
        """Metrics that some updates leave at 0, unmeasured, and the metric that is 1 in others."""
        return {
            name: f"{turn.prefix}updates"
            for turn in self.turns
            if turn.every > 1
            for name in metric_names(turn)
        }

    def __call__(
        self, state: TrainState, inputs: Mapping[str, Any], draws: Mapping[str, Draws]
    ) -> tuple[TrainState, Metrics]:
        """Do one update.

        If a loss or gradient of any turn is not finite, all of them are left out: all networks,
        their optimisers and averages stay as they were, to the bit, and the state counts it.

        Args:
          state: before the update.
          inputs: what is read and never changed: {"teacher": φ}, and "negative" where a weaker
            network guides it.
          draws: all randomness, by learner.

        Returns:
          The state after it, and scalars: for each turn `{prefix}loss` (sum over an example, mean
          over the batch, before loss scales), its other figures (means over the batch) and
          `{prefix}grad_norm` (with loss scales), as they came out; `{prefix}updates`, 1 where it
          was the turn of a learner that doesn't learn each time, else 0; and `skipped`, 1 if the
          update was left out, else 0.
        """
        return self.follow(Inline(self), state, inputs, draws)

    def follow(
        self,
        run: Runner,
        state: TrainState,
        inputs: Mapping[str, Any],
        draws: Mapping[str, Draws],
    ) -> Any:
        """Do one update part by part, as `run` executes them; see `__call__`."""
        inputs = guidance.paired(inputs)
        outcome = Outcome({}, {}, {}, np.bool_(True))
        lent = {
            turn.borrows: run.lend(
                self._turn_of(turn.borrows), {**inputs, **state.params}, draws[turn.borrows]
            )
            for turn in self.turns
            if turn.borrows
        }

        def gradient(turn: Turn, so_far: Outcome, time: Any, borrows: bool) -> Sums:
            params = {**inputs, **state.params, **so_far.params}
            samples = lent.get(turn.borrows if borrows else "", lent.get(turn.learner))
            return run.gradient(turn, params, draws[turn.learner], time, samples)

        def take(turn: Turn, own: Outcome) -> Outcome:
            before = outcome

            def repeat(time: Any, own: Outcome, borrows: bool = False) -> Outcome:
                sums = gradient(turn, before.followed_by(own), time, borrows)
                return run.step(turn, state.images, dataclasses.replace(own, metrics={}), sums)

            if not turn.borrows:
                return run.repeat(repeat, 0, turn.times, own)
            own = run.repeat(repeat, 0, turn.borrowing, own)
            own = repeat(turn.borrowing, own, borrows=True)
            return run.repeat(repeat, turn.borrowing + 1, turn.times, own)

        # The last turn's step is part of the update's end, if it is one and always due.
        last = self.turns[-1] if self.turns[-1].every == self.turns[-1].times == 1 else None
        for turn in self.turns[:-1] if last else self.turns:
            own = self.own(turn, state, outcome)
            taken = functools.partial(take, turn)
            own = taken(own) if turn.every == 1 else run.if_due(turn, state.step, own, taken)
            outcome = outcome.followed_by(own)
        if last is None:
            return run.finish(state, outcome, None)
        sums = gradient(last, outcome, 0, last.borrowing == 0)
        return run.finish(state, outcome, sums)

    # ---- The parts, each of which may be a program -----------------------------------------------

    def samples(self, turn: Turn, params: AllParams, draws: Draws) -> tuple[Array, Pullback | None]:
        """Make a round's samples, and the way back to the learner's gradient if it made them.

        The way back takes a gradient of the samples; it is a tree of arrays, so that it may leave
        a compiled function.
        """
        if not turn.through_samples:
            return turn.samples(params, draws), None

        def make(own: Params) -> Array:
            return turn.samples({**params, turn.learner: own}, draws)

        return jax.vjp(make, params[turn.learner])

    def loss_gradient(self, turn: Turn, params: AllParams, x: Array, draws: Draws) -> Sums:
        """Differentiate a round's loss by its samples where they carry the gradient, else by ψ.

        Returns:
          The gradient, with the loss scale, and the metrics without; both summed over the round.
        """

        def loss(variable: Any) -> tuple[Array, Metrics]:
            if turn.through_samples:
                values, others = turn.loss(params, variable, draws)
            else:
                values, others = turn.loss({**params, turn.learner: variable}, x, draws)
            total = values.sum()
            sums = {name: value.sum() for name, value in others.items()}
            return turn.scale * total, {f"{turn.prefix}loss": total, **sums}

        return jax.grad(loss, has_aux=True)(x if turn.through_samples else params[turn.learner])

    def step(self, turn: Turn, images: Array, before: Outcome, sums: Sums) -> Outcome:
        """Follow a gradient, from its rounds' sums.

        Args:
          turn: whose.
          images: uint32 scalar, seen before the update; learning rates may depend on it.
          before: this learner alone.
          sums: of the turn's rounds.
        """
        gradient, metrics = jax.tree.map(lambda x: x / self.batch_size, sums)
        name = turn.learner
        params = before.params[name]
        if overwrite := self.overwritten.get(name):
            # Each round's pass does it; after the third nothing more changes in float32.
            for _ in range(min(self.method.batch.rounds, 3)):
                params = overwrite(params)
        params, opt = optimizer.step(
            self.optimizers[name], gradient, before.opt[name], params, images
        )
        metrics = {**metrics, f"{turn.prefix}grad_norm": optax.global_norm(gradient)}
        finite = before.finite & guard.all_finite(metrics)
        if turn.every > 1:
            metrics[f"{turn.prefix}updates"] = jnp.float32(1)
        return Outcome({name: params}, {name: opt}, metrics, finite)

    def rest(self, turn: Turn, before: Outcome) -> Outcome:
        """Leave a learner as it is, in an update that isn't its turn."""
        names = (*metric_names(turn), f"{turn.prefix}updates")
        return dataclasses.replace(before, metrics=dict.fromkeys(names, jnp.float32(0)))

    def finish(
        self, state: TrainState, outcome: Outcome, sums: Sums | None
    ) -> tuple[TrainState, Metrics]:
        """End an update: the last turn's step from its sums, the averages, and the verdict."""
        if sums is not None:
            turn = self.turns[-1]
            own = self.own(turn, state, outcome)
            outcome = outcome.followed_by(self.step(turn, state.images, own, sums))
        params = {**state.params, **outcome.params}
        after = dataclasses.replace(
            state,
            params=params,
            opt={**state.opt, **outcome.opt},
            averages=self.averages.follow(
                state.averages,
                params,
                images_seen=state.images.astype(jnp.float32),
                batch_size=self.batch_size,
            ),
        )
        skipped = 1 - outcome.finite.astype(jnp.float32)
        limit = self.max_skipped_in_a_row
        after = guard.settle(state, after, outcome.finite, max_skipped_in_a_row=limit)
        seen = (after.step - state.step).astype(jnp.uint32) * self.batch_size
        return after.replace(images=state.images + seen), {**outcome.metrics, "skipped": skipped}

    def _turn_of(self, learner: str) -> Turn:
        return next(turn for turn in self.turns if turn.learner == learner)

    def own(self, turn: Turn, state: TrainState, outcome: Outcome) -> Outcome:
        """Pick one learner's trees, as the turns so far left them."""
        name = turn.learner
        params, opt = (
            {**a, **b} for a, b in ((state.params, outcome.params), (state.opt, outcome.opt))
        )
        return Outcome({name: params[name]}, {name: opt[name]}, {}, outcome.finite)


def metric_names(turn: Turn) -> tuple[str, ...]:
    """Name the metrics of a turn."""
    return (f"{turn.prefix}loss", *turn.reports, f"{turn.prefix}grad_norm")


class _Lent(NamedTuple):
    """Samples of all rounds, [R, B, ...], and the way back from their gradient."""

    samples: Array
    pullback: Pullback


class Inline:
    """Runner that executes an update within the function being traced."""

    def __init__(self, update: Update) -> None:
        """Run the parts of `update`."""
        self._update = update

    def lend(self, turn: Turn, params: AllParams, draws: Draws) -> _Lent:
        """Make all samples of a turn, and one way back for all of them."""
        prepare = self._prepare(turn, at(draws, 0))

        def make(own: Params) -> Array:
            trees = {**params, turn.learner: prepare(own)}
            return self._each_round(lambda each: turn.samples(trees, each), at(draws, 0))

        return _Lent(*jax.vjp(make, params[turn.learner]))

    def gradient(
        self,
        turn: Turn,
        params: AllParams,
        draws: Draws,
        time: Any,
        lent: _Lent | None,
    ) -> Sums:
        """Sum gradient and metrics over rounds, a round at a time."""
        rounds = at(draws, time)
        if lent is not None and turn.through_samples:
            of_lent = functools.partial(self._update.loss_gradient, turn, params)
            gradients, metrics = self._each_round(of_lent, lent.samples, rounds)
            (gradient,) = lent.pullback(gradients)
            return gradient, jax.tree.map(lambda x: x.sum(axis=0), metrics)

        # In each round, the way back would stand between its all-reduce and the sum over rounds.
        own, pull_back = jax.vjp(self._prepare(turn, rounds), params[turn.learner])
        params = {**params, turn.learner: own}
        if lent is None:
            sums = self._sum_rounds(functools.partial(self._round, turn, params), rounds)
        else:
            of_lent = functools.partial(self._update.loss_gradient, turn, params)
            sums = self._sum_rounds(of_lent, lent.samples, rounds)
        return pull_back(sums[0])[0], sums[1]

    def step(self, turn: Turn, images: Array, before: Outcome, sums: Sums) -> Outcome:
        """Follow a gradient."""
        return self._update.step(turn, images, before, sums)

    def repeat(
        self, take: Callable[[Any, Outcome], Outcome], start: int, end: int, before: Outcome
    ) -> Outcome:
        """Loop on the device, so that they are compiled once; in Python outside of `jit`."""
        is_traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(before))
        if end - start < 2 or not is_traced:
            for time in range(start, end):
                before = take(time, before)
            return before

        def step(own: Outcome, time: Array) -> tuple[Outcome, Metrics]:
            after = take(time, own)
            return dataclasses.replace(after, metrics={}), after.metrics

        before = dataclasses.replace(before, metrics={}, finite=jnp.asarray(before.finite))
        times = jnp.arange(start, end)
        after, metrics = jax.lax.scan(step, before, times, unroll=self._update.unroll)
        return dataclasses.replace(after, metrics=jax.tree.map(lambda x: x[-1], metrics))

    def if_due(
        self, turn: Turn, step: Array, before: Outcome, take: Callable[[Outcome], Outcome]
    ) -> Outcome:
        """Choose on the device."""
        rest = functools.partial(self._update.rest, turn)
        before = dataclasses.replace(before, finite=jnp.asarray(before.finite))
        is_due = step % turn.every == 0
        if self._update.unroll:
            select = functools.partial(jnp.where, is_due)
            return jax.tree.map(select, take(before), rest(before))
        return jax.lax.cond(is_due, take, rest, before)

    def finish(
        self, state: TrainState, outcome: Outcome, sums: Sums | None
    ) -> tuple[TrainState, Metrics]:
        """End the update."""
        return self._update.finish(state, outcome, sums)

    def _prepare(self, turn: Turn, rounds: Draws) -> Callable[[Params], Params]:
        """Give what makes of a learner's parameters those that rounds take: nothing for one."""
        prepare = self._update.prepared.get(turn.learner)
        if prepare is None or _length(rounds) == 1:
            return lambda own: own
        # Computed once more on the way back, so that nothing of it is kept for that.
        return jax.checkpoint(prepare)

    def _round(self, turn: Turn, params: AllParams, draws: Draws) -> Sums:
        x, pullback = self._update.samples(turn, params, draws)
        gradient, metrics = self._update.loss_gradient(turn, params, x, draws)
        if pullback is not None:
            (gradient,) = pullback(gradient)
        return gradient, metrics

    def _sum_rounds(self, function: Callable[..., Sums], *rounds: Any) -> Sums:
        if _length(rounds) == 1:
            return function(*at(rounds, 0))

        def add(total: Any, each: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, function(*each)), None

        shapes = jax.eval_shape(function, *at(rounds, 0))
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        # To be divided once, after the loop: XLA moves each round's all-reduce out of it only then.
        return jax.lax.scan(add, nothing, rounds, unroll=self._update.unroll)[0]

    def _each_round(self, function: Callable[..., Any], *rounds: Any) -> Any:
        """Stack the function's results, a round each."""
        if _length(rounds) == 1:
            return jax.tree.map(lambda x: x[None], function(*at(rounds, 0)))

        def step(nothing: None, each: Any) -> tuple[None, Any]:
            return nothing, function(*each)

        return jax.lax.scan(step, None, rounds, unroll=self._update.unroll)[1]


def at(tree: Any, index: Any) -> Any:
    """Pick one entry of every leaf's first axis.

    Args:
      tree: of arrays [N, ...].
      index: of the entry, a number or an integer scalar.
    """
    return jax.tree.map(lambda x: x[index], tree)


def _length(tree: Any) -> int:
    return int(jax.tree.leaves(tree)[0].shape[0])
