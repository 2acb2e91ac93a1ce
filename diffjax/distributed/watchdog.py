"""Watchdog that reports slow updates, and ends a run in which nothing moves."""

import collections
import contextlib
import dataclasses
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
_UPDATE, _FIRST_UPDATE = "update", "compiling or in the first update"


@dataclasses.dataclass
class _Work:
    """Work of the main thread, since when, and whether it was reported as slow."""

    name: str
    since: float
    was_reported: bool = False


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
          slow_factor: an update, or other work that has a name, is reported where it takes so many
            times the median of its kind; 0 reports none.
          slow_seconds: time under which nothing is reported.
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
        self._seconds: dict[str, collections.deque[float]] = collections.defaultdict(
            lambda: collections.deque(maxlen=_WINDOW)
        )
        self._step: int | None = None
        self._latest = 0.0, 0  # seconds and updates of the latest call
        self._awaited = 1  # updates, of the latest call or the next one
        self._alive_at = clock()
        self._works = [
            _Work(_FIRST_UPDATE, self._alive_at)
        ]  # and what it is paused for, innermost last
        self._stop = threading.Event()
        self._lock = threading.Lock()
        limits = [n for n in (slow_seconds, hang_seconds) if n]
        self._tick = min(max(min(limits, default=1.0) / 10, 0.05), 1.0)

    def __enter__(self) -> "Watchdog":
        self._alive_at = self._works[0].since = self._clock()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()

    def done(self, step: int, *, awaited: int | None = None) -> None:
        """Note that the loop has come to `step`; its first call, which compiles, isn't timed.

        Args:
          step: updates done.
          awaited: updates of the next call; None as many as in this one, 0 if none follows.
        """
        now = self._clock()
        with self._lock:
            update = self._works[0]
            took, was_reported = now - update.since, update.was_reported
            count = step - (self._step or 0)
            if self._step is not None:
                # A call may return before its updates are done, and the next one wait for both.
                seconds, updates = took + self._latest[0], count + self._latest[1]
                self._seconds[_UPDATE].append(seconds / updates)
                self._latest = took, count
                self._awaited = count
            if awaited is not None:
                self._awaited = awaited and max(awaited, self._awaited)
            self._step, self._peers.step = step, step
            self._works[0], self._alive_at = _Work(_UPDATE, now), now
        if was_reported:
            self._report(f"update {step} came after {took:.0f} s")

    @contextlib.contextmanager
    def paused(self, work: str = "") -> Iterator[None]:
        """Context of work that is no update, and may take as long as `hang_seconds`.

        Args:
          work: what is done, such as "saving"; "" is what stands around it. Contexts may nest.
        """
        start = self._clock()
        with self._lock:
            outer = self._works[-1].name if len(self._works) > 1 else ""
            self._works.append(_Work(work or outer, start))
            self._alive_at = start
        try:
            yield
        finally:
            now = self._clock()
            with self._lock:
                self._works.pop()
                self._alive_at = now
                if work:
                    self._seconds[work].append(now - start)
                if len(self._works) == 1:
                    self._works[0].since += now - start

    def check(self) -> None:
        """Look at the clock once; report what is slow, or end a run that hangs."""
        with self._lock:
            now = self._clock()
            work, idle = self._works[-1], now - self._alive_at
            slow = self._slow(work, now - work.since)
            work.was_reported |= bool(slow)
            where = "the start" if self._step is None else f"update {self._step}"
        if slow:
            self._report(f"{slow}{self._peers.behind()}")
        if self._hang_seconds and idle > self._hang_seconds and not self._stop.is_set():
            self._stop.set()
            what = f", while {work.name}" if work.name not in ("", _UPDATE) else ""
            self._end(
                f"nothing was done for {idle:.0f} s since {where}{what}{self._peers.behind()}. "
                "The same command goes on from the newest checkpoint; the watchdog's hang_seconds "
                "sets the limit."
            )

    def _slow(self, work: _Work, waited: float) -> str:
        usual, is_update = self._seconds[work.name], work.name == _UPDATE
        if work.was_reported or not self._slow_factor or len(usual) < _FEWEST:
            return ""
        median = statistics.median(usual)
        limit = self._slow_factor * median * (self._awaited if is_update else 1)
        if waited <= max(limit, self._slow_seconds) or (is_update and not self._awaited):
            return ""
        step = self._step or 0
        what = f"update {step + 1}" if is_update else f"{work.name} after update {step}"
        each = " an update" if is_update else ""
        return f"{what} has taken {waited:.1f} s so far; the median is {median:.3g} s{each}"

    def _watch(self) -> None:
        asleep = self._clock()
        while not self._stop.wait(self._tick):
            now = self._clock()
            self._leave_out(now - asleep - self._tick)
            self.check()
            asleep = self._clock()

    def _leave_out(self, seconds: float) -> None:
        """Leave out a time in which this process itself was stopped, as a shell or debugger can."""
        if seconds > self._tick:
            with self._lock:
                now = self._clock()
                self._alive_at = min(self._alive_at + seconds, now)
                for work in self._works:
                    work.since = min(work.since + seconds, now)


def _exit(reason: str) -> None:
    """End this process whatever its other threads wait for, and show where they are."""
    sys.stdout.flush()
    faulthandler.dump_traceback(all_threads=True)
    print(f"error: {reason}", file=sys.stderr, flush=True)
    os._exit(1)
