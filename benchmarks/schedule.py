"""Steps of a study, as commands: which run when, on which of a host's GPUs."""

import contextlib
import dataclasses
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import turns


@dataclasses.dataclass(frozen=True)
class Step:
    """Command of the study.

    Attributes:
      name: of its folder.
      arguments: of Python.
      result: the file or folder, below the study's own, that is there when it has ended.
      after: names of the steps whose results it takes.
      gpus: how many it uses.
      weight: share of a GPU that it needs, for steps that run on one together.
    """

    name: str
    arguments: tuple[str, ...]
    result: str
    after: tuple[str, ...] = ()
    gpus: int = 1
    weight: float = 1.0


More = Callable[[], tuple[dict[Step, Path], bool]]


class Schedule:
    """Runner of steps as GPUs and forerunners allow, until all have ended or time is up.

    Attributes:
      failed: names of the steps that ended without their result.
    """

    def __init__(
        self,
        todo: list[Step],
        results: dict[str, Path],
        gpus: list[str],
        more: More | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
          todo: the steps to run.
          results: name of a step, of these and of all that they come after -> what it makes.
          gpus: numbers of the GPUs, among those of `CUDA_VISIBLE_DEVICES` if it is set.
          more: asked again and again for steps that have come up, with what they make, and whether
            they are the last.

        Raises:
          SystemExit: if there is no GPU of a number.
        """
        try:
            gpus = turns.named(gpus)
        except ValueError as error:
            raise SystemExit(f"error: --gpus={','.join(gpus)}: {error}") from None
        self.failed: list[str] = []
        self._results = dict(results)
        self._more = more
        self._waiting = [step for step in todo if not results[step.name].exists()]
        self._free = dict.fromkeys(gpus, 1.0)
        self._running: dict[Step, tuple[subprocess.Popen[bytes], list[str]]] = {}

    def run(self, logs: Path, seconds: float = math.inf) -> None:
        """Start what can be started, until nothing is left; at the end of time stop all.

        A stopped run saves and ends by itself, as under any scheduler. SIGTERM and Ctrl-C end this
        program, and stop its steps first.

        Args:
          logs: folder of each step's folder with its `log.txt`.
          seconds: from now to the end of time.
        """
        deadline = time.monotonic() + seconds
        with _ended_by_sigterm():
            try:
                while not self._is_over(logs, deadline):
                    time.sleep(0.5)
            finally:  # whatever ends it, nothing is left on the GPUs
                self._stop()
        if time.monotonic() >= deadline:
            return
        for step in self._waiting:
            missing = [name for name in step.after if not self._results[name].exists()]
            print(f"{step.name}: not run; it needs {', '.join(missing) or 'more GPUs'}", flush=True)

    def _is_over(self, logs: Path, deadline: float) -> bool:
        self._collect(logs)
        if time.monotonic() >= deadline:
            return True
        if self._more is not None:
            found, are_last = self._more()
            self._results |= {step.name: path for step, path in found.items()}
            self._waiting += [step for step, path in found.items() if not path.exists()]
            if are_last:
                self._more = None
        self._start(logs)
        return not self._running and self._more is None

    def _start(self, logs: Path) -> None:
        for step in list(self._waiting):
            ready = all(self._results[name].exists() for name in step.after)
            free = [gpu for gpu, share in self._free.items() if share >= step.weight - 1e-9]
            if not ready or len(free) < step.gpus:
                continue
            # Steps spread over the GPUs. Where a heavier one waits, a GPU that others are on is
            # filled first, so that it finds room.
            is_lighter = any(each.weight > step.weight for each in self._waiting)
            ordered = sorted(free, key=self._free.__getitem__, reverse=not is_lighter)
            taken = ordered[: step.gpus]
            for gpu in taken:
                self._free[gpu] -= step.weight
            self._waiting.remove(step)
            cores = step.weight * len(taken) / len(self._free)
            self._running[step] = (_launch(step, taken, logs / step.name, cores), taken)

    def _collect(self, logs: Path) -> None:
        for step, (process, gpus) in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[step]
            for gpu in gpus:
                self._free[gpu] += step.weight
            if code == 0 and self._results[step.name].exists():
                print(f"{step.name}: done", flush=True)
                continue
            self.failed.append(step.name)
            log = logs / step.name / "log.txt"
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            print(f"{step.name}: ended with {code}: {last}; see {log}", flush=True)

    def _stop(self) -> None:
        for process, _ in self._running.values():
            process.send_signal(signal.SIGTERM)
        for step, (process, _) in self._running.items():
            process.wait()
            print(f"{step.name}: stopped; the same command goes on", flush=True)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM leave the context by an exception; outside the main thread nothing is caught."""

    def end(number: int, frame: object) -> None:
        del frame
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _launch(step: Step, gpus: list[str], folder: Path, cores: float) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *step.arguments]
    environment = (
        os.environ
        | turns.threads(cores)
        | {
            "CUDA_VISIBLE_DEVICES": ",".join(gpus),
            # The features' PyTorch needs memory of the same card.
            "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.6 * step.weight:.2f}",
        }
    )
    print(f"{step.name}: started on {','.join(gpus)}: {shlex.join(command)}", flush=True)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)
