"""What EDM2's forced weight normalisation costs: its parts by themselves, of a config's network.

    python -m benchmarks.edm2_weights --config=configs/sid_imagenet512_edm2_s.py

Overwriting the weights, once a learner's turn; the normalised weights that a pass computes with, in
bfloat16 as layers take them; and these with the way back to the parameters. Inside an update XLA
may fuse some of it with what follows, so that these are bounds. Beside them the time that the bytes
of a copy of the parameters take, read and written, on the same device.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import measuring


def milliseconds(function: Callable[..., Any], *arguments: Any, repeats: int = 20) -> float:
    """Time a compiled function: the median of a call."""
    call = jax.jit(function).lower(*arguments).compile()
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times[1:])[repeats // 2]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the parts.

    Raises:
      SystemExit: if the config's network has no such weights.
    """
    config = measuring.config_of(arguments)
    exp, mesh = measuring.build(config)
    denoiser = exp.denoiser
    if not denoiser.overwrites_weights:
        raise SystemExit(f"error: --config={arguments.config}: its network overwrites no weights")
    params = measuring.random_params(denoiser, mesh)
    dtype = jnp.dtype(config.dtype)

    def weights(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(dtype), denoiser.prepared(params)["params"])

    def back(params: Any) -> Any:
        found, pullback = jax.vjp(weights, params)
        return pullback(found)

    size = sum(leaf.size for leaf in jax.tree.leaves(params["params"]))
    return measuring.describe(arguments, config, mesh) | {
        "million_parameters": size / 1e6,
        "overwriting_ms": milliseconds(denoiser.normalized, params),
        "weights_ms": milliseconds(weights, params),
        "weights_and_way_back_ms": milliseconds(back, params),
        "copy_ms": milliseconds(lambda params: jax.tree.map(lambda leaf: leaf + 1, params), params),
    }


def main() -> None:
    """Print a table, and JSON on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measuring.add_arguments(parser)
    arguments = parser.parse_args()
    measuring.report(measure(arguments), arguments.json)


if __name__ == "__main__":
    main()
