"""How fast an update is: images/s, model FLOP/s against the device's own peak, memory, compiling.

    python benchmarks/step.py --config=configs/sid_cifar.py --dtype=bfloat16 --batch_size=256

The real update of the config, on weights drawn at random, so that nothing is downloaded. Model
FLOPs are those of the networks' passes that the method needs, whatever the compiler adds or saves:
11 forward passes an image for SiD, 9 for Diff-Instruct, whose scores are constants.
"""

import argparse
import json
import math
import runpy
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from diffjax import experiment, sharding
from diffjax.compilation import compile_updates
from diffjax.denoiser import NetworkDenoiser

FORWARDS = {"sid": 11, "diff_instruct": 9}


def matrix_peak(dtype: Any, size: int = 8192) -> float:
    """FLOP/s of a large matrix product on random data, the best of five."""
    if jax.default_backend() == "cpu":
        size = 1024
    a, b = (jax.random.normal(jax.random.key(i), (size, size), dtype) for i in (0, 1))
    product = jax.jit(lambda a, b: a @ b)
    product(a, b).block_until_ready()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(10):
            c = product(a, b)
        c.block_until_ready()
        best = min(best, (time.perf_counter() - start) / 10)
    return 2 * size**3 / best


def forward_flops(denoiser: NetworkDenoiser) -> float:
    """FLOPs of the convolutions and matrix products of one forward pass on one image."""
    x = jax.ShapeDtypeStruct((1, *denoiser.image_shape), jnp.float32)
    sigma = jax.ShapeDtypeStruct((1,), jnp.float32)
    return _matrix_flops(jax.make_jaxpr(denoiser)(denoiser.abstract_params(), x, sigma).jaxpr)


def _matrix_flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        output = math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = equation.params["dimension_numbers"].rhs_spec[0]
            total += 2 * output * math.prod(kernel) / kernel[features]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * output * math.prod(shape[axis] for axis in contracted)
        total += sum(map(_matrix_flops, jaxprs_in_params(equation.params)))
    return total


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compiles the update and times it."""
    config = runpy.run_path(arguments.config)["get_config"]()
    config.dtype = arguments.dtype or config.dtype
    config.batch_size = arguments.batch_size or config.batch_size
    config.accumulation = arguments.accumulation or config.accumulation
    config.updates_per_call = arguments.updates_per_call
    if arguments.devices:
        config.mesh.data = arguments.devices
    mesh = sharding.make_mesh(**config.mesh)
    sharding.check_batch(config.batch_size, config.accumulation, mesh)
    exp = experiment.build(config)
    abstract = exp.denoiser.abstract_params()
    teacher = jax.jit(exp.denoiser.init, out_shardings=sharding.state(abstract, mesh))(
        jax.random.key(0)
    )
    shardings = sharding.state(exp.abstract_state(), mesh)
    state = jax.jit(exp.init_state, out_shardings=shardings)(teacher)
    key, count = jax.random.key(1), config.updates_per_call

    start = time.perf_counter()
    lowered = compile_updates(exp, mesh, count).lower(state, teacher, key, count)
    traced = time.perf_counter() - start
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - start

    state, metrics = compiled(state, teacher, key, count)
    jax.block_until_ready(metrics)
    seconds = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        state, metrics = compiled(state, teacher, key, count)
        jax.block_until_ready(metrics)
        seconds.append((time.perf_counter() - start) / count)
    if arguments.profile:
        with jax.profiler.trace(arguments.profile):
            jax.block_until_ready(compiled(state, teacher, key, count)[1])

    update = float(np.median(seconds))
    peak = matrix_peak(experiment.DTYPES[config.dtype]) * mesh.size
    flops = forward_flops(exp.denoiser) * FORWARDS[config.method] * config.batch_size
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "config": Path(arguments.config).stem,
        "device": f"{mesh.size} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "dtype": config.dtype,
        "batch_size": config.batch_size,
        "accumulation": config.accumulation,
        "images_per_second": config.batch_size / update,
        "seconds_per_update": update,
        "slowest_over_median": max(seconds) / update,
        "model_tflops_per_second": flops / update / 1e12,
        "matrix_peak_tflops_per_second": peak / 1e12,
        "share_of_peak": flops / update / peak,
        "peak_memory_gib": stats.get("peak_bytes_in_use", 0) / 2**30,
        "trace_seconds": traced,
        "compile_seconds": compile_seconds,
        "metrics": {name: float(value) for name, value in metrics.items()},
    }


def main() -> None:
    """Prints a table, and JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="a distillation config")
    parser.add_argument("--dtype", help="instead of the config's")
    parser.add_argument("--batch_size", type=int, help="instead of the config's")
    parser.add_argument("--accumulation", type=int, help="instead of the config's")
    parser.add_argument("--devices", type=int, help="devices to use; all by default")
    parser.add_argument("--updates_per_call", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls; the median counts")
    parser.add_argument("--profile", help="folder for a jax.profiler trace of one call")
    parser.add_argument("--json", help="file to add one JSON line to")
    arguments = parser.parse_args()
    result = measure(arguments)
    for name, value in result.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{name:32s} {shown}", flush=True)
    if arguments.json:
        with Path(arguments.json).open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
