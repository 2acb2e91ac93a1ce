"""One case of `benchmarks.scale`: an update on some of a host's GPUs, in a process of its own.

    python -m benchmarks.scale_case --folder=runs/scale/cases/NAME

reads `case.json` there, compiles, writes the file `compiled`, waits for a line from its standard
input, so that nobody compiles while somebody is timed, and then writes `result.json`.
`benchmarks.scale` writes the case and starts this.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import jax

from benchmarks import measuring, profile, step, turns
from diffjax.tools import aot, hlo

# What a batch is that doesn't change from row to row.
A_GPU, TOTAL, PUBLISHED = "a GPU", "in all", "published"


@dataclasses.dataclass(frozen=True)
class Case:
    """An update to measure.

    Attributes:
      config: its name or path.
      dtype: of the computation.
      batch_size: images an update, over all GPUs.
      accumulation: rounds of them; None where updates have no rounds.
      gpus: number of GPUs.
      first: the first of them.
      fsdp: whether the state is split over them; else each has all of it.
      same: what batch it shares with its neighbours: `A_GPU`, `TOTAL`, or `PUBLISHED`, the
        config's own by accumulation.
      changes: further fields, as FIELD=VALUE.
      updates_per_call: updates in one timed call.
      repeats: timed calls.
      profiled: whether one more call is profiled.
    """

    config: str
    dtype: str
    batch_size: int
    accumulation: int | None
    gpus: int
    first: int = 0
    fsdp: bool = False
    same: str = A_GPU
    changes: tuple[str, ...] = ()
    updates_per_call: int = 4
    repeats: int = 5
    profiled: bool = False

    @property
    def name(self) -> str:
        """Name for files."""
        state = "fsdp" if self.fsdp else "data"
        rounds = f"_in_{self.accumulation}" if (self.accumulation or 1) > 1 else ""
        where = f"{self.gpus}_from_{self.first}" if self.first else str(self.gpus)
        parts = [Path(self.config).stem, *self.changes, self.dtype, str(self.batch_size)]
        return re.sub(r"[^\w.=-]+", "-", "_".join(parts)) + f"{rounds}_{state}_{where}"


def measure(case: Case, folder: Path, wait: Any = lambda: None) -> dict[str, Any]:
    """Compile a case's update and time it.

    Args:
      case: to measure.
      folder: of its files.
      wait: called between compiling and the first use of the GPUs.

    Returns:
      Numbers and words; of what is not known, None.
    """
    changes = [*case.changes, f"mesh.fsdp={case.gpus if case.fsdp else 1}"]
    arguments = argparse.Namespace(
        config=case.config,
        dtype=case.dtype,
        batch_size=case.batch_size,
        set=changes,
        devices=1 if case.fsdp else case.gpus,
    )
    config = measuring.config_of(arguments)
    measuring.set_rounds(config, case.accumulation)
    config.updates_per_call = case.updates_per_call
    exp, mesh = measuring.build(config, case.accumulation or 1)
    compiled = step.compile_update(config, exp, mesh)
    wait()
    with turns.turn():
        running = step.Running(exp, mesh, compiled, case.updates_per_call)
        seconds = running.seconds(case.repeats)
        memory = peaks(list(mesh.devices.flat))  # before the matrices that are timed take theirs
        result = {
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            **step.timed(config, exp, mesh, compiled, seconds),
            "skipped": running.skipped,
            "memory_gib": memory,
            "planned_gib": None,
            "collectives": None,
        }
        if not compiled.apart:
            result["planned_gib"] = aot.memory_of(compiled.call).total / 2**30
            counted = hlo.collectives(compiled.call.as_text())
            result["collectives"] = {
                kind: dataclasses.asdict(each) for kind, each in counted.items()
            }
        if case.profiled:
            program = None if compiled.apart else compiled.call
            measuring.write_profile(folder / "trace", running, program)
            result["profile"] = summary(folder / "trace", case.updates_per_call)
    return result


def peaks(devices: list[jax.Device]) -> list[float] | None:
    """Most memory that was ever used on each device, GiB; None if nobody counts."""
    stats = [device.memory_stats() for device in devices]
    return [each["peak_bytes_in_use"] / 2**30 for each in stats] if all(stats) else None


def summary(folder: Path, updates: int) -> dict[str, Any] | None:
    """Summarise a trace: seconds of an update on the first GPU.

    Args:
      folder: of the trace.
      updates: in it.

    Returns:
      `kinds`, seconds by kind of kernel; `collectives_alone`, those in which collectives ran and
      nothing else; `idle`, those in which nothing ran; `span`, from the first kernel to the last's
      end. None without a GPU's kernels.
    """
    kernels = profile.kernels(folder)
    if not kernels:
        return None
    kinds = profile.by_kind(profile.kernel_seconds(folder))
    collectives = [k.interval for k in kernels if profile.kind_of(k.name) == profile.COLLECTIVES]
    others = [k.interval for k in kernels if profile.kind_of(k.name) != profile.COLLECTIVES]
    busy = profile.covered([*collectives, *others])
    span = max(k.end for k in kernels) - min(k.start for k in kernels)
    return {
        "kinds": {kind: seconds / updates for kind, seconds in kinds.most_common()},
        "collectives_alone": (busy - profile.covered(others)) / updates,
        "idle": (span - busy) / updates,
        "span": span / updates,
    }


def main() -> None:
    """Measure the case of a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    folder: Path = parser.parse_args().folder
    told = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    case = Case(**told | {"changes": tuple(told["changes"])})

    def wait() -> None:
        (folder / "compiled").touch()
        if not sys.stdin.readline():
            os._exit(3)  # whoever would read the result is gone

    result = measure(case, folder, wait)
    unfinished = folder / "result.json.unfinished"
    unfinished.write_text(json.dumps(result), encoding="utf-8")
    unfinished.replace(folder / "result.json")


if __name__ == "__main__":
    main()
