"""Replay of an update that stopped a run, which says what in it is not finite.

    python -m diffjax.tools.replay --workdir=runs/sid_cifar

A run that stops for losses or gradients that are not finite leaves the state that they met as a
checkpoint and `failed_update.json` beside it: the config, the seed, and the steps whose draws were
concerned. This does one of these updates from that state and those draws, on the devices here, and
lists what goes in and what comes out in the order in which it is computed. The first line marked
with `!` is where it starts. Nothing in the work directory is changed.

Exit code 0: the update is not finite here either. 1: it is finite, as it may be on other devices or
versions, which round otherwise; or it can't be done.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax.distributed import numerics, runtime, sharding
from diffjax.files import paths
from diffjax.files.progress import leave_interrupted
from diffjax.interfaces import Array, PRNGKey
from diffjax.methods import Turn
from diffjax.methods.base import AllParams
from diffjax.methods.draws import Draws
from diffjax.runs import building, checks
from diffjax.runs.experiment import Experiment
from diffjax.training import checkpointing, failures
from diffjax.training import draws as drawing
from diffjax.training.runner import Metrics, Outcome, Sums
from diffjax.training.state import TrainState
from diffjax.training.update import Inline, Update, at


@flax.struct.dataclass
class ArraySummary:
    """Summary of one array.

    Attributes:
      bad: how many of its values are not finite.
      largest: the largest absolute value among the others.
    """

    bad: Array
    largest: Array


@flax.struct.dataclass
class Examples:
    """Loss of each example.

    Attributes:
      loss: [N].
      sigma: [N] noise levels.
    """

    loss: Array
    sigma: Array


class Stage(NamedTuple):
    """One thing that an update reads or computes.

    Attributes:
      name: what it is.
      content: a number, a tree of `ArraySummary`, or `Examples`.
    """

    name: str
    content: Any


@numerics.own()
def replay(workdir: Path, step: int | None = None) -> tuple[list[Stage], failures.FailedUpdates]:
    """Do an update of a run's record again.

    Args:
      workdir: of the run.
      step: which one; None is the first of those in the record.

    Returns:
      What it reads and computes, in order, and the record.

    Raises:
      FileNotFoundError: without a record or its checkpoint.
      ValueError: if `step` isn't among the record's, or the config fits no device here.
    """
    failed = failures.read(workdir)
    step = failed.first_step if step is None else step
    if not failed.first_step <= step <= failed.last_step:
        raise ValueError(
            f"--step={step}: {workdir / failures.RECORD_FILE} is of steps {failed.first_step} to "
            f"{failed.last_step}."
        )
    config = checks.upgraded(ConfigDict(failed.config))
    runtime.prepare(deterministic=config.deterministic, distributed=False)
    mesh = sharding.make_mesh(**config.mesh)
    exp = building.build(config)
    inputs = exp.load_inputs()
    inputs = exp.narrowed(jax.device_put(inputs, sharding.state(inputs, mesh)))
    state = _restore(workdir, exp, mesh, failed.checkpoint)
    images = int(state.images) - (int(state.step) - step) * exp.batch_size
    state = dataclasses.replace(state, step=jnp.int32(step), images=jnp.uint32(images))
    stream = exp.stream(images, mesh)
    if stream is not None:
        inputs |= next(stream)
    key = jax.random.fold_in(numerics.key(failed.seed), step)
    names: list[str] = []

    @jax.jit
    def contents(state: TrainState, inputs: Any, key: PRNGKey) -> list[Any]:
        stages = examine(exp.update, mesh, state, inputs, key, step)
        names[:] = [stage.name for stage in stages]
        return [stage.content for stage in stages]

    found = jax.device_get(contents(state, inputs, key))
    return [Stage(*each) for each in zip(names, found, strict=True)], failed


def examine(
    update: Update, mesh: Mesh, state: TrainState, inputs: Any, key: PRNGKey, step: int
) -> list[Stage]:
    """Do an update inside jit, and list what it reads and computes, in order.

    Args:
      update: the update.
      mesh: the devices.
      state: that the update meets.
      inputs: what it reads and never changes.
      key: of its draws.
      step: of the update, which decides whose turn it is.
    """
    drawn, read = drawing.parted(inputs)
    drawn = {"data": None, **drawn}
    draws = drawing.draw(update.method, key, **drawn, mesh=mesh, images=state.images)
    stages = [
        *(Stage(_words(name), _summary(tree)) for name, tree in read.items()),
        *(Stage(_words(name), _summary(tree)) for name, tree in state.params.items()),
        Stage("optimisers", _summary(state.opt)),
    ]
    update.follow(_Recorder(update, step, stages), state, read, draws)
    return stages


class _Recorder(Inline):
    """Runner that does every part in the function being traced, and writes each of them down."""

    def __init__(self, update: Update, step: int, stages: list[Stage]) -> None:
        super().__init__(update)
        self._step, self._stages = step, stages

    def gradient(self, turn: Turn, params: AllParams, draws: Draws, time: int, lent: Any) -> Sums:
        own, rounds = _words(turn.learner), at(draws, time)
        self._record(f"draws for the {own}", _summary(rounds))
        if lent is None:
            losses = jax.lax.map(lambda each: self._losses(turn, params, each), rounds)
        else:
            losses = jax.lax.map(lambda each: turn.loss(params, *each)[0], (lent.samples, rounds))
        examples = Examples(losses.reshape(-1), rounds.sigma.reshape(-1))
        self._record(f"{turn.prefix}loss by example", examples)
        return super().gradient(turn, params, draws, time, lent)

    def step(self, turn: Turn, images: Array, before: Outcome, sums: Sums) -> Outcome:
        after = super().step(turn, images, before, sums)
        gradient, _ = sums
        for name in (f"{turn.prefix}loss", *turn.reports):
            self._record(name, after.metrics[name])
        mean = jax.tree.map(lambda x: x / self._update.batch_size, gradient)
        self._record(f"{_words(turn.learner)}'s gradient", _summary(mean))
        self._record(f"{turn.prefix}grad_norm", after.metrics[f"{turn.prefix}grad_norm"])
        self._record(f"{_words(turn.learner)} after it", _summary(after.params))
        return after

    def repeat(
        self, take: Callable[[Any, Outcome], Outcome], start: int, end: int, before: Outcome
    ) -> Outcome:
        for time in range(start, end):
            before = take(time, before)
        return before

    def if_due(
        self, turn: Turn, step: Array, before: Outcome, take: Callable[[Outcome], Outcome]
    ) -> Outcome:
        del step  # traced, and known
        return take(before) if self._step % turn.every == 0 else self._update.rest(turn, before)

    def finish(
        self, state: TrainState, outcome: Outcome, sums: Sums | None
    ) -> tuple[TrainState, Metrics]:
        if sums is not None:
            turn = self._update.turns[-1]
            own = self._update.own(turn, state, outcome)
            outcome = self.step(turn, state.images, own, sums)
        return state, outcome.metrics

    def _losses(self, turn: Turn, params: AllParams, draws: Draws) -> Array:
        return turn.loss(params, turn.samples(params, draws), draws)[0]

    def _record(self, name: str, content: Any) -> None:
        self._stages.append(Stage(name, content))


def _words(name: str) -> str:
    return name.replace("_", " ")


def is_finite(stage: Stage) -> bool:
    """Tell whether all of a stage's numbers are finite."""
    if isinstance(stage.content, Examples):
        return bool(np.isfinite(stage.content.loss).all())
    if isinstance(stage.content, np.ndarray | np.generic):
        return bool(np.isfinite(stage.content).all())
    return not any(array.bad for _, array in _arrays(stage.content))


