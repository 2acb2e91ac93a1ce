"""Signs of life among the processes of a run, and how far each of them is.

JAX's own service ends all processes when one of them dies, but its pages of messages don't say
which host to look at, and a process that waits for a dead one in a collective can't speak for
itself. So two threads of every process exchange signs of life through that service. When a
process is silent for too long, or says that it failed, each of the others names it and ends.
"""

import atexit
import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Protocol

import jax
from jax._src import distributed  # JAX has no public way to its key-value store; Orbax does so too
from jax.experimental import multihost_utils

from diffjax.distributed import numerics, runtime
from diffjax.distributed.preemption import EXIT_CODE_AT_ONCE, INTERRUPTED
from diffjax.files.progress import say

_FOLDER = "diffjax/peers/"
_STATUS = re.compile(r"(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED): ")


@contextlib.contextmanager
def joined(
    config: Mapping[str, Any],
    *,
    deterministic: bool,
    distributed: bool,
    peer_seconds: float,
    compilation_cache: str = "",
) -> Iterator["Peers"]:
    """Context of this process among the others of a run, with its own numerics.

    It is entered before JAX is used.

    Args:
      config: the run's mode and settings, which must be equal in all processes.
      deterministic: see `runtime.prepare`.
      distributed: whether to look for other processes; see `runtime.prepare`.
      peer_seconds: time for which a process may be silent; see `Peers`.
      compilation_cache: see `runtime.prepare`.

    Yields:
      The process's `Peers`.

    Raises:
      ValueError: the processes can't be found, or have other configs or code; a context around this
        one holds a setting that decides numbers; there is no device that can be used.
    """
    with numerics.own() as replaced:
        runtime.prepare(
            deterministic=deterministic,
            distributed=distributed,
            peer_seconds=peer_seconds,
            compilation_cache=compilation_cache,
        )
        saves = config.get("mode") == "train"  # and asks for SIGTERM itself
        with Peers(silent_seconds=peer_seconds, asks_to_stop=saves) as peers:
            runtime.agree("the command", sorted(config.items()))
            runtime.agree("the code", _code())
            if replaced and jax.process_index() == 0:
                say(f"not followed, since a run has its own numerics: {', '.join(replaced)}")
            yield peers


def _code() -> str:
    """SHA-256 of diffjax's files and JAX's version, which decide what is compiled."""
    digest, package = hashlib.sha256(jax.__version__.encode()), Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")) if jax.process_count() > 1 else ():
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


