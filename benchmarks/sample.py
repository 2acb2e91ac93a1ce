"""Speed of sampling: by a student in one step, and by its teacher with Heun's method.

    python -m benchmarks.sample --config=configs/sid_cifar.py --dtype=bfloat16 --batch_size=512

The real samplers of the config, latents and labels drawn included, on weights drawn at random, so
that nothing is downloaded; of a teacher's config Heun's alone. Images stay on the device.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import measuring
from diffjax.evaluation import sampling
from diffjax.interfaces import Array, Params


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compile the samplers and time them."""
    config = measuring.config_of(arguments)
    exp, mesh = measuring.build(config)
    # With the network of each, its evaluations an image, and FLOPs of one of them.
    samplers: dict[str, tuple[sampling.SampleBatch, Any, int, float]] = {}
    flops = measuring.forward_flops(exp.denoiser)
    if exp.is_one_step:
        student, of_student = exp.denoiser, flops
        if own := exp.networks.get(exp.method.samples_from):
            student, of_student = own.model, measuring.generator_flops(own.model, exp.denoiser)
        samplers["one_step"] = exp.sampler(seed=0, mesh=mesh), student, exp.evaluations, of_student
    if arguments.heun:
        heun = sampling.heun(exp.denoiser, settings=exp.heun, seed=0, mesh=mesh)
        samplers["heun"] = heun, exp.denoiser, exp.heun.evaluations, flops
    if not samplers:
        raise SystemExit("error: --no-heun leaves nothing: a teacher has no other sampler")
    classes = jnp.zeros(config.batch_size, jnp.int32)
    timed: dict[str, tuple[float, float]] = {}
    for name, (sampler, model, *_) in samplers.items():
        params = measuring.random_params(model, mesh)
        batch = functools.partial(_batch, sampler, params, classes)
        timed[name] = _time(batch, arguments.repeats)
        if arguments.profile:
            measuring.write_profile(
                Path(arguments.profile) / name,
                functools.partial(batch, 0),
                _program(sampler, params, jnp.arange(config.batch_size), classes),
            )
    peak, of_devices = measuring.of_devices(config, mesh)
    result = measuring.describe(arguments, config, mesh)
    for name, (*_, evaluations, of_an_evaluation) in samplers.items():
        compile_seconds, seconds = timed[name]
        of_one = {
            **measuring.speed(config.batch_size, seconds, of_an_evaluation * evaluations, peak),
            "seconds_per_batch": seconds,
            "evaluations": evaluations,
            "compile_seconds": compile_seconds,
        }
        result |= {f"{name}_{key}": value for key, value in of_one.items()}
    return result | of_devices


def _batch(sampler: sampling.SampleBatch, params: Params, classes: Array, number: int) -> Array:
    first = number * len(classes)
    return sampler(params, jnp.arange(first, first + len(classes)), classes)


def _time(batch: Callable[[int], Array], repeats: int) -> tuple[float, float]:
    """Time the first call, and a later one."""
    start = time.perf_counter()
    jax.block_until_ready(batch(0))
    first = time.perf_counter() - start
    start = time.perf_counter()
    jax.block_until_ready([batch(i) for i in range(repeats)])
    return first, (time.perf_counter() - start) / repeats


def _program(sampler: Any, *arguments: Any) -> Any:
    """Compile the program of a sampler; None of one that calls several."""
    return sampler.lower(*arguments).compile() if hasattr(sampler, "lower") else None


def main() -> None:
    """Print a table, and JSON on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measuring.add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=10, help="timed batches")
    parser.add_argument("--heun", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--profile", help="folder for a trace of one batch of each sampler, and XLA's text"
    )
    arguments = parser.parse_args()
    measuring.report(measure(arguments), arguments.json)


if __name__ == "__main__":
    main()