def describe(stage: Stage) -> str:
    """Describe a stage in a line, which starts with `!` if something in it is not finite."""
    if isinstance(stage.content, Examples):
        text = _describe_examples(stage.content)
    elif isinstance(stage.content, np.ndarray | np.generic):
        text = f"{float(stage.content):.6g}"
    else:
        text = _describe_arrays(stage.content)
    return f"{' ' if is_finite(stage) else '!'} {stage.name}: {text}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module for its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m diffjax.tools.replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="of the run that stopped")
    parser.add_argument("--step", type=int, help="one of the record's; the first by default")
    arguments = parser.parse_args(argv)
    try:
        workdir = Path(paths.local(paths.expanded(arguments.workdir)))
        stages, failed = replay(workdir, arguments.step)
    except (FloatingPointError, OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        leave_interrupted()
    step = failed.first_step if arguments.step is None else arguments.step
    print(f"the update of step {step}, seed {failed.seed}, from checkpoint {failed.checkpoint}")
    for name, here in failures.versions().items():
        there = failed.versions.get(name)
        print(f"  {name} {here}" + ("" if here == there else f" (the run's was {there})"))
    print("\n".join(map(describe, stages)))
    first = next((stage.name for stage in stages if not is_finite(stage)), None)
    if first is None:
        print("all of it is finite here: other devices or versions round otherwise")
        return 1
    print(f"the first that is not finite: {first}")
    return 0


def _restore(workdir: Path, exp: Experiment, mesh: Mesh, step: int) -> TrainState:
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is gone, which held the state that the update met")
    with checkpointing.Checkpointer(folder, read_only=True) as checkpointer:
        return exp.restore(checkpointer, mesh, step)[0]


def _summary(tree: Any) -> Any:
    def of_array(x: Array) -> ArraySummary | None:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return None
        finite = jnp.isfinite(x)
        return ArraySummary((~finite).sum(), jnp.abs(jnp.where(finite, x, 0)).max())

    return jax.tree.map(of_array, tree)


def _arrays(tree: Any) -> list[tuple[str, ArraySummary]]:
    found = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda node: isinstance(node, ArraySummary)
    )
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), array) for path, array in found
    ]


def _describe_arrays(tree: Any) -> str:
    arrays = _arrays(tree)
    name, array = max(arrays, key=lambda each: float(each[1].largest))
    largest = f"largest value {float(array.largest):.3g} in {name}"
    bad = [(name, int(array.bad)) for name, array in arrays if array.bad]
    if not bad:
        return f"finite, {largest}"
    shown = ", ".join(f"{name} ({count})" for name, count in bad[:3])
    more = ", ..." if len(bad) > 3 else ""
    return f"{len(bad)} of {len(arrays)} arrays have values that are not: {shown}{more}; {largest}"


def _describe_examples(examples: Examples) -> str:
    bad = np.flatnonzero(~np.isfinite(examples.loss))
    sigma = f"sigma {examples.sigma.min():.3g} to {examples.sigma.max():.3g}"
    if not len(bad):
        return f"finite, {sigma}, largest {np.abs(examples.loss).max():.3g}"
    shown = ", ".join(f"number {i} at sigma {examples.sigma[i]:.3g}" for i in bad[:3])
    more = ", ..." if len(bad) > 3 else ""
    return f"{len(bad)} of {len(examples.loss)} are not: {shown}{more}; {sigma}"


if __name__ == "__main__":
    sys.exit(main())
