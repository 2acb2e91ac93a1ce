"""Compile the update of a config for a TPU slice, on a machine that has none.

    python -m diffjax.tools.aot --config=configs/sid_cifar.py --topology=v5e:2x2

XLA's own compiler does it, which comes with libtpu (`pip install 'diffjax[tpu]'`), from shapes
alone: nothing is downloaded and no device is touched. So one knows beforehand whether a batch fits
the chips, what an update costs, and what crosses from chip to chip. All figures are the compiler's,
of one device and one update; nothing is measured.

Full-size networks take the compiler very long, most of it for the program itself. With
`--layout_only` it is stopped before that: memory and collectives are those of the whole compiling,
but for the program's own memory; FLOPs are counted before XLA's optimisations.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax.distributed import numerics, sharding
from diffjax.files import writing
from diffjax.files.progress import leave_interrupted
from diffjax.runs import building, config_file, roles
from diffjax.runs.experiment import Experiment
from diffjax.tools import hlo, layout, slices
from diffjax.training import compilation


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device's memory while an update runs.

    Attributes:
      arguments: the state, the teacher and the key.
      outputs: the next state and the metrics.
      aliased: outputs that take the place of arguments.
      temporaries: everything in between.
      code: the program, or None where it wasn't written.
      total: of these, aliased ones counted once.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int | None
    total: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of one update on one device.

    Attributes:
      memory: see `Memory`.
      flops: floating-point operations; a loop's body counts once, so with gradient accumulation
        these are fewer than there are.
      bytes_accessed: to and from memory, counted likewise, or None where the program wasn't
        written.
      optimal_seconds: XLA's estimate if nothing waits, counted likewise, or None without one.
      collectives: kind -> how many and how large.
    """

    memory: Memory
    flops: float
    bytes_accessed: float | None
    optimal_seconds: float | None
    collectives: dict[str, hlo.Traffic]


@dataclasses.dataclass(frozen=True)
class Report:
    """Report on an update that was compiled for a slice.

    Attributes:
      topology: the slice's name.
      device_kind: of its devices, by JAX's name.
      devices: number of devices that JAX sees; on v4 each is half a chip.
      mesh: axis -> size.
      batch_size: images an update.
      accumulation: rounds of gradient accumulation.
      updates_per_call: 1, or more if the compiled call is a loop over updates.
      dtype: of the networks' computation.
      parameters: of one network.
      hbm: bytes of memory that a program can have on a device.
      fits: whether the update fits `hbm`, its program left aside where it wasn't written.
      refusal: the compiler's words if it doesn't fit, else None.
      cost: None if the compiler refused.
      compile_seconds: duration of compiling, tracing included.
      versions: package -> version, of those that decide the figures.
    """

    topology: str
    device_kind: str
    devices: int
    mesh: dict[str, int]
    batch_size: int
    accumulation: int
    updates_per_call: int
    dtype: str
    parameters: int
    hbm: int
    fits: bool
    refusal: str | None
    cost: Cost | None
    compile_seconds: float
    versions: dict[str, str]


def compile_for(
    name: str,
    config: ConfigDict,
    *,
    layout_only: bool = False,
    verbose: bool = False,
) -> Report:
    """Compile the update of a distillation for a TPU slice.

    Args:
      name: of the slice; see `slices.describe_slice`.
      config: one of `configs/`; its mesh is laid over the slice.
      layout_only: whether to stop the compiler before it writes the program.
      verbose: whether to print lines of progress.

    Raises:
      ModuleNotFoundError: without libtpu.
      ValueError: if there is no such slice, or the config can't be run on it.
    """
    devices, hbm = slices.describe_slice(name)
    exp, mesh = _prepare(devices, config)
    if "teacher" not in exp.method.reads:
        raise ValueError(f"config.method={config.method!r}: only distillations are compiled here.")
    if config.compile_apart == "always":
        raise ValueError(
            "config.compile_apart='always': one program is compiled here; set it to 'auto'."
        )
    started = time.monotonic()
    compile_ = _lay_out if layout_only else _compile
    cost, refusal = compile_(name, config, verbose)
    return Report(
        topology=name,
        device_kind=devices[0].device_kind,
        devices=mesh.size,
        mesh=dict(mesh.shape),
        batch_size=config.batch_size,
        accumulation=config.accumulation,
        updates_per_call=config.updates_per_call,
        dtype=config.dtype,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(exp.denoiser.abstract_params())),
        hbm=hbm,
        fits=cost is not None and cost.memory.total <= hbm,
        refusal=refusal,
        cost=cost,
        compile_seconds=time.monotonic() - started,
        versions={package: importlib.metadata.version(package) for package in ("jax", "libtpu")},
    )


