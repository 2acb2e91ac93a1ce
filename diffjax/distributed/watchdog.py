"""Watchdog that reports slow updates, and ends a run in which nothing moves."""

import collections
import contextlib
import faulthandler
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from diffjax.distributed.peers import Peers

_WINDOW = 100  # updates that the median is taken over
_FEWEST = 5  # before there is one


class Watchdog:
    """Watchdog over the clock while the main thread waits for devices or other processes.

    A context around the loop, which says `done` after every call of the update and `paused` where
    it does something else.
    """

    def __init__(
        self,
        *,
        slow_factor: float,
        slow_seconds: float,
        hang_seconds: float,
        peers: Peers,
        report: Callable[[str], None],
        end: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is watched until the context is entered.

        Args:
          slow_factor: an update that takes so many times the median is reported; 0 reports none.
          slow_seconds: time under which no update is reported.
          hang_seconds: time after which this process ends if nothing at all was done, compiling
            and evaluations included; 0 never ends it.
          peers: the other processes.
          report: takes a line for the log.
          end: called with the reason instead of ending this process with exit code 1.
          clock: gives the time in seconds.
        """
        self._slow_factor, self._slow_seconds = slow_factor, slow_seconds
        self._hang_seconds = hang_seconds
        self._peers, self._report, self._end, self._clock = peers, report, end or _exit, clock
        self._seconds: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        self._step: int | None = None
        self._count = 1  # updates of the latest call
        self._since = self._alive_at = clock()
        self._is_paused = self._was_reported = False
        self._stop = threading.Event()
        self._lock = threading.Lock()
        limits = [n for n in (slow_seconds, hang_seconds) if n]
        self._tick = min(max(min(limits, default=1.0) / 10, 0.05), 1.0)

    def __enter__(self) -> "Watchdog":
        self._since = self._alive_at = self._clock()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()

    def done(self, step: int) -> None:
        """Note that the loop has come to `step`; its first call, which compiles, isn't timed."""
        now = self._clock()
        with self._lock:
            if self._step is not None:
                self._count = step - self._step
                self._seconds.append((now - self._since) / self._count)
            was_reported, took = self._was_reported, now - self._since
            self._step, self._peers.step = step, step
            self._since = self._alive_at = now
            self._was_reported = False
        if was_reported:
            self._report(f"update {step} came after {took:.0f} s")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Context of work that is no update, and may take as long as `hang_seconds`."""
        start = self._clock()
        with self._lock:
            self._is_paused, self._alive_at = True, start
        try:
            yield
        finally:
            now = self._clock()
            with self._lock:
                self._is_paused, self._alive_at = False, now
                self._since += now - start

    def check(self) -> None:
        """Look at the clock once; report a slow update, or end a run that hangs."""
        with self._lock:
            now = self._clock()
            idle, slow = now - self._alive_at, self._slow(now - self._since)
            next_step = (self._step or 0) + 1
            self._was_reported |= bool(slow)
        if slow:
            self._report(f"update {next_step} {slow}{self._peers.behind()}")
        if self._hang_seconds and idle > self._hang_seconds and not self._stop.is_set():
            self._stop.set()
            self._end(
                f"nothing was done for {idle:.0f} s since update {next_step - 1}"
                f"{self._peers.behind()}. The same command goes on from the newest checkpoint; "
                "the watchdog's hang_seconds sets the limit."
            )

    def _slow(self, waited: float) -> str:
        if self._is_paused or self._was_reported or not self._slow_factor:
            return ""
        if len(self._seconds) < _FEWEST:
            return ""
        median = statistics.median(self._seconds)
        limit = max(self._slow_factor * median * self._count, self._slow_seconds)
        if waited <= limit:
            return ""
        return f"has taken {waited:.1f} s so far; the median is {median:.3g} s an update"

    def _watch(self) -> None:
        while not self._stop.wait(self._tick):
            self.check()


def _exit(reason: str) -> None:
    """End this process whatever its other threads wait for, and show where they are."""
    sys.stdout.flush()
    faulthandler.dump_traceback(all_threads=True)
    print(f"error: {reason}", file=sys.stderr, flush=True)
    os._exit(1)
