"""Runs of `fault_config.py`, in a process to disturb, or in this one to compare with."""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from diffjax.runs.train import train
from tests.runs.test_train import ROOT, assert_trees_equal, state_of
from tests.support import fault_config
from tests.support.processes import PATIENCE


class Process:
    """`python -m diffjax.main` on `fault_config.py`, its lines read as they come."""

    def __init__(
        self,
        workdir: Path,
        kind: str,
        *flags: str,
        program: Sequence[str] = ("-m", "diffjax.main"),
    ) -> None:
        self._workdir = workdir
        self._process = subprocess.Popen(
            [
                sys.executable,
                *program,
                f"--config={Path(fault_config.__file__)}:{kind}",
                f"--workdir={workdir}",
                *flags,
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str) -> None:
        """Waits for a line with `text` in it."""
        with self._news:
            assert self._news.wait_for(
                lambda: self._ended or any(text in line for line in self.lines), timeout=PATIENCE
            )
        assert any(text in line for line in self.lines), self.lines

    def wait_for_updates(self, count: int) -> None:
        """Waits until so many updates are done; none is when the first is being compiled."""
        self.wait_for("compiling")
        deadline = time.monotonic() + PATIENCE
        while self._updates_told() < count:
            assert not self._ended, self.lines
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _updates_told(self) -> int:
        lines = (self._workdir / "metrics.jsonl").read_text().splitlines()
        return sum("grad_norm" in line for line in lines)  # and not a measurement

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """The exit code; `lines` are complete then."""
        code = self._process.wait(timeout=PATIENCE)
        self._reader.join(timeout=PATIENCE)
        return code

    def _read(self) -> None:
        for line in self._process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


def run_here(workdir: Path, kind: str = "teacher") -> None:
    train(fault_config.get_config(kind), str(workdir))


def assert_same_runs(ours: Path, theirs: Path, kind: str = "teacher") -> None:
    """Parameters, optimisers, averages, metrics and what is kept, to the bit."""
    settings = fault_config.get_config(kind)
    assert_trees_equal(state_of(ours, settings), state_of(theirs, settings))
    assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
    for folder in ("checkpoints", "best", "samples"):
        assert names(ours / folder) == names(theirs / folder)
    assert names(ours / "network") == names(theirs / "network")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
