"""Writing to a work directory, where files are whole or not there, with errors that help."""

import contextlib
import errno
import hashlib
import io
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from diffjax.files import paths

PathLike = str | os.PathLike[str]

# Bytes; the hidden name of what is half written is longer, and may have 255.
_LONG_NAME = 120
# A partial file of another host that nobody wrote to for so long was left by a dead process.
_DEAD_SECONDS = 3600.0
_MEND = "mend that, such as by freeing space, and the same command goes on"
_ELSEWHERE = "mend its permissions or its disk, or name another place"
_HELP = {
    errno.EACCES: _ELSEWHERE,
    errno.ENOENT: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.ENOTDIR: "a part of its path is a file; name another path",
    errno.EEXIST: "a part of its path is a file; name another path",
    errno.EISDIR: "it is a folder; name another path",
    errno.ENAMETOOLONG: "name a shorter path",
}


def make_writable(workdir: PathLike, *, field: str = "workdir", instead: str = "") -> Path:
    """Make a work directory if needed, and check that files can be written in it.

    Args:
      workdir: a local path, or one on a mounted store.
      field: name of the setting in an error.
      instead: what to do instead, in an error; "" names another work directory.

    Returns:
      The path of the directory.

    Raises:
      ValueError: if it is a URL.
      OSError: if it can't be made or written to, with what would do.
    """
    path = Path(paths.local(workdir))
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe(path)
    except OSError as error:
        # "File exists" would say nothing: a folder that exists is none.
        why = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise OSError(
            f"{field}={path} can't be written to ({why}): "
            f"{instead or 'name another --workdir'}, or mend its permissions or its disk"
        ) from error
    return path


def check_makable(workdir: PathLike) -> None:
    """Check that a work directory can be written to, or made, without making it.

    Args:
      workdir: a local path, or one on a mounted store.

    Raises:
      ValueError: if it is a URL.
      OSError: if it can't, with what would do.
    """
    path = Path(paths.local(workdir))
    try:
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
        probe(there)
    except OSError as error:
        raise OSError(
            f"workdir={path} can't be written to ({error.strerror}): name another --workdir, or "
            "mend its permissions or its disk"
        ) from error


def probe(folder: Path) -> None:
    """Write a few bytes in a folder, and take them away again.

    Raises:
      OSError: if that can't be done.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-") as file:
        file.write(b"x" * 4096)
        file.flush()


def write_text(path: Path, text: str) -> None:
    """Write a text file that is there whole or not at all, whatever ends the process.

    Raises:
      OSError: if it can't be written; the file that was there before stays.
    """
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context with the path of a file to write, which then takes the place of `path`.

    The folder is made if needed. What is half written is deleted, also that of processes which
    were killed at it before.

    Raises:
      OSError: if it can't be written; the file that was there before stays.
    """
    partial = partial_of(path)
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            delete_leftovers(path)
            yield partial
            os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):  # which would hide the error that is on its way
            partial.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """Path beside `path` at which this thread writes what is to take its place."""
    writer = f"{socket.gethostname()}-{os.getpid()}.{threading.get_native_id()}"
    return path.with_name(_partial_prefix(path) + writer)


def delete_leftovers(path: Path) -> None:
    """Delete what processes that died while they wrote a file or folder left beside it.

    Args:
      path: of the file or folder, which may be there or not.
    """
    prefix = _partial_prefix(path)
    with contextlib.suppress(OSError):  # of no importance, or told when this process writes
        for found in path.parent.iterdir():
            if found.name.startswith(prefix) and _is_dead(found, found.name.removeprefix(prefix)):
                if found.is_dir():
                    shutil.rmtree(found, ignore_errors=True)
                else:
                    found.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Check before the work that a file or folder can be written, making the folder it lies in.

    Raises:
      ValueError: if it is a URL.
      OSError: of one line, if it can't.
    """
    paths.local(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_of(path).exists()  # raises where the name is too long
        path.exists()
        probe(path.parent)


def _partial_prefix(path: Path) -> str:
    name = path.name
    if len(os.fsencode(name)) > _LONG_NAME:  # so that a name that may be itself may be with more
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return f".{name}.partial-"


def _is_dead(partial: Path, writer: str) -> bool:
    """Tell whether a process that left a partial file is known, or old enough, to be dead."""
    host, _, process = writer.rpartition("-")
    process = process.partition(".")[0]
    if host == socket.gethostname() and process.isdecimal():
        try:
            os.kill(int(process), 0)  # which asks, and does nothing
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False
    return time.time() - partial.stat().st_mtime > _DEAD_SECONDS


def append(file: io.FileIO, data: bytes) -> None:
    """Append to a file that was opened without a buffer, so that a kill loses nothing.

    Raises:
      OSError: if not all of the data could be written.
    """
    with explained(file.name):
        while data:
            data = data[file.write(data) :]


@contextlib.contextmanager
def explained(path: object) -> Iterator[None]:
    """Context in which an OSError of the system names the file and what would help.

    Args:
      path: of the file, or its name.

    Raises:
      OSError: of one line. An error that says what is wrong itself, in words of diffjax, stays.
    """
    try:
        yield
    except Exception as error:
        cause = _system_error(error)
        if cause is None:
            raise
        help_ = _HELP.get(cause.errno or 0, _MEND)
        raise OSError(f"{path} can't be written ({cause.strerror}): {help_}") from error


def _system_error(error: BaseException | None) -> OSError | None:
    """Find the system's error, which zipfile and NumPy may hide behind one of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error
        if isinstance(error, OSError) or error.__suppress_context__:  # raised with words
            return None
        error = error.__context__
    return None
