"""Requests to save and end: SIGTERM, as TPU maintenance, SLURM and Kubernetes send it, and others.

SIGHUP is sent by a terminal that closes, and SIGINT by Ctrl-C.
"""

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_CODE_AT_ONCE = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT
# `timeout` and some schedulers signal a process, and then its group with the process in it.
ECHO_SECONDS = 2.0


class Preemption:
    """Listener to SIGTERM, so that a run can save and end in good order.

    SIGHUP, of a terminal that closes, counts as one, and so does SIGINT, unless they are ignored as
    `nohup` and shells have it for what runs in the background. Before the first question SIGINT is
    a `KeyboardInterrupt` at once; after one that was answered by yes, by a process by itself, it is
    one at the end of the context.

    A process by itself catches the signal here; a second one ends it at once, unless it comes so
    soon that it must be an echo of the first. Several processes leave it to JAX's coordination
    service, by which all of them learn of it and stop at the same call. Outside the main thread,
    where Python allows no handlers, nothing is caught.
    """

    def __init__(self) -> None:
        """Prepare; nothing is caught until the context is entered."""
        self._requested = False
        self._questions = 0
        self._is_interrupted = self._is_told = False
        self._interrupted_at: float | None = None
        self._previous: dict[int, Any] = {}
        self._previous_wakeup = -1
        self._catches = False

    def __enter__(self) -> "Preemption":
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._catches = in_main_thread and jax.process_count() == 1
        if in_main_thread:
            for number, handler in ((signal.SIGHUP, _terminate), (signal.SIGINT, self._interrupt)):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, handler)
        if self._catches:
            # Python runs handlers between its own instructions, which a compilation holds up for
            # minutes, so that a thread listens for the second signal.
            self._listen, self._wakeup = os.pipe()
            os.set_blocking(self._wakeup, False)
            self._previous_wakeup = signal.set_wakeup_fd(self._wakeup)
            threading.Thread(target=_end_at_second, args=(self._listen,), daemon=True).start()
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._catches:
            signal.set_wakeup_fd(self._previous_wakeup)
            os.close(self._wakeup)  # which ends the thread
        if self._is_interrupted and self._is_told and error is None:
            raise KeyboardInterrupt

    def requested(self) -> bool:
        """Whether to save and end now.

        All processes of a run must ask equally often, at the same places: JAX agrees by the number
        of the question, which a step's number can't stand in for where one call makes many steps.
        """
        self._questions += 1
        if jax.process_count() > 1:
            return bool(multihost_utils.reached_preemption_sync_point(self._questions))
        self._is_told |= self._requested
        return self._requested

    def requested_alone(self) -> bool:
        """Whether a process by itself is to save and end now; several are never told here.

        It may be asked as often as one likes.
        """
        self._is_told |= self._requested
        return self._requested

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._requested = True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._questions:  # nothing is there yet to be saved
            raise KeyboardInterrupt
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
            again = f"; Ctrl-C after {ECHO_SECONDS:.0f} s ends it at once, without a save"
            with contextlib.suppress(OSError):  # of a terminal that is gone
                os.write(2, f"\ninterrupted: saving after this update{again}\n".encode())
        elif now - self._interrupted_at > ECHO_SECONDS:
            os._exit(INTERRUPTED)
        if self._catches:
            self._is_interrupted = self._requested = True
        else:
            _terminate(number, frame)


def _terminate(number: int, frame: FrameType | None) -> None:
    del number, frame
    os.kill(os.getpid(), signal.SIGTERM)  # of which JAX's service takes notice too


def _end_at_second(listen: int) -> None:
    """Read the numbers of the signals that come, and end at a second request."""
    first: float | None = None
    while numbers := os.read(listen, 1):
        if numbers[0] not in (signal.SIGTERM, signal.SIGINT):
            continue
        now = time.monotonic()
        if first is None:
            first = now
        elif now - first > ECHO_SECONDS:
            os._exit(128 + numbers[0])
    os.close(listen)
