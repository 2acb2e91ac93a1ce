"""SIGTERM, by which TPU maintenance, SLURM and Kubernetes say that a process must end soon."""

import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Notices SIGTERM, so that a run can save and end in good order.

    A process by itself catches the signal here; a second one ends it at once. Several processes
    leave it to JAX's coordination service, by which all of them learn of it and stop at the same
    call. Outside the main thread, where Python allows no handlers, nothing is caught.
    """

    def __init__(self) -> None:
        """Nothing is caught until the context is entered."""
        self._requested = False
        self._previous: object = None
        self._catches = False

    def __enter__(self) -> "Preemption":
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._catches = in_main_thread and jax.process_count() == 1
        if self._catches:
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._catches:
            signal.signal(signal.SIGTERM, self._previous)  # type: ignore[arg-type]

    def requested(self, call: int) -> bool:
        """Whether to save and end now.

        Args:
          call: the number of this question, the same in all processes; they agree by it.
        """
        if jax.process_count() > 1:
            return bool(multihost_utils.reached_preemption_sync_point(call))
        return self._requested

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._requested = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends at once
