"""Ownership of a work directory: one run at a time writes there.

The owner holds a lock on `W/.owner.json`, which the system drops when its process ends however that
comes about, and touches the file every few seconds. Where a file system doesn't carry locks from
host to host, a file that another host touched a moment ago says that its run is alive.
"""

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffjax.files import writing

FILE = ".owner.json"
BEAT_SECONDS = 10.0
# An owner on another host that was silent for so long is dead.
LEASE_SECONDS = 60.0


@contextlib.contextmanager
def owned(workdir: Path, *, is_writer: bool = True) -> Iterator[None]:
    """Context in which no other run writes to a work directory.

    Args:
      workdir: of the run; it is there.
      is_writer: False in the other processes of a run, which leave it to the first.

    Raises:
      ValueError: if a run that is alive has it, naming its host and process.
      OSError: if the file can't be written.
    """
    if not is_writer:
        yield
        return
    path = workdir / FILE
    with writing.explained(path):
        file = _lock(path)
    me = {"host": socket.gethostname(), "process": os.getpid(), "since": time.time()}
    try:
        _refuse_another_host(path, file, str(me["host"]))
        text = json.dumps(me).encode()
        with writing.explained(path):
            os.ftruncate(file, 0)
            os.pwrite(file, text, 0)
            os.fsync(file)
        stop = threading.Event()
        beat = threading.Thread(target=_beat, args=(path, file, text, stop), daemon=True)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            with contextlib.suppress(OSError):
                path.unlink()
    finally:
        os.close(file)


def is_owned(workdir: Path) -> bool:
    """Tell whether a run is under way in a work directory, which is asked without touching it.

    An owner on another host is believed alive for `LEASE_SECONDS` after its last sign.

    Args:
      workdir: of the run, if there is one.
    """
    path = workdir / FILE
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        is_silent = time.time() - path.stat().st_mtime > LEASE_SECONDS
    except (OSError, ValueError):
        return False
    if not isinstance(owner, dict):
        return False
    process = owner.get("process")
    if owner.get("host") != socket.gethostname() or not isinstance(process, int):
        return not is_silent
    try:
        os.kill(process, 0)  # which asks, and does nothing
    except PermissionError:
        return not is_silent
    except (OSError, OverflowError):
        return False
    return not is_silent


def _lock(path: Path) -> int:
    """Open the file, and lock it for this process."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _read(file)
            os.close(file)
            raise _refusal(path, owner) from None
        except OSError:  # a file system without locks; the lease is left
            return file
        # Its last owner may have deleted it between our opening and locking.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)


def _refuse_another_host(path: Path, file: int, host: str) -> None:
    owner = _read(file)
    if not owner or owner.get("host") == host:
        return
    last = os.fstat(file).st_mtime
    # By the file system's own clock, which is not this host's.
    os.utime(file)
    now = os.fstat(file).st_mtime
    os.utime(file, (last, last))
    if now - last < LEASE_SECONDS:
        raise _refusal(path, owner)


def _refusal(path: Path, owner: dict[str, Any]) -> ValueError:
    who = f"process {owner.get('process', '?')} on {owner.get('host', '?')}"
    return ValueError(
        f"{path.parent} belongs to a run that is under way, {who}: name another --workdir, or wait "
        f"until it ends; where it died on another host, {LEASE_SECONDS:.0f} seconds"
    )


def _read(file: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(file, 1 << 16, 0))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _beat(path: Path, file: int, text: bytes, stop: threading.Event) -> None:
    """Touch the file, and end this process if another one has taken the directory over."""
    while not stop.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(file)
            if path.read_bytes() != text:
                print(
                    f"error: {path.parent} was taken over by another run, since this one stood "
                    "still",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)
