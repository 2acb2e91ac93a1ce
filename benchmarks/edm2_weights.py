"""What EDM2's forced weight normalisation costs: its parts by themselves, of a config's network.

    python -m benchmarks.edm2_weights --config=configs/sid_imagenet512_edm2_s.py

Overwriting the weights, once a learner's turn; and the normalised weights that a pass computes
with, in the type that layers take them in, together with the way back to the parameters. Inside an
update XLA may fuse some of it with what follows, so that these are bounds. Beside them what it
takes to add 1 to all parameters: each is read and written once.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import measuring, turns


def milliseconds(function: Callable[[Any], Any], tree: Any, repeats: int = 20) -> float:
    """Time a function from a tree to one alike, again and again on the device: one call of it.

    Args:
      function: each of whose calls takes what the one before gave.
      tree: the first.
      repeats: calls in one program, which is timed five times; the least counts.
    """
    program = jax.jit(
        lambda tree: jax.lax.fori_loop(0, repeats, lambda _, each: function(each), tree)
    )
    call = program.lower(tree).compile()
    times = []
    with turns.turn():
        for _ in range(6):
            start = time.perf_counter()
            jax.block_until_ready(call(tree))
            times.append(1000 * (time.perf_counter() - start) / repeats)
    return min(times[1:])


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
        learnt = {"params": params["params"]}
        found, pullback = jax.vjp(lambda learnt: weights({**params, **learnt}), learnt)
        return {**params, **pullback(found)[0]}

    def added(params: Any) -> Any:
        return {**params, "params": jax.tree.map(lambda leaf: leaf + 1, params["params"])}

    size = sum(leaf.size for leaf in jax.tree.leaves(params["params"]))
    return measuring.describe(arguments, config, mesh) | {
        "million_parameters": size / 1e6,
        "overwriting_ms": milliseconds(denoiser.normalized, params),
        "weights_and_way_back_ms": milliseconds(back, params),
        "adding_ms": milliseconds(added, params),
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
