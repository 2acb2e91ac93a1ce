"""Writing to a work directory, where files are whole or not there, with errors that help."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

PathLike = str | os.PathLike[str]


def make_writable(workdir: PathLike) -> Path:
    """Make a work directory if needed, and check that files can be written in it.

    Args:
      workdir: a local path, or one on a mounted store.

    Returns:
      The path of the directory.

    Raises:
      ValueError: if it is a URL.
      OSError: if it can't be made or written to, with what would do.
    """
    if "://" in os.fspath(workdir):
        raise ValueError(
            f"{os.fspath(workdir)} is a URL: mount the store and name the mounted path"
        )
    path = Path(workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe(path)
    except OSError as error:
        raise OSError(
            f"workdir={path} can't be written to ({error.strerror}): name another --workdir, or "
            "mend its permissions or its disk"
        ) from error
    return path


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

    Raises:
      OSError: if it can't be written; the file that was there before stays.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with explained(path):
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


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
    """Context in which an OSError names the file and what would help.

    Args:
      path: of the file, or its name.

    Raises:
      OSError: of one line.
    """
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{path} can't be written ({error.strerror or error}): mend that, such as by freeing "
            "space, and the same command goes on"
        ) from error
