"""Lines on the terminal, curves, pictures, and files by which runs are compared.

In the run's folder W:

* `W/metrics.jsonl`: one JSON object a line, `step`, `kimg` and the scalars that the seed decides.
  Two equal runs give equal files, also if one of them was interrupted and resumed, on as many
  devices of one kind and, on a CPU, as many cores; on a GPU with `deterministic`. Means are over
  the updates since the last line that were kept; `skipped` counts those that were not.
* `W/timing.jsonl`: the same for times and rates, which no seed decides.
* `W/tensorboard/`: all of these and the sample grids as TensorBoard event files.
* `W/samples/`: the sample grids as PNG.

JSON has no NaN and no infinities, so they are the strings "nan", "inf" and "-inf", which Python's
`float` understands; `read_scalars` gives numbers back.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax.numpy as jnp
import numpy as np

from diffjax.files import images, writing
from diffjax.files.progress import ProgressLine
from diffjax.runs import metric_writer, tensorboard

METRICS_FILE = "metrics.jsonl"
TIMING_FILE = "timing.jsonl"
SAMPLES = "samples"

_NON_FINITE = ("nan", "inf", "-inf")


class RunLogger:
    """Writer of a run's reports; in other processes than the main one every method does nothing.

    Attributes:
      progress_line: the line on the terminal; its `images_per_second` is the current rate.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        total_kimg: float,
        is_main: bool = True,
        resume_step: int | None = None,
        stream: TextIO | None = None,
        interval: float = 10.0,
        writer: Any = None,
    ) -> None:
        """Open the files of a run.

        Args:
          workdir: the run's folder W, local or mounted; made if needed.
          total_kimg: thousands of images that the run is to make.
          is_main: whether this is the process that writes.
          resume_step: the step that the run goes on from. Lines of later steps, which the run will
            write again, are dropped, and so is a last line that was cut off. If the last one that
            is left is written once more, by a run that was stopped before it could save that
            it had been, the new one takes its place. None starts afresh: all lines of an earlier
            run are dropped.
          stream: where to show progress; None is the standard output.
          interval: seconds from one progress line to the next where `stream` isn't a terminal.
          writer: of `clu.metric_writers`' interface, which gets all numbers and pictures too.

        Raises:
          ValueError: if `workdir` is a URL, or a file to go on from isn't what was written here.
          OSError: if it can't be written to.
        """
        self._is_main = is_main
        self.progress_line = ProgressLine(
            total_kimg, stream=sys.stdout if stream is None else stream, interval=interval
        )
        self._writer = metric_writer.Guarded(writer, report=self.note)
        if not is_main:
            return
        self._workdir = writing.make_writable(workdir)
        self._files = {}
        self._may_come_again: dict[str, _LastLine | None] = {}
        for name in (METRICS_FILE, TIMING_FILE):
            path = self._workdir / name
            self._may_come_again[name] = _keep_until(
                path, -1 if resume_step is None else resume_step
            )
            with writing.explained(path):
                self._files[name] = path.open("ab", buffering=0)  # a line is written at once
        self._tensorboard = tensorboard.EventWriter(
            self._workdir / "tensorboard",
            purge_step=0 if resume_step is None else resume_step + 1,
        )

    def write_scalars(
        self,
        step: int,
        kimg: float,
        scalars: Mapping[str, Any],
        timing: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one line of numbers.

        Args:
          step: updates done.
          kimg: thousands of images made.
          scalars: name -> number (or array of one number) that the seed decides.
          timing: name -> number that depends on the machine.

        Raises:
          ValueError: if a value isn't one number, or is called `step` or `kimg`.
        """
        if not self._is_main:
            return
        self._write_line(METRICS_FILE, step, kimg, scalars)
        if timing is not None:
            self._write_line(TIMING_FILE, step, kimg, timing)

    def write_image(self, step: int, kimg: float, name: str, picture: np.ndarray) -> None:
        """Write `W/samples/<name>_<kimg, 6 digits>.png` and show it in TensorBoard.

        Where another update's picture has that name, this one's has decimals: `_000000.064.png`.

        Args:
          step: updates done.
          kimg: thousands of images made; whole ones name the file.
          name: what the picture shows.
          picture: [H, W, C] uint8, C = 1 or 3, such as `pictures.grid` makes.
        """
        if not self._is_main:
            return
        path = self._workdir / SAMPLES / f"{name}_{int(kimg):06d}.png"
        if images.read_text(path).get("step", str(step)) != str(step):
            path = path.with_name(f"{name}_{kimg:010.3f}.png")
        images.save_png(path, picture, text={"step": str(step)})
        self._tensorboard.add_image(name, picture, step)
        self._writer.image(step, name, picture)

    def compiling(self) -> None:
        """Show that the first update is being compiled; call it before that update."""
        if self._is_main:
            self.progress_line.compiling()

    def progress(
        self,
        step: int,
        kimg: float,
        scalars: Mapping[str, float],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Show how far the run is; call it once a step or group of steps is done on the device.

        Args:
          step: updates done.
          kimg: thousands of images made.
          scalars: what to show, in this order: short name -> number, such as both losses and |Δ|.
          metrics: an evaluation's numbers, shown until newer ones come.
        """
        if self._is_main:
            self.progress_line.update(step, kimg, scalars, metrics)

    def note(self, text: str) -> None:
        """Show a line that stays."""
        if self._is_main:
            self.progress_line.note(text)

    def path(self, path: Path) -> None:
        """Show the path of a file on a line that stays; a link where a terminal takes one."""
        if self._is_main:
            self.progress_line.path(path)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the time of this context, such as an evaluation's, out of the image rate."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.progress_line.leave_out(time.monotonic() - start)

    def close(self) -> None:
        """End the progress line and close the files; a second call does nothing."""
        if not self._is_main or not self._files:
            return
        self._writer.close()
        self.progress_line.end()
        for file in self._files.values():
            file.close()
        self._files = {}
        self._tensorboard.close()

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write_line(self, file: str, step: int, kimg: float, values: Mapping[str, Any]) -> None:
        numbers = {name: _number(name, value) for name, value in values.items()}
        line = {"step": int(step), "kimg": float(kimg), **numbers}
        text = json.dumps({key: _to_json(value) for key, value in line.items()}, allow_nan=False)
        last = self._may_come_again.pop(file, None)
        if last is not None and last.names == line.keys() and last.step == line["step"]:
            self._files[file].truncate(last.start)
        writing.append(self._files[file], (text + "\n").encode())
        for name, number in numbers.items():
            self._tensorboard.add_scalar(name, number, step)
        self._writer.scalars(int(step), numbers)


def read_scalars(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Read `metrics.jsonl` or `timing.jsonl`.

    Args:
      path: the file.

    Returns:
      One dict a line, "nan", "inf" and "-inf" being numbers again. A last line that was cut off,
      because the run was killed or is writing it now, isn't among them.

    Raises:
      ValueError: naming the line, if another one isn't a JSON object.
    """
    lines = _complete_lines(Path(path))
    return [
        {key: float(value) if value in _NON_FINITE else value for key, value in line.items()}
        for line, _ in lines
    ]


class _LastLine(NamedTuple):
    """The last line of a file: its step, its names, and the byte at which it starts."""

    step: int
    names: Set[str]
    start: int


def _keep_until(path: Path, step: int) -> _LastLine | None:
    """Drop the lines of later steps, by writing the others to a new file that takes its place."""
    if not path.exists():
        return None
    kept = [(line, text) for line, text in _complete_lines(path) if line["step"] <= step]
    writing.write_text(path, "".join(text for _, text in kept))
    if not kept:
        return None
    line, text = kept[-1]
    return _LastLine(line["step"], line.keys(), path.stat().st_size - len(text.encode()))


def _complete_lines(path: Path) -> list[tuple[dict[str, Any], str]]:
    """List each line, parsed and as it stands in the file."""
    lines = []
    for number, text in enumerate(path.read_text("utf-8", errors="replace").splitlines(True), 1):
        if not text.endswith("\n"):
            break
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or "step" not in line:
            raise ValueError(f"line {number} of {path} isn't a line of numbers: delete it to go on")
        lines.append((line, text))
    return lines


def _number(name: str, value: Any) -> int | float:
    if name in ("step", "kimg"):
        raise ValueError(f"a scalar can't be called {name}: every line has one already")
    array = np.asarray(value)
    is_integer = jnp.issubdtype(array.dtype, jnp.integer)
    if array.size != 1 or not (is_integer or jnp.issubdtype(array.dtype, jnp.floating)):
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}: one number is needed")
    # Every smaller type is exact in a Python number, whose repr JSON writes in full.
    return int(array.item()) if is_integer else float(array.item())


def _to_json(value: int | float) -> int | float | str:
    return value if math.isfinite(value) else str(value)
