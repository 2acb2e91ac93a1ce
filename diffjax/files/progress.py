"""Progress of long work, as a line on a terminal or in a file."""

import contextlib
import functools
import math
import os
import shutil
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn, TextIO

from absl import logging

_WINDOW = 20  # progress reports that the rate is averaged over


def write(text: str, stream: TextIO) -> None:
    """Write to a terminal, pipe or file, whose state never decides what becomes of a run.

    Characters that it can't show, such as those of "|Δ|" in ASCII, are replaced. Where nobody
    reads any more, as after `| head`, this text and what follows goes nowhere.

    Args:
      text: with its line's end, if it has one.
      stream: such as `sys.stdout`.
    """
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):  # ValueError of a closed one
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def say(text: str) -> None:
    """Print a line as `write` does.

    Args:
      text: without its line's end.
    """
    write(text + "\n", sys.stdout)


def link(path: Path, stream: TextIO) -> str:
    """Give a file's path as a line shows it: as a link (OSC 8) on a terminal, bare elsewhere.

    Terminals that know no links show the path alone.

    Args:
      path: of the file.
      stream: that the line is written to.
    """
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return str(path)
    # With the host's name, so that a terminal on another one doesn't look among its own files.
    url = path.absolute().as_uri().replace("file://", f"file://{socket.gethostname()}", 1)
    return f"\x1b]8;;{url}\x1b\\{path}\x1b]8;;\x1b\\"


@functools.cache
def warn_once(text: str) -> None:
    """Log a warning, once however often the same is found.

    Args:
      text: of one line.
    """
    logging.warning("%s", text)


def leave_interrupted() -> NoReturn:
    """End this process after Ctrl-C with a line and exit code 130.

    It is ended at once: devices may be at work, amid which Python's own ending can crash.
    """
    write("", sys.stdout)
    write("\ninterrupted\n", sys.stderr)
    os._exit(128 + signal.SIGINT)


class ProgressLine:
    """Line that says how far a run is, how fast it goes and when it will end.

    A terminal shows one line that is rewritten; a file or notebook gets a line every few seconds.
    The first update compiles, so the rate starts counting after it.

    Attributes:
      images_per_second: mean rate over the latest reports; None until two are there.
    """

    def __init__(
        self,
        total_kimg: float,
        *,
        stream: TextIO,
        interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start before anything is compiled.

        Args:
          total_kimg: thousands of images that the run is to make.
          stream: to write to.
          interval: seconds from line to line where `stream` isn't a terminal.
          clock: gives the time in seconds.
        """
        self.images_per_second: float | None = None
        self._total_kimg = total_kimg
        self._stream = stream
        self._interval = interval
        self._clock = clock
        self._left_out = 0.0
        self._history: deque[tuple[float, float]] = deque(maxlen=_WINDOW)  # (seconds, kimg)
        self._metrics: Mapping[str, float] = {}
        self._shown_at = -math.inf
        self._is_terminal = stream.isatty()
        self._line_is_open = False

    def compiling(self) -> None:
        """Show that the first update is being compiled."""
        self._show("compiling ...")

    def update(
        self,
        step: int,
        kimg: float,
        scalars: Mapping[str, float],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Note how far the run is, and show it if it is time.

        Args:
          step: updates done.
          kimg: thousands of images done.
          scalars: name -> value, shown in this line.
          metrics: name -> value, shown from now on; None keeps those of before.
        """
        now = self._clock()
        self._history.append((now - self._left_out, kimg))
        self.images_per_second = _rate(self._history)
        if metrics is not None:
            self._metrics = metrics
        last = kimg >= self._total_kimg
        if self._is_terminal or last or now - self._shown_at >= self._interval:
            self._shown_at = now
            self._show(self._text(step, kimg, scalars))

    def leave_out(self, seconds: float) -> None:
        """Leave seconds that just went by out of the rate."""
        self._left_out += seconds

    def note(self, text: str) -> None:
        """Write a line that stays, above the progress line."""
        self._write("\r\x1b[K" if self._line_is_open else "")
        self._line_is_open = False
        self._write(text + "\n")

    def path(self, path: Path) -> None:
        """Write a line that stays and is a file's path, as `link` shows it."""
        self.note(link(path, self._stream))

    def end(self) -> None:
        """End the progress line, so that it stays on the terminal."""
        if self._line_is_open:
            self._line_is_open = False
            self._write("\n")

    def _text(self, step: int, kimg: float, scalars: Mapping[str, float]) -> str:
        # Time left comes before the numbers, so that a narrow terminal doesn't cut it off.
        parts = [
            f"{min(kimg / self._total_kimg, 1):6.1%}",
            f"step {step}",
            f"kimg {kimg:.1f}/{self._total_kimg:.1f}",
        ]
        if self.images_per_second is not None:
            left = 1000 * max(self._total_kimg - kimg, 0) / self.images_per_second
            parts += [f"{self.images_per_second:.4g} img/s", f"{format_seconds(left)} left"]
        parts += [
            f"{name} {value:.4g}" for name, value in (*scalars.items(), *self._metrics.items())
        ]
        return "  ".join(parts)

    def _show(self, text: str) -> None:
        if not self._is_terminal:
            self._write(text + "\n")
            return
        # A line that wraps can't be rewritten.
        self._write("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
        self._line_is_open = True

    def _write(self, text: str) -> None:
        write(text, self._stream)


def format_seconds(seconds: float) -> str:
    """Format a duration: 3725 as "1h 02m 05s", 65 as "1m 05s", 5 as "5s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m {rest:02d}s"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def _rate(history: deque[tuple[float, float]]) -> float | None:
    (start, first), (end, last) = history[0], history[-1]
    return 1000 * (last - first) / (end - start) if end > start and last > first else None
