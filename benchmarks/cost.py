"""Cost of an update as one program, by XLA's count: FLOPs and bytes, before and after compiling.

    python -m benchmarks.cost --config=configs/sid_cifar.py --dtype=bfloat16 --batch_size=32
    python -m benchmarks.cost --config=configs/sid_cifar.py --dtype=bfloat16 --compiled

From shapes alone: nothing is downloaded, drawn or run. The program as it was traced is counted for
one CPU device, whatever there is, with every round of gradient accumulation, every repetition of a
turn, and attention by XLA; its bytes are as if each operation read and wrote memory. So these
figures tell whether two versions of the code ask for the same work. With `--compiled` there are
those of the program that the devices at hand would run, of one device: FLOPs and bytes, in which a
loop's body counts once, and memory, `temporaries` among it. Prints a JSON object.
"""

import argparse
import dataclasses
import json
import time
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks import measuring
from diffjax.distributed import sharding
from diffjax.runs.experiment import Experiment
from diffjax.tools import aot
from diffjax.training import compilation


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Count what an update costs, and compile it if asked."""
    config = measuring.config_of(arguments)
    rounds = measuring.set_rounds(config, arguments.accumulation)
    config.updates_per_call = 1
    mesh = cpu = sharding.make_mesh(data=1, devices=jax.devices("cpu"))
    compiled = {}
    if arguments.compiled:
        exp, mesh = measuring.build(config, rounds)
        compiled = {"compiled": _compiled(exp, mesh)}
    return {
        **measuring.describe(arguments, config, mesh),
        "accumulation": rounds,
        **_counts(_lower(_as_traced(config, rounds), cpu)),
        **compiled,
    }


def _as_traced(config: ConfigDict, rounds: int) -> Experiment:
    """Build an experiment whose program is the same for all devices, without loops."""
    config = config.copy_and_resolve_references()
    config.mesh.data, config.mesh.fsdp, config.attention = 1, 1, "xla"
    exp, _ = measuring.build(config, rounds)
    return dataclasses.replace(exp, update=dataclasses.replace(exp.update, unroll=True))


def _lower(exp: Experiment, mesh: Mesh) -> Any:
    call = compilation.compile_updates(exp.update, exp.abstract_state(), mesh, 1)
    return call.lower(*aot.abstract_arguments(exp, mesh))


def _counts(program: Any) -> dict[str, float]:
    counts = program.cost_analysis()
    return {"flops": counts["flops"], "bytes_accessed": counts["bytes accessed"]}


def _compiled(exp: Experiment, mesh: Mesh) -> dict[str, Any]:
    """Compile an update for the devices of a mesh, and count what one of them does."""
    start = time.perf_counter()
    compiled = _lower(exp, mesh).compile()
    seconds = time.perf_counter() - start
    memory = dataclasses.asdict(aot.memory_of(compiled))
    return {**_counts(compiled), "memory": memory, "compile_seconds": seconds}


def main() -> None:
    """Print a JSON object, and add it to a file on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measuring.add_arguments(parser)
    parser.add_argument("--accumulation", type=int, help="instead of the config's")
    parser.add_argument("--compiled", action="store_true", help="compile for the devices at hand")
    arguments = parser.parse_args()
    if not arguments.compiled:
        jax.config.update("jax_platforms", "cpu")  # leaves the devices to others
    result = measure(arguments)
    print(json.dumps(result, indent=1))
    measuring.add_line(result, arguments.json)


if __name__ == "__main__":
    main()
