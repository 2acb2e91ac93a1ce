r"""One update on 1, 2, 4, 8 GPUs of a host: speed, memory, what crosses the links, compiling.

    python -m benchmarks.scale --output=runs/scale --gpus=1,2 --minutes=9
    python -m benchmarks.scale --output=runs/scale --gpus=1,2,4,8 --minutes=9 --profile \
        --subjects=sid_cifar:256,sid_imagenet64:128:attention=cudnn

Each subject is a config and the images a GPU takes, with fields that differ. It is run at this
batch a GPU and, on more GPUs, at the same batch in all, data parallel and with the state split
over the GPUs (`mesh.fsdp`); the last subject also at the config's own batch, by accumulation.
Weights are drawn at random, and so are real images, so that nothing is needed.

A case is a process on GPUs of its own (`CUDA_VISIBLE_DEVICES`). The cases of a wave compile at the
same time, into one cache; then they are timed one after the other, while nothing of the wave
compiles and no other benchmark that takes turns (`turns.py`) is on these GPUs. A finished
case is a line of `results.jsonl` and isn't run again; one that failed is a line with its
reason, run again by `--retry`. So the same command goes on where `--minutes` ended.

Efficiency is images/s over those of as many GPUs alone at the same batch a GPU; with `--each` each
GPU runs alone, and their mean counts. Of what crosses the links the sizes of the results on one GPU
are added up, of an update. Tables are printed at the end, of what there is.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import measuring, scale_report, turns
from benchmarks.scale_case import A_GPU, PUBLISHED, TOTAL, Case

SUBJECTS = "sid_cifar:256,sid_imagenet64:128:attention=cudnn"
WORKER = (sys.executable, "-m", "benchmarks.scale_case")
# What decides about a result and isn't in a case's name.
_UNNAMED = ("config", "updates_per_call", "repeats")
_LOOK_SECONDS = 0.2
_TURN_SECONDS = 25  # that a compiled case takes, more or less
_OUT_OF_MEMORY = re.compile(r".*(?:RESOURCE_EXHAUSTED|[Oo]ut of memory).*")

Results = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A config and its batch.

    Attributes:
      config: its name or path.
      batch_size: images a GPU, in one round.
      changes: further fields, as FIELD=VALUE.
    """

    config: str
    batch_size: int
    changes: tuple[str, ...] = ()