class Store(Protocol):
    """Key-value store, the part of JAX's distributed client that is used here."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """Set a value that all processes can read."""

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """Read everything below a folder, as pairs of full key and value."""


class Peers:
    """Peers of this process in a run, which exchange signs of life; none for one by itself.

    A context around all that needs the others. It ends this process, with a line on the standard
    error and exit code 1, within `silent_seconds` and a few ticks of another one's death, or with
    the `exit_code` of another one's error.

    JAX's service keeps SIGTERM for who asks; where nobody else does, it ends all here with 143.

    Attributes:
      step: updates that this process has done, for the others to see.
    """

    def __init__(
        self,
        *,
        silent_seconds: float,
        asks_to_stop: bool = True,
        store: Store | None = None,
        index: int | None = None,
        count: int | None = None,
        end: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare; nothing is sent until the context is entered.

        Args:
          silent_seconds: time after which a process that isn't heard of counts as dead.
          asks_to_stop: whether the work in the context asks for SIGTERM itself.
          store: read and written by all processes; None is JAX's.
          index: of this process; None is JAX's.
          count: number of processes; None is JAX's.
          end: called with the reason instead of ending this process.
        """
        self.step = 0
        self._index = jax.process_index() if index is None else index
        self._count = jax.process_count() if count is None else count
        self._store = store
        self._silent_seconds, self._asks_to_stop = silent_seconds, asks_to_stop
        self._tick = min(max(silent_seconds / 20, 0.05), 3.0)
        self._end = end or self._exit
        self._name = f"{socket.gethostname()}, pid {os.getpid()}"
        self._state, self._failure, self._beat = "lives", "", 0
        self._code = 1
        self._questions = 0
        self._said: dict[int, dict[str, Any]] = {}
        self._heard_at: dict[int, float] = {}
        self._exchanged_at = self._judged_at = 0.0
        self._stop, self._verdict = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Peers":
        if self._count > 1:
            if self._store is None:
                self._store = distributed.global_state.client
                self._introduce()
            now = time.monotonic()
            self._exchanged_at = self._judged_at = now
            self._heard_at = dict.fromkeys(range(self._count), now)
            # Apart, since an exchange hangs when the process that keeps the store does.
            asking = () if self._asks_to_stop else (self._ask_to_stop,)
            for work in (self._exchange, self._judge, *asking):
                thread = threading.Thread(target=self._repeat, args=(work,), daemon=True)
                thread.start()
                self._threads.append(thread)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._count == 1:
            return
        # An error of a collective is most often another process's death, which is known for sure
        # only after a while; then `_judge` ends this process too.
        of_others = error is not None and _is_of_xla(error)
        if of_others and self._verdict.wait(self._silent_seconds + 3 * self._tick):
            time.sleep(20 * self._tick)
        if not self._stop.is_set():  # else it is ending, for a reason that is known
            is_interrupted = isinstance(error, KeyboardInterrupt)
            self._code = INTERRUPTED if is_interrupted else getattr(error, "exit_code", 1)
        self._state = "failed" if error else "done"
        self._failure = f"{kind.__name__}: {error}" if kind else ""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the store is gone already
            self._say()
        self._stop.set()
        if error:
            # JAX's own ending would wait for the others, whom this failure ends.
            atexit.register(self._leave)

    def behind(self) -> str:
        """Name the processes that are behind, as a part of a sentence; "" if there is none."""
        with self._lock:
            steps = {i: said["step"] for i, said in self._said.items() if i != self._index}
        late = [i for i, step in sorted(steps.items()) if step < self.step]
        if not late:
            return ""
        return "; behind are " + ", ".join(f"{self._title(i)} at update {steps[i]}" for i in late)

    def _introduce(self) -> None:
        """Print who is who, for messages of JAX, which know numbers only."""
        leader = distributed.global_state.coordinator_address
        print(
            f"process {self._index} of {self._count} is {self._name}; process 0, the leader, is "
            f"at {leader}",
            file=sys.stderr,
            flush=True,
        )

    def _repeat(self, work: Callable[[], None]) -> None:
        while True:
            work()
            if self._stop.wait(self._tick):
                return

    def _exchange(self) -> None:
        try:
            self._say()
            assert self._store is not None
            everything = self._store.key_value_dir_get(_FOLDER)
        except jax.errors.JaxRuntimeError:  # `_judge` sees how long this goes on
            return
        now = time.monotonic()
        with self._lock:
            self._exchanged_at = now
            for key, value in everything:
                index, said = int(key.rpartition("/")[2]), json.loads(value)
                if said != self._said.get(index):
                    self._said[index], self._heard_at[index] = said, now

    def _say(self) -> None:
        self._beat += 1
        said = {
            "beat": self._beat,
            "code": self._code,
            "failure": " ".join(self._failure.split())[:500],
            "name": self._name,
            "state": self._state,
            "step": self.step,
        }
        assert self._store is not None
        key = f"{_FOLDER}{self._index}"
        self._store.key_value_set(key, json.dumps(said), allow_overwrite=True)

    def _judge(self) -> None:
        now = time.monotonic()
        with self._lock:
            if now - self._judged_at > self._silent_seconds / 2:  # this process itself was stopped
                self._exchanged_at = now
                self._heard_at = dict.fromkeys(self._heard_at, now)
            self._judged_at = now
            reason = self._reason(now)
        if reason and not self._stop.is_set():
            self._stop.set()
            self._verdict.set()
            again = ". The same command, run again on all, goes on." if self._code == 1 else ""
            self._end(f"{reason}{again}")

    def _reason(self, now: float) -> str:
        """Reason for which this process must end, or ""."""
        others = [i for i in range(self._count) if i != self._index]
        for index in others:
            said = self._said.get(index, {})
            if said.get("state") == "failed":
                self._code = said.get("code", 1)  # an older version says none
                return f"{self._title(index)} failed: {said['failure']}"
        if self._index != 0 and now - self._exchanged_at > self._silent_seconds:
            return self._silence(0, now - self._exchanged_at)
        for index in others:
            silent = now - self._heard_at[index]
            is_done = self._said.get(index, {}).get("state") == "done"
            if silent > self._silent_seconds and not is_done:
                return self._silence(index, silent)
        return ""

    def _ask_to_stop(self) -> None:
        self._questions += 1  # JAX agrees on a number that all reach
        if multihost_utils.reached_preemption_sync_point(self._questions):
            self._state, self._code = "failed", EXIT_CODE_AT_ONCE
            self._failure = "told to stop, with nothing to save"
            self._say()  # to who has asked less often
            self._stop.set()
            self._end(self._failure)

    def _silence(self, index: int, seconds: float) -> str:
        return (
            f"{self._title(index)} hasn't been heard of for {seconds:.0f} s: it died, hangs, or "
            "can't be reached"
        )

    def _title(self, index: int) -> str:
        name = self._said.get(index, {}).get("name", "which never reported")
        return f"process {index} of {self._count} ({name})"

    def _exit(self, reason: str) -> NoReturn:
        sys.stdout.flush()  # so that the reason stands last
        print(f"error: {reason}", file=sys.stderr, flush=True)
        self._leave()

    def _leave(self) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        if self._index == 0:  # the store ends with this process, and the others still read it
            time.sleep(3 * self._tick)
        os._exit(self._code)


def _is_of_xla(error: BaseException) -> bool:
    """Whether an error has one of XLA's codes; some of them come as a `ValueError`."""
    return isinstance(error, jax.errors.JaxRuntimeError) or bool(_STATUS.match(str(error)))
