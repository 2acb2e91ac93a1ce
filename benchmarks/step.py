"""Speed of an update: images/s, model FLOP/s against the device's own peak, memory, compiling.

    python -m benchmarks.step --config=configs/sid_cifar.py --dtype=bfloat16 --batch_size=256

The real update of the config, on weights drawn at random, so that nothing is downloaded; a
teacher's on random images, which lie on the devices. Model FLOPs are those of the networks' passes
that the method needs, whatever the compiler adds or saves: 11 forward passes an image for SiD, 9
for Diff-Instruct, whose scores are constants, fewer where the config saves some, and 3 for a
teacher.
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks import measuring
from diffjax.distributed import sharding
from diffjax.methods import Turn
from diffjax.runs import building, roles
from diffjax.runs.experiment import Experiment
from diffjax.training import compilation
from diffjax.training.separate_programs import SeparatePrograms
from diffjax.training.state import TrainState

# Forward passes an image of each learner's turn, a backward pass by parameters counted as two and
# one by the input as one. The fake score's are one of the generator and three of its own.
PASSES = {
    "denoising": {"denoiser": 3},
    "sid": {"fake_score": 4, "generator": 7},
    "sim": {"fake_score": 4, "generator": 7},
    "fgm": {"fake_score": 4, "generator": 7},
    "diff_instruct": {"fake_score": 4, "generator": 5},
    "dmd": {"fake_score": 4, "generator": 5},
    # Its second network learns from the teacher too.
    "moment_matching": {"fake_score": 5, "generator": 5},
}


def forwards(method: str, turns: Iterable[Turn]) -> float | None:
    """Count forward passes an image that an update needs, backward ones as above.

    Args:
      method: name of the method.
      turns: of the update.

    Returns:
      None for a method whose passes aren't listed.
    """
    if method not in PASSES:
        return None
    # Samples that are borrowed cost no pass.
    return sum(
        (PASSES[method][turn.learner] * turn.times - bool(turn.borrows)) / turn.every
        for turn in turns
    )


def model_flops(exp: Experiment, passes: float) -> float:
    """Count FLOPs an image of an update, of a student of its own architecture too.

    Args:
      exp: whose update it is.
      passes: forward passes, as `forwards` counts them.
    """
    flops = passes * measuring.forward_flops(exp.denoiser)
    student = exp.networks.get(exp.method.samples_from)
    if student is None:
        return flops
    # Each turn makes samples, and that of the generator goes back through them.
    own = sum(
        (3 if turn.through_samples else not turn.borrows) * turn.times / turn.every
        for turn in exp.update.turns
    )
    difference = measuring.generator_flops(student.model, exp.denoiser) - flops / passes
    return flops + own * difference


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compile the update and time it."""
    config = measuring.config_of(arguments)
    accumulation = measuring.set_rounds(config, arguments.accumulation)
    config.rematerialize = arguments.rematerialize
    config.updates_per_call = arguments.updates_per_call
    exp, mesh = measuring.build(config, accumulation)
    key, count = jax.random.key(1), config.updates_per_call
    state, inputs = _start(exp, mesh)

    start = time.perf_counter()
    apart = building.compiles_apart(config, exp)
    updates: Any
    if apart:
        updates = SeparatePrograms(exp.update, exp.abstract_state(), mesh)
    else:
        updates = compilation.compile_updates(exp.update, exp.abstract_state(), mesh, count)
    lowered = updates.lower(state, inputs, key, count)
    traced = time.perf_counter() - start
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - start

    state, sums = compiled(state, inputs, key, count)
    jax.block_until_ready(sums)
    seconds = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        state, sums = compiled(state, inputs, key, count)
        jax.block_until_ready(sums)
        seconds.append((time.perf_counter() - start) / count)
    if arguments.profile:
        measuring.write_profile(
            Path(arguments.profile),
            lambda: compiled(state, inputs, key, count)[1],
            None if apart else compiled,
        )

    update = float(np.median(seconds))
    peak = measuring.matrix_peak(roles.DTYPES[config.dtype]) * mesh.size
    passes = forwards(config.method, exp.update.turns)
    flops = passes and model_flops(exp, passes)
    return measuring.describe(arguments, config, mesh) | {
        "accumulation": accumulation,
        "rematerialize": config.rematerialize,
        "compiled_apart": apart,
        **measuring.speed(config.batch_size, update, flops, peak),
        "seconds_per_update": update,
        "slowest_over_median": max(seconds) / update,
        **measuring.of_devices(peak),
        "trace_seconds": traced,
        "compile_seconds": compile_seconds,
        "skipped": int(sums.skipped),
    }


def _start(exp: Experiment, mesh: Mesh) -> tuple[TrainState, dict[str, Any]]:
    """Make a state on random weights, and what updates read and never change, placed as a run's."""
    initial = {
        learner.name: measuring.random_params(exp.model_of(learner.name), mesh)
        for learner in exp.method.learners
    }
    shardings = sharding.state(exp.abstract_state(), mesh)
    state = jax.jit(exp.init_state, out_shardings=shardings)({}, initial)
    inputs = {
        name: measuring.random_params(exp.denoiser, mesh) if name == "teacher" else each.load()
        for name, each in exp.inputs.items()
    }
    return state, exp.narrowed(sharding.put(inputs, sharding.state(inputs, mesh)))


def main() -> None:
    """Print a table, and JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    measuring.add_arguments(parser)
    parser.add_argument("--accumulation", type=int, help="instead of the config's")
    parser.add_argument("--rematerialize", action="store_true", help="blocks computed twice")
    parser.add_argument("--updates_per_call", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls; the median counts")
    parser.add_argument("--profile", help="folder for a trace of one call, and XLA's text")
    arguments = parser.parse_args()
    measuring.report(measure(arguments), arguments.json)


if __name__ == "__main__":
    main()
