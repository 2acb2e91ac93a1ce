"""How fast images are made: by a student in one step, and by its teacher with Heun's method.

    python -m benchmarks.sample --config=configs/sid_cifar.py --dtype=bfloat16 --batch_size=512

The real samplers of the config, latents and labels drawn included, on weights drawn at random, so
that nothing is downloaded. Images stay on the device.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import measuring
from diffjax import experiment, runtime, sampling, sharding


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compiles both samplers and times them."""
    config = measuring.config_of(arguments)
    mesh = sharding.make_mesh(**config.mesh)
    sharding.check_batch(config.batch_size, 1, mesh)
    exp = experiment.build(config)
    params = measuring.random_params(exp.denoiser, mesh)
    (_, heun, _), *_ = exp.comparisons(params, seed=0, mesh=mesh)
    result = measuring.describe(arguments, config, mesh)
    flops = measuring.forward_flops(exp.denoiser)
    peak = measuring.matrix_peak(experiment.DTYPES[config.dtype]) * mesh.size
    samplers = {"one_step": (exp.sampler(seed=0, mesh=mesh), 1)}
    if arguments.heun:
        samplers["heun"] = (heun, exp.heun.evaluations)
    for name, (sampler, evaluations) in samplers.items():
        compile_seconds, seconds = _time(sampler, params, config.batch_size, arguments.repeats)
        rate = config.batch_size / seconds
        result |= {
            f"{name}_images_per_second": rate,
            f"{name}_evaluations": evaluations,
            f"{name}_share_of_peak": rate * evaluations * flops / peak,
            f"{name}_compile_seconds": compile_seconds,
        }
    return result | {
        "matrix_peak_tflops_per_second": peak / 1e12,
        "peak_memory_gib": runtime.peak_memory_gib() or 0.0,
    }


def _time(
    sampler: sampling.SampleBatch, params: Any, batch_size: int, repeats: int
) -> tuple[float, float]:
    """Seconds of the first call, and of a later one."""
    classes = jnp.zeros(batch_size, jnp.int32)
    batch: Callable[[int], Any] = lambda i: sampler(  # noqa: E731
        params, jnp.arange(i * batch_size, (i + 1) * batch_size), classes
    )
    start = time.perf_counter()
    jax.block_until_ready(batch(0))
    first = time.perf_counter() - start
    start = time.perf_counter()
    jax.block_until_ready([batch(i) for i in range(repeats)])
    return first, (time.perf_counter() - start) / repeats


def main() -> None:
    """Prints a table, and JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    measuring.add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=10, help="timed batches")
    parser.add_argument("--heun", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    measuring.report(measure(arguments), arguments.json)


if __name__ == "__main__":
    main()