def subject(text: str) -> Subject:
    """Read CONFIG:IMAGES[:FIELD=VALUE…].

    Raises:
      argparse.ArgumentTypeError: if it isn't that.
    """
    config, *rest = text.split(":")
    if not rest or not rest[0].isdecimal() or int(rest[0]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: CONFIG:IMAGES is needed, as in sid_cifar:256")
    if wrong := [each for each in rest[1:] if "=" not in each]:
        raise argparse.ArgumentTypeError(f"{text!r}: {wrong[0]!r} isn't FIELD=VALUE")
    return Subject(config, int(rest[0]), tuple(rest[1:]))


def plan(
    subjects: list[Subject],
    counts: list[int],
    *,
    dtype: str,
    each: bool = False,
    updates_per_call: int = 4,
    repeats: int = 5,
    profile: bool = False,
) -> list[Case]:
    """List the cases, the most telling first.

    Args:
      subjects: what is run.
      counts: numbers of GPUs.
      dtype: of the computation.
      each: whether each GPU runs alone, not the first only.
      updates_per_call: updates in one timed call.
      repeats: timed calls.
      profile: whether those of the same batch a GPU are profiled, on one GPU and on the most.
    """
    several = [count for count in counts if count > 1]
    most = max(counts)

    def case(of: Subject, gpus: int, same: str = A_GPU, **options: Any) -> Case:
        rounds = _rounds(of)
        settings: dict[str, Any] = {
            "batch_size": of.batch_size * (1 if same == TOTAL else gpus),
            "accumulation": None if rounds is None else 1,
            "updates_per_call": updates_per_call,
            "repeats": repeats,
            "profiled": profile and same == A_GPU and gpus in (1, most),
        }
        settings |= options
        return Case(of.config, dtype, gpus=gpus, same=same, changes=of.changes, **settings)

    found = [case(of, gpus) for of in subjects for gpus in counts]
    found += [case(of, gpus, fsdp=True) for of in reversed(subjects) for gpus in several]
    of = subjects[-1]
    whole = int(measuring.load_config(of.config).batch_size)
    rounds, odd = divmod(whole, most * of.batch_size)
    if _rounds(of) is not None and rounds > 1 and not odd:
        options = {"updates_per_call": 1, "repeats": 2, "accumulation": rounds}
        found.append(case(of, most, PUBLISHED, **options, batch_size=whole))
    if each:
        found += [case(of, 1, first=first) for of in subjects for first in range(1, most)]
    for fsdp in (False, True):
        found += [
            case(of, gpus, TOTAL, fsdp=fsdp)
            for of in subjects
            for gpus in several
            if of.batch_size % gpus == 0
        ]
    return found


def _rounds(of: Subject) -> int | None:
    """Rounds of accumulation of a config; None where its updates have none."""
    config = measuring.load_config(of.config)
    return int(config.accumulation) if "accumulation" in config else None


def read(output: Path) -> Results:
    """Read the results in a folder; of a case that was run again the last."""
    found = measuring.read_lines(output / "results.jsonl")
    return list({each["name"]: each for each in found}.values())


class Process:
    """A case's process, which compiles, then waits for its turn."""

    def __init__(self, case: Case, output: Path, environment: dict[str, str]) -> None:
        """Start it.

        Args:
          case: to measure.
          output: the folder of results.
          environment: of the process.
        """
        self.case, self.folder = case, output / "cases" / case.name
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("compiled", "result.json"):
            (self.folder / name).unlink(missing_ok=True)
        told = json.dumps(dataclasses.asdict(case))
        (self.folder / "case.json").write_text(told, encoding="utf-8")
        with (self.folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                [*WORKER, f"--folder={self.folder}"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def is_compiling(self) -> bool:
        """Tell whether it neither waits for its turn nor has ended."""
        return self._process.poll() is None and not (self.folder / "compiled").exists()

    def time(self, seconds: float) -> dict[str, Any] | None:
        """Let it run, and wait for its end.

        Args:
          seconds: to wait.

        Returns:
          Its result, or the reason for having none as `failed`; None if it has not ended.
        """
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.write(b"go\n")
            self._process.stdin.close()
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        result = self.folder / "result.json"
        if code == 0 and result.exists():
            found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
            return found
        return {"failed": reason((self.folder / "log.txt").read_text(errors="replace"), code)}

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()


def reason(log: str, code: int) -> str:
    """Tell in one line why a process failed.

    Args:
      log: what it wrote.
      code: its exit code.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if _OUT_OF_MEMORY.match(line)] or lines
    return telling[-1][:300] if telling else f"exit code {code}"


def execute(
    cases: Iterable[Case],
    output: Path,
    *,
    cache: Path,
    wave: int = 6,
    minutes: float = math.inf,
    case_seconds: float = 240,
    retry: bool = False,
) -> None:
    """Run what has no result, until time is up.

    Args:
      cases: the first ones first.
      output: the folder of results.
      cache: folder of compiled programs.
      wave: cases that compile at the same time.
      minutes: to stop after.
      case_seconds: the longest that a case may take once compiled.
      retry: whether those that failed are run again.
    """
    deadline = time.monotonic() + 60 * minutes
    known = {each["name"]: each for each in read(output)}

    def is_done(case: Case) -> bool:
        result = known.get(case.name, {"failed": ""})
        told = json.loads(json.dumps(dataclasses.asdict(case)))  # tuples as lists, as read
        if case.name in known and any(result.get(name) != told[name] for name in _UNNAMED):
            return False  # it is of another config of the same name, or timed in another way
        if "failed" in result:
            return case.name in known and not retry
        return "profile" in result or not case.profiled

    todo = list({case.name: case for case in cases if not is_done(case)}.values())
    for start in range(0, len(todo), wave):
        with _started(todo[start : start + wave], output, cache) as processes:
            for process in _compiled(processes, deadline):
                left = deadline - time.monotonic()
                result = process.time(max(0, min(case_seconds, left)))
                if result is None and case_seconds >= left:
                    break
                if result is None:
                    process.stop()
                    result = {"failed": f"it didn't end within {case_seconds:g} s of its turn"}
                case = process.case
                told = {"name": case.name, **dataclasses.asdict(case), **result}
                measuring.add_line(told, str(output / "results.jsonl"))
                print(f"{case.name}: {result.get('failed', 'done')}", flush=True)
        if time.monotonic() + _TURN_SECONDS >= deadline:
            print("time is up; the same command goes on", flush=True)
            return


def _compiled(processes: list[Process], deadline: float) -> list[Process]:
    """Wait until all have compiled; where time gets short, end the others for those that have."""
    while compiling := [process for process in processes if process.is_compiling()]:
        ready = len(processes) - len(compiling)
        if time.monotonic() + ready * _TURN_SECONDS >= deadline:
            for process in compiling:
                print(f"{process.case.name}: no time left to compile it", flush=True)
                process.stop()
            return [process for process in processes if process not in compiling]
        time.sleep(_LOOK_SECONDS)
    return processes


@contextlib.contextmanager
def _started(cases: list[Case], output: Path, cache: Path) -> Iterator[list[Process]]:
    """Start processes, and see that none is left."""
    processes: list[Process] = []
    try:
        for case in cases:
            print(f"{case.name}: compiling", flush=True)
            processes.append(Process(case, output, environment_of(case, cache)))
        yield processes
    finally:
        for process in processes:
            process.stop()


def environment_of(case: Case, cache: Path) -> dict[str, str]:
    """Make the environment of a case's process: its GPUs, and how it compiles.

    Args:
      case: to measure.
      cache: folder of compiled programs.

    Raises:
      ValueError: if not so many GPUs are visible.
    """
    gpus = turns.named(map(str, range(case.first, case.first + case.gpus)))
    defaults = {
        # Those of a wave that wait for their turn have no memory.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_gpu_autotune_level" not in flags:  # as launch/gpu_host.sh has it
        flags = f"{flags} --xla_gpu_autotune_level=2".strip()
    return defaults | os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "XLA_FLAGS": flags}


def _counts(text: str) -> list[int]:
    if not all(each.isdecimal() and int(each) for each in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: numbers of GPUs are needed, as in 1,2,4,8")
    return sorted({int(each) for each in text.split(",")})


def main() -> None:
    """Run what isn't done, and print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder of results")
    add(
        "--subjects",
        type=lambda text: [subject(each) for each in text.split(",")],
        default=SUBJECTS,
        help=f"CONFIG:IMAGES[:FIELD=VALUE…], by commas; {SUBJECTS} by default",
    )
    add("--gpus", type=_counts, required=True, help="numbers of GPUs, such as 1,2,4,8")
    add("--dtype", default="bfloat16")
    add("--each", action="store_true", help="each GPU alone too, since GPUs differ")
    add("--profile", action="store_true", help="profile on one GPU and on the most, too")
    add("--only", default="", help="only cases whose names have one of these, by commas")
    add("--updates_per_call", type=int, default=4)
    add("--repeats", type=int, default=5, help="timed calls; the median counts")
    add("--wave", type=int, default=6, help="cases that compile at the same time")
    add("--minutes", type=float, default=math.inf, help="to stop after")
    add("--case_seconds", type=float, default=240, help="the longest a case may take, compiled")
    add("--retry", action="store_true", help="run again what failed")
    add("--cache", type=Path, help="folder of compiled programs; OUTPUT/cache by default")
    add("--report", action="store_true", help="print the tables of what there is, run nothing")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    if not arguments.report:
        names = ("dtype", "each", "updates_per_call", "repeats", "profile")
        options = {name: getattr(arguments, name) for name in names}
        cases = plan(arguments.subjects, arguments.gpus, **options)
        wanted = arguments.only.split(",")
        cases = [case for case in cases if any(each in case.name for each in wanted)]
        if not cases:
            parser.error(f"--only={arguments.only}: no case has such a name")
        try:
            turns.named(map(str, range(max(case.first + case.gpus for case in cases))))
        except ValueError as error:
            parser.error(f"--gpus: {error}")
        output.mkdir(parents=True, exist_ok=True)
        execute(
            cases,
            output,
            cache=(arguments.cache or output / "cache").resolve(),
            wave=arguments.wave,
            minutes=arguments.minutes,
            case_seconds=arguments.case_seconds,
            retry=arguments.retry,
        )
    results = read(output)
    if not results:
        parser.error(f"--output={output} has no results")
    print(scale_report.report(results))


if __name__ == "__main__":
    main()