def abstract_arguments(exp: Experiment, mesh: Mesh) -> tuple[Any, ...]:
    """Arguments of `compilation.compile_updates`, as shapes that say where each array lies.

    Returns:
      (state, inputs by name, key, count).
    """
    key = jax.eval_shape(lambda: numerics.key(0))
    everywhere = sharding.replicated(mesh)
    return (
        *compilation.abstract_arguments(exp.abstract_state(), exp.abstract_inputs(), mesh),
        jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere),
        jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere, weak_type=True),
    )


def memory_of(compiled: Any) -> Memory:
    """Memory of a compiled program, as its compiler counts it."""
    sizes = compiled.memory_analysis()
    arguments, outputs = sizes.argument_size_in_bytes, sizes.output_size_in_bytes
    aliased, temporaries = sizes.alias_size_in_bytes, sizes.temp_size_in_bytes
    code = sizes.generated_code_size_in_bytes
    return Memory(
        arguments=arguments,
        outputs=outputs,
        aliased=aliased,
        temporaries=temporaries,
        code=code,
        total=arguments + outputs - aliased + temporaries + code,
    )


def summary(report: Report) -> str:
    """Text of a report, of several lines."""
    gib = f"{report.hbm / 2**30:.4g} GiB a device"
    lines = [
        f"{report.topology}: {report.devices} x {report.device_kind}, mesh {report.mesh}; "
        f"batch {report.batch_size} in {report.accumulation} round(s), {report.dtype}, "
        f"{report.parameters / 1e6:.2f}M parameters a network",
        f"took {report.compile_seconds:.0f} s",
    ]
    cost = report.cost
    if cost is None:
        return "\n".join([*lines, f"does not fit {gib}: {report.refusal}"])
    parts = {k: v for k, v in dataclasses.asdict(cost.memory).items() if k != "total"}
    shown = [f"{part} {'unknown' if v is None else _size(v)}" for part, v in parts.items()]
    lines += [
        f"memory: {_size(cost.memory.total)} of {gib}, which {'fits' if report.fits else 'is over'}"
        f" ({', '.join(shown)})",
        f"an update, on each device: {cost.flops / 1e12:.4g} TFLOP"
        + (
            f", {cost.bytes_accessed / 1e9:.4g} GB to and from memory"
            if cost.bytes_accessed
            else ""
        )
        + (f", {cost.optimal_seconds:.4g} s at best" if cost.optimal_seconds else ""),
    ]
    if report.accumulation > 1:
        lines.append("  (XLA counts a loop's body once: with accumulation it is more than that)")
    for kind, traffic in cost.collectives.items():
        lines.append(f"  {traffic.count} x {kind}: {_size(traffic.bytes)}")
    if not cost.collectives:
        lines.append("  nothing crosses chips")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code is 0 if the update fits, 1 if it doesn't or on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m diffjax.tools.aot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="a config file of a distillation")
    parser.add_argument(
        "--topology", required=True, help=f"such as {', '.join(slices.SLICES[:10:3])}"
    )
    parser.add_argument("--batch_size", type=int, help="instead of the config's")
    parser.add_argument("--accumulation", type=int, help="instead of the config's")
    parser.add_argument("--fsdp", type=int, help="devices to shard parameters over")
    parser.add_argument("--dtype", choices=list(roles.DTYPES), help="instead of the config's")
    parser.add_argument(
        "--updates_per_call",
        type=int,
        default=1,
        help="of the compiled call, whatever the config says; the figures are of one update",
    )
    parser.add_argument(
        "--layout_only",
        action="store_true",
        help="stop before the program is written: memory and collectives in a part of the time",
    )
    parser.add_argument("--json", help="file to write the report to")
    arguments = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # leaves a TPU or GPU that is there alone
    try:
        if arguments.json and not Path(arguments.json).resolve().parent.is_dir():
            raise FileNotFoundError(f"--json={arguments.json}: its folder isn't there.")
        if arguments.json and Path(arguments.json).exists():
            raise FileExistsError(
                f"--json={arguments.json} is there already; delete it or name another."
            )
        config = _load_config(arguments.config)
        for field in ("batch_size", "accumulation", "dtype", "updates_per_call"):
            if getattr(arguments, field) is not None:
                config[field] = getattr(arguments, field)
        if arguments.fsdp is not None:
            config.mesh.fsdp = arguments.fsdp
        if arguments.json:
            writing.check_writable(Path(arguments.json))
        report = compile_for(
            arguments.topology, config, layout_only=arguments.layout_only, verbose=True
        )
        print(summary(report))
        if arguments.json:
            text = json.dumps(dataclasses.asdict(report), indent=1) + "\n"
            writing.write_text(Path(arguments.json), text)
    except (ModuleNotFoundError, OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        leave_interrupted()
    return 0 if report.fits else 1


def _prepare(devices: list[jax.Device], config: ConfigDict) -> tuple[Experiment, Mesh]:
    exp = building.build(config)
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    sharding.check_batch(config.batch_size, config.get("accumulation", 1), mesh)
    # The one choice that is made by the machine at hand, for CPUs' sake.
    return dataclasses.replace(exp, update=dataclasses.replace(exp.update, unroll=False)), mesh


def _lower(exp: Experiment, mesh: Mesh, updates_per_call: int) -> Any:
    call = compilation.compile_updates(exp.update, exp.abstract_state(), mesh, updates_per_call)
    return call.lower(*abstract_arguments(exp, mesh))


@numerics.own()
def _compile(name: str, config: ConfigDict, verbose: bool) -> tuple[Cost | None, str | None]:
    """Cost of an update, or else why the compiler refused for want of memory."""
    started = time.monotonic()
    lowered = _lower(*_prepare(slices.describe_slice(name)[0], config), config.updates_per_call)
    if verbose:
        print(f"traced in {time.monotonic() - started:.0f} s; compiling", flush=True)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, str(error).strip().splitlines()[0]
    counts = compiled.cost_analysis()
    cost = Cost(
        memory=memory_of(compiled),
        flops=counts["flops"],
        bytes_accessed=counts["bytes accessed"],
        optimal_seconds=counts.get("optimal_seconds"),
        collectives=hlo.collectives(compiled.as_text()),
    )
    return cost, None


@numerics.own()
def _lay_out(name: str, config: ConfigDict, verbose: bool) -> tuple[Cost | None, str | None]:
    """Cost of an update by its memory layout, without the program."""
    found = layout.stopped_early(_compile, name, config, verbose, module="jit_call")
    if not isinstance(found, layout.Layout):
        cost, refusal = found
        return cost, refusal
    if verbose:
        print("memory laid out; counting FLOPs", flush=True)
    memory = Memory(
        arguments=found.arguments,
        outputs=found.outputs,
        aliased=found.aliased,
        temporaries=found.temporaries,
        code=None,
        total=found.arguments + found.outputs - found.aliased + found.temporaries,
    )
    # Without compiling XLA counts for CPUs alone: all of the batch, of which a device has a part.
    cpu = sharding.make_mesh(data=1, devices=jax.devices("cpu"))
    exp, mesh = _prepare(slices.describe_slice(name)[0], config)
    counts = _lower(exp, cpu, config.updates_per_call).cost_analysis()
    cost = Cost(
        memory=memory,
        flops=counts["flops"] / mesh.size,
        bytes_accessed=None,
        optimal_seconds=None,
        collectives=hlo.collectives(found.hlo),
    )
    return cost, None


def _load_config(path: str) -> ConfigDict:
    try:
        config_file.find(path)
    except config_file.ConfigFileError as error:
        raise FileNotFoundError(f"--config={path}: no such file; {error}") from error
    try:
        return config_file.load(path)
    except config_file.ConfigFileError as error:
        raise ValueError(f"--config={path}: {error}") from error


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
