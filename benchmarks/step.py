"""How fast an update is: images/s, model FLOP/s against the device's own peak, memory, compiling.

    python -m benchmarks.step --config=configs/sid_cifar.py --dtype=bfloat16 --batch_size=256

The real update of the config, on weights drawn at random, so that nothing is downloaded; a
teacher's on random images, which lie on the devices. Model FLOPs are those of the networks' passes
that the method needs, whatever the compiler adds or saves: 11 forward passes an image for SiD, 9
for Diff-Instruct, whose scores are constants, fewer where the config saves some, and 3 for a
teacher.
"""

import argparse
import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks import measuring
from diffjax.distributed import sharding
from diffjax.pretrain import state as pretrain_state
from diffjax.runs import building
from diffjax.runs.experiment import DistillExperiment, Experiment
from diffjax.training import compilation

# Of a teacher's update.
PRETRAINING = 3
# Of the generator's update; the fake score's takes one of the generator and three of its own.
FORWARDS = {"sid": 7, "diff_instruct": 5}


def forwards(config: ConfigDict) -> float:
    """Forward passes an image that an update of the config needs, backward ones counted as two."""
    if config.task == "pretrain":
        return PRETRAINING
    of_fake_score = 4 * config.fake_score.updates - int(config.share_samples)
    return FORWARDS[config.method] + of_fake_score / config.fake_score.every


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compiles the update and times it."""
    config = measuring.config_of(arguments)
    if config.task == "distill":
        config.accumulation = arguments.accumulation or config.accumulation
    elif arguments.accumulation:
        raise SystemExit("error: --accumulation: the update of a teacher has no rounds")
    config.rematerialize = arguments.rematerialize
    config.updates_per_call = arguments.updates_per_call
    accumulation = config.get("accumulation", 1)
    exp, mesh = measuring.build(config, accumulation)
    key, count = jax.random.key(1), config.updates_per_call
    state, frozen = _start(exp, mesh)

    start = time.perf_counter()
    apart = building.compiles_apart(config, exp)
    lowered = compilation.updates(exp, mesh, count, apart=apart).lower(state, frozen, key, count)
    traced = time.perf_counter() - start
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - start

    state, totals = compiled(state, frozen, key, count)
    jax.block_until_ready(totals)
    seconds = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        state, totals = compiled(state, frozen, key, count)
        jax.block_until_ready(totals)
        seconds.append((time.perf_counter() - start) / count)
    if arguments.profile:
        measuring.write_profile(
            Path(arguments.profile),
            lambda: compiled(state, frozen, key, count)[1],
            None if apart else compiled,
        )

    update = float(np.median(seconds))
    peak = measuring.matrix_peak(building.DTYPES[config.dtype]) * mesh.size
    flops = measuring.forward_flops(exp.denoiser) * forwards(config)
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
        "skipped": int(totals.skipped),
    }


def _start(exp: Experiment, mesh: Mesh) -> tuple[Any, Any]:
    """The state on random weights, and what updates read and never change, placed as a run's."""
    params = measuring.random_params(exp.denoiser, mesh)
    shardings = sharding.state(exp.abstract_state(), mesh)
    if isinstance(exp, DistillExperiment):
        state = jax.jit(exp.init_state, out_shardings=shardings)(params)
        return state, exp.narrowed(params)
    create = functools.partial(pretrain_state.create, optimizer=exp.setup.optimizer)
    images = exp.load_frozen()
    images = sharding.put(images, sharding.state(images, mesh))
    return jax.jit(create, out_shardings=shardings)(params), images


def main() -> None:
    """Prints a table, and JSON on request."""
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
