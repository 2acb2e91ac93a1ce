"""Errors that all processes of a run learn of, so that they go on, or end, together."""

import itertools
import math
import secrets
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # as in `peers`: the key-value store has no public way
from jax.experimental import multihost_utils

from diffjax.distributed.peers import Store
from diffjax.files import orbax_support

_FOLDER = "diffjax/barriers/"
_CAUSE_BYTES = 256
_TICK_SECONDS = 0.05
_SEEN_WITHIN = 30.0  # seconds: another host's files may show late


class OtherProcessError(OSError):
    """Error of another process of the run."""


def first_error(error: Exception | None) -> Exception | None:
    """Agree on whether any process has an error; all of them call it together.

    Args:
      error: of this process, if it has one.

    Returns:
      This process's own error; or else an `OtherProcessError` with the words of the first that has
      one; None if none has.
    """
    if jax.process_count() == 1:
        return error
    text = "" if error is None else orbax_support.one_line(error)
    mine = np.zeros(_CAUSE_BYTES, np.uint8)
    encoded = np.frombuffer(text.encode("ascii", "replace")[:_CAUSE_BYTES], np.uint8)
    mine[: encoded.size] = encoded
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    if error is not None:
        return error
    for index, theirs in enumerate(everyone):
        if theirs.any():
            return _of(index, theirs.tobytes().rstrip(b"\0").decode("ascii"))
    return None


def check_shared(folder: Path) -> None:
    """Check that all processes see one work directory; all of them call it together.

    Args:
      folder: the directory.

    Raises:
      OSError: in all of them, if one sees another.
    """
    if jax.process_count() == 1:
        return
    is_main, sign = jax.process_index() == 0, folder / f".shared-{secrets.randbits(31)}"
    if is_main:
        sign.write_bytes(b"x")
    number = multihost_utils.broadcast_one_to_all(np.int32(sign.name[8:]))
    sign, deadline = folder / f".shared-{number}", time.monotonic() + _SEEN_WITHIN
    while not (is_seen := sign.exists()) and time.monotonic() < deadline:
        time.sleep(_TICK_SECONDS)
    error = first_error(None if is_seen else OSError("it isn't that of process 0"))
    if is_main:
        sign.unlink()
    if error is not None:
        raise OSError(f"workdir={folder}: {error}: name one that all hosts see") from error


# Processes count alike what they do together, so that no name comes twice.
_NUMBERS = itertools.count()


class Barriers:
    """Barriers of works done together, which end for all processes as soon as one gives up.

    Those of JAX and Orbax let the others wait for minutes, and then don't say for what. These may
    be used in threads of their own, while the main thread computes.
    """

    def __init__(
        self,
        *,
        store: Store | None = None,
        index: int | None = None,
        count: int | None = None,
    ) -> None:
        """Prepare; `begin` comes next.

        Args:
          store: read and written by all processes; None is JAX's.
          index: of this process; None is JAX's.
          count: number of processes; None is JAX's.
        """
        self._index = jax.process_index() if index is None else index
        self._count = jax.process_count() if count is None else count
        self._store: Any = distributed.global_state.client if store is None else store
        self._folder, self._last_moment = "", math.inf

    def begin(self) -> None:
        """Begin another work, in all processes, with none of the last one's threads left."""
        self._folder, self._last_moment = f"{_FOLDER}{next(_NUMBERS)}/", math.inf

    def wait(self, *, key: str, timeout_ms: int) -> None:
        """Wait until all processes wait here.

        Args:
          key: name of the barrier.
          timeout_ms: how long to wait at most.

        Raises:
          OtherProcessError: if one of them has given up.
          TimeoutError: if they don't come.
        """
        if self._count == 1:
            return
        place = f"{self._folder}at/{key}/"
        self._store.key_value_set(f"{place}{self._index}", "here", allow_overwrite=True)
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            entries = dict(self._store.key_value_dir_get(self._folder))
            for entry, cause in entries.items():
                if entry.startswith(f"{self._folder}failed/"):
                    raise _of(int(entry.rpartition("/")[2]), cause)
            if sum(entry.startswith(place) for entry in entries) == self._count:
                return
            if time.monotonic() > min(deadline, self._last_moment):
                raise TimeoutError("the other processes haven't come as far")
            time.sleep(_TICK_SECONDS)

    def give_up(self, error: Exception) -> None:
        """Tell the others, who may be waiting already, of an error of this process."""
        if self._count > 1 and not isinstance(error, OtherProcessError):
            key = f"{self._folder}failed/{self._index}"
            self._store.key_value_set(key, orbax_support.one_line(error), allow_overwrite=True)

    def end_within(self, seconds: float) -> None:
        """Let no barrier of this process wait for longer than that from now on."""
        self._last_moment = time.monotonic() + seconds


def _of(index: int, cause: str) -> OtherProcessError:
    return OtherProcessError(f"process {index}: {cause}")
