"""Does an update again that stopped a run, and says what in it is not finite.

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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax.distributed import runtime, sharding
from diffjax.interfaces import Array, PRNGKey
from diffjax.runs import building
from diffjax.runs.experiment import DistillExperiment, Experiment, PretrainExperiment
from diffjax.training import checkpointing, failures


@flax.struct.dataclass
class ArraySummary:
    """Of one array.

    Attributes:
      bad: how many of its values are not finite.
      largest: the largest absolute value among the others.
    """

    bad: Array
    largest: Array


@flax.struct.dataclass
class Examples:
    """A loss, an example at a time.

    Attributes:
      loss: [N].
      sigma: [N] noise levels.
    """

    loss: Array
    sigma: Array


class Stage(NamedTuple):
    """Something that an update reads or computes.

    Attributes:
      name: what it is.
      content: a number, a tree of `ArraySummary`, or `Examples`.
    """

    name: str
    content: Any


def replay(workdir: Path, step: int | None = None) -> tuple[list[Stage], failures.FailedUpdates]:
    """Does an update of a run's record again.

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
    config = ConfigDict(failed.config)
    runtime.prepare(deterministic=config.deterministic, distributed=False)
    mesh = sharding.make_mesh(**config.mesh)
    exp = building.build(config)
    frozen = exp.load_frozen()
    frozen = jax.device_put(frozen, sharding.state(frozen, mesh))
    frozen = exp.narrowed(frozen)
    state = _restore(workdir, exp, mesh, failed.checkpoint).replace(step=jnp.int32(step))
    stream = exp.stream(step, mesh)
    inputs = frozen if stream is None else next(stream)
    key = jax.random.fold_in(jax.random.key(failed.seed), step)
    examine = _distillation if isinstance(exp, DistillExperiment) else _pretraining
    names: list[str] = []

    @jax.jit
    def contents(state: Any, inputs: Any, key: PRNGKey) -> list[Any]:
        stages = examine(exp, mesh, state, inputs, key)  # type: ignore[arg-type]
        names[:] = [stage.name for stage in stages]
        return [stage.content for stage in stages]

    found = jax.device_get(contents(state, inputs, key))
    return [Stage(*each) for each in zip(names, found, strict=True)], failed


def is_finite(stage: Stage) -> bool:
    """Whether all of a stage's numbers are."""
    if isinstance(stage.content, Examples):
        return bool(np.isfinite(stage.content.loss).all())
    if isinstance(stage.content, np.ndarray | np.generic):
        return bool(np.isfinite(stage.content).all())
    return not any(array.bad for _, array in _arrays(stage.content))


def describe(stage: Stage) -> str:
    """One line, which starts with `!` if something in it is not finite."""
    if isinstance(stage.content, Examples):
        text = _describe_examples(stage.content)
    elif isinstance(stage.content, np.ndarray | np.generic):
        text = f"{float(stage.content):.6g}"
    else:
        text = _describe_arrays(stage.content)
    return f"{' ' if is_finite(stage) else '!'} {stage.name}: {text}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see the module for its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m diffjax.tools.replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, type=Path, help="of the run that stopped")
    parser.add_argument("--step", type=int, help="one of the record's; the first by default")
    arguments = parser.parse_args(argv)
    try:
        stages, failed = replay(arguments.workdir, arguments.step)
    except (FloatingPointError, OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
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


def _restore(workdir: Path, exp: Experiment, mesh: Mesh, step: int) -> Any:
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is gone, which held the state that the update met")
    abstract = exp.abstract_state()
    abstract = sharding.with_shardings(abstract, sharding.state(abstract, mesh))
    with checkpointing.Checkpointer(folder, read_only=True) as checkpointer:
        return checkpointer.restore(abstract, step)[0]


def _distillation(
    exp: DistillExperiment, mesh: Mesh, state: Any, frozen: Any, key: PRNGKey
) -> list[Stage]:
    draws, setup = exp.draws(frozen, key, mesh), exp.setup
    attempt = setup.attempt(state, frozen, draws)
    # Several updates of the fake score follow each other; the first is looked at by example.
    first = jax.tree.map(lambda x: x[0], draws.fake_score)
    fake_losses = jax.lax.map(
        lambda each: setup.fake_score_losses(state.fake_score, *each),
        (setup.fake_score_samples(state.generator, draws, 0), first),
    )
    if setup.fake_score_every > 1:  # where it isn't the fake score's turn, nothing was computed
        fake_losses = jnp.where(attempt.metrics["fake_updates"] > 0, fake_losses, 0.0)
    for_generator = setup.generator_draws(draws)
    generator_losses, _ = jax.lax.map(
        lambda draw: setup.generator_losses(
            setup.samples(state.generator, draw, train=True),
            attempt.state.fake_score,
            frozen,
            draw,
        ),
        for_generator,
    )
    *fake_gradients, generator_gradient = attempt.gradients
    metrics, after = attempt.metrics, attempt.state
    return [
        Stage("teacher", _summary(frozen)),
        Stage("generator", _summary(state.generator)),
        Stage("fake score", _summary(state.fake_score)),
        Stage("optimisers", _summary([state.generator_opt, state.fake_score_opt])),
        Stage("draws for the fake score", _summary(draws.fake_score)),
        Stage("fake_loss by example", _examples(fake_losses, first.sigma)),
        Stage("fake_loss", metrics["fake_loss"]),
        *(Stage("fake score's gradient", _summary(gradient)) for gradient in fake_gradients),
        Stage("fake_grad_norm", metrics["fake_grad_norm"]),
        Stage("fake score after it", _summary(after.fake_score)),
        Stage("draws for the generator", _summary(for_generator)),
        Stage("generator_loss by example", _examples(generator_losses, for_generator.sigma)),
        Stage("generator_loss", metrics["generator_loss"]),
        Stage("delta", metrics["delta"]),
        Stage("generator's gradient", _summary(generator_gradient)),
        Stage("generator_grad_norm", metrics["generator_grad_norm"]),
        Stage("generator after it", _summary(after.generator)),
    ]


def _pretraining(
    exp: PretrainExperiment, mesh: Mesh, state: Any, dataset: Any, key: PRNGKey
) -> list[Stage]:
    draws = exp.draws(dataset, key, mesh)
    attempt = exp.setup.attempt(state, draws)
    return [
        Stage("network", _summary(state.denoiser)),
        Stage("optimiser", _summary(state.opt)),
        Stage("images and draws", _summary(draws)),
        Stage("loss by example", _examples(exp.setup.losses(state.denoiser, draws), draws.sigma)),
        Stage("loss", attempt.metrics["loss"]),
        Stage("gradient", _summary(attempt.gradient)),
        Stage("grad_norm", attempt.metrics["grad_norm"]),
        Stage("network after it", _summary(attempt.state.denoiser)),
    ]


def _summary(tree: Any) -> Any:
    def of_array(x: Array) -> ArraySummary | None:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return None
        finite = jnp.isfinite(x)
        return ArraySummary((~finite).sum(), jnp.abs(jnp.where(finite, x, 0)).max())

    return jax.tree.map(of_array, tree)


def _examples(losses: Array, sigma: Array) -> Examples:
    return Examples(losses.reshape(-1), sigma.reshape(-1))


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
