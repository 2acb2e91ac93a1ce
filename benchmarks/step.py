"""Speed of an update: images/s, model FLOP/s against the device's own peak, memory, compiling.

    python -m benchmarks.step --config=configs/sid_cifar.py --dtype=bfloat16 --batch_size=256

The real update of the config, on weights drawn at random, so that nothing is downloaded; a
teacher's on random images, which lie on the devices. Model FLOPs are those of the networks' passes
that the method needs, whatever the compiler adds or saves: 11 forward passes an image for SiD, 9
for Diff-Instruct, whose scores are constants, fewer where the config saves some, and 3 for a
teacher. Of methods that aren't listed here, with guidance and with several steps they are counted
in the update as it is traced.
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks import measuring, turns
from diffjax.distributed import numerics, sharding
from diffjax.methods import Turn
from diffjax.runs import building
from diffjax.runs.experiment import Experiment
from diffjax.tools import aot
from diffjax.training.state import TrainState

# Forward passes an image of each learner's turn, a backward pass by parameters counted as two and
# one by the input as one. The fake score's are one of the generator and three of its own. Methods
# with a discriminator aren't listed: of real images an encoder is asked alone, a network's share.
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

# Of guidance; where one isn't 1, a network is asked twice, or a third one too.
SCALES = ("teacher", "fake_training", "fake_loss")


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


def model_flops(config: ConfigDict, exp: Experiment) -> float:
    """Count FLOPs an image of an update, of a student of its own architecture too.

    Args:
      config: of any method.
      exp: built from it.
    """
    passes = forwards(config.method, exp.update.turns)
    scales = [value for name, value in config.get("guidance", {}).items() if name in SCALES]
    if passes is None or any(scale != 1 for scale in scales) or exp.sigmas:
        return measuring.update_flops(config, measuring.random_source(config)) / exp.batch_size
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


class Compiled(NamedTuple):
    """Updates of a config, compiled.

    Attributes:
      call: (state, inputs, key, count) -> (state, sums of metrics).
      apart: whether it is several programs, as runs have it there by `compile_apart`.
      trace_seconds: of tracing.
      seconds: of tracing and compiling.
    """

    call: Any
    apart: bool
    trace_seconds: float
    seconds: float


def compile_update(config: ConfigDict, exp: Experiment, mesh: Mesh) -> Compiled:
    """Compile the updates of a config from shapes; nothing lies on the devices before or after.

    Args:
      config: of any method.
      exp: built from it.
      mesh: the devices.
    """
    start = time.perf_counter()
    lowered = building.updates(config, exp, mesh).lower(*aot.abstract_arguments(exp, mesh))
    traced = time.perf_counter() - start
    call = lowered.compile()
    apart = building.compiles_apart(config, exp)
    return Compiled(call, apart, traced, time.perf_counter() - start)


class Running:
    """Updates that go on from a state of random weights, call by call.

    Attributes:
      skipped: updates that were left out, so far.
    """

    def __init__(self, exp: Experiment, mesh: Mesh, compiled: Compiled, count: int) -> None:
        """Place the state and what updates read on the devices.

        Args:
          exp: whose updates they are.
          mesh: the devices.
          compiled: its updates.
          count: updates a call.
        """
        self._call, self._count = compiled.call, count
        self._key = jax.device_put(numerics.key(1), sharding.replicated(mesh))
        self._state, self._inputs = _start(exp, mesh)
        self.skipped = 0

    def __call__(self) -> Any:
        """Do the updates of one call, wait for them, and give the sums of their metrics."""
        self._state, sums = self._call(self._state, self._inputs, self._key, self._count)
        jax.block_until_ready((self._state, sums))
        self.skipped += int(sums.skipped)
        return sums

    def seconds(self, repeats: int) -> list[float]:
        """Time calls after a first one: seconds of an update, in each."""
        self()
        found = []
        for _ in range(repeats):
            start = time.perf_counter()
            self()
            found.append((time.perf_counter() - start) / self._count)
        return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compile the update and time it."""
    config = measuring.config_of(arguments)
    accumulation = measuring.set_rounds(config, arguments.accumulation)
    config.rematerialize = arguments.rematerialize
    config.updates_per_call = arguments.updates_per_call
    exp, mesh = measuring.build(config, accumulation)
    compiled = compile_update(config, exp, mesh)
    with turns.turn():
        running = Running(exp, mesh, compiled, config.updates_per_call)
        seconds = running.seconds(arguments.repeats)
        if arguments.profile:
            program = None if compiled.apart else compiled.call
            measuring.write_profile(Path(arguments.profile), running, program)
        return measuring.describe(arguments, config, mesh) | {
            "accumulation": accumulation,
            "rematerialize": config.rematerialize,
            **timed(config, exp, mesh, compiled, seconds),
            "skipped": running.skipped,
        }


def timed(
    config: ConfigDict, exp: Experiment, mesh: Mesh, compiled: Compiled, seconds: list[float]
) -> dict[str, Any]:
    """Work out an update's speed, with the devices' peak measured now.

    Args:
      config: of any method.
      exp: built from it.
      mesh: the devices.
      compiled: its updates.
      seconds: of an update, in each call.
    """
    update = float(np.median(seconds))
    peak, of_devices = measuring.of_devices(config, mesh)
    flops = model_flops(config, exp)
    return {
        "compiled_apart": compiled.apart,
        **measuring.speed(config.batch_size, update, flops, peak),
        "seconds_per_update": update,
        "slowest_over_median": max(seconds) / update,
        **of_devices,
        "trace_seconds": compiled.trace_seconds,
        "compile_seconds": compiled.seconds,
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
