"""Digests of files: of a folder's, kept beside them to notice damage, and of what a run read.

Orbax and TensorStore read a flipped byte of an array as another number, without a word.
"""

import datetime
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from diffjax.files import json_values, kinds, writing

FILE = "digests.json"

# Bytes. After each block Python may give way to a thread that traces, so that blocks are large.
_BLOCK = 1 << 26
# Of what a run reads: all of it is hashed up to so many bytes and files, else pieces of it, spread
# evenly, the first and the last among them.
_ALL_BYTES, _ALL_FILES = 1 << 28, 4096
_PIECES, _PIECE = 64, 1 << 20


def write(folder: Path, parts: Iterable[str]) -> None:
    """Write size and SHA-256 of every file to `digests.json` in the folder.

    Args:
      folder: the folder that holds the files.
      parts: names of the files and subfolders in it that count.

    Raises:
      OSError: if a file can't be read, or `digests.json` can't be written.
    """
    paths = [path for part in parts for path in _files(folder / part)]
    listed = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": whole(path)}
        for path in paths
    }
    writing.write_text(folder / FILE, json_values.dumps("digests", listed))


def problem(folder: Path) -> str | None:
    """Describe what is wrong with a folder that `write` was called for.

    Args:
      folder: as it was given to `write`.

    Returns:
      One line that names the first file that is missing or isn't what was written; None if all
      are whole.
    """
    try:
        listed = json.loads((folder / FILE).read_text(encoding="utf-8"))
        expected = [(name, entry["bytes"], entry["sha256"]) for name, entry in listed.items()]
    except FileNotFoundError:
        return f"{FILE} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{FILE} is damaged"
    if not expected:
        return f"{FILE} lists nothing"
    for name, size, sha256 in expected:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            kind = kinds.of(path)
            instead = f" and is {kind.name}: {kind.advice}" if kind and kind.is_refuse else ""
            return f"{name} has {path.stat().st_size} bytes instead of {size}{instead}"
        if whole(path) != sha256:
            return f"{name} isn't what was written: its SHA-256 differs"
    return None


def of_written(folder: Path, part: str, besides: str) -> str:
    """SHA-256 of the digests that `write` wrote, which reads none of the files.

    Args:
      folder: as it was given to `write`.
      part: the file or subfolder whose digests count.
      besides: a text that counts too.

    Raises:
      ValueError: if there are no digests.
    """
    try:
        listed = json.loads((folder / FILE).read_text(encoding="utf-8"))
        lines = [f"{name} {listed[name]['sha256']}\n" for name in sorted(listed)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / FILE} is missing or damaged: make or fetch it again"
        ) from error
    counted = [line for line in lines if line.startswith((f"{part}/", f"{part} "))]
    return hashlib.sha256("".join([*counted, besides]).encode()).hexdigest()


def of_file(path: Path) -> dict[str, Any]:
    """Describe a file's content, of a large one by pieces of it.

    Args:
      path: of the file.

    Returns:
      `bytes`, its size; `modified`, its date; `sha256` of the size and of `hashed` bytes.

    Raises:
      OSError: if it can't be read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    hashed = 0
    with path.open("rb", buffering=0) as file:
        if size <= _ALL_BYTES:
            while block := file.read(_BLOCK):
                digest.update(block)
                hashed += len(block)
        else:
            for position in _spread(size - _PIECE):
                file.seek(position)
                block = file.read(_PIECE)
                digest.update(block)
                hashed += len(block)
    described = {"bytes": size, "hashed": hashed, "sha256": digest.hexdigest()}
    return {**described, "modified": _date(path.stat().st_mtime)}


def of_files(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Describe files of a folder: all names and sizes, and of many or large ones a few contents.

    Args:
      folder: that they lie in.
      names: of the files, relative to it.

    Returns:
      `files`, their number; `bytes`, their size; `modified`, the newest date; `sha256` of names,
      sizes and `hashed` bytes of content.

    Raises:
      OSError: if one of them can't be read.
    """
    names = sorted(names)
    status = [(folder / name).stat() for name in names]
    sizes = [each.st_size for each in status]
    digest = hashlib.sha256(json.dumps([names, sizes]).encode())
    read: Sequence[int] = range(len(names))
    if len(names) > _ALL_FILES or sum(sizes) > _ALL_BYTES:
        read = _spread(len(names) - 1)
    hashed = 0
    for index in read:
        described = of_file(folder / names[index])
        digest.update(described["sha256"].encode())
        hashed += described["hashed"]
    return {
        "files": len(names),
        "bytes": sum(sizes),
        "hashed": hashed,
        "sha256": digest.hexdigest(),
        "modified": _date(max((each.st_mtime for each in status), default=0)),
    }


def of_path(path: Path) -> dict[str, Any]:
    """Describe a file as `of_file` does, or all files of a folder as `of_files` does.

    Raises:
      OSError: if they can't be read.
    """
    if path.is_file():
        return of_file(path)
    return of_files(path, [file.relative_to(path).as_posix() for file in _files(path)])


def _spread(last: int) -> Sequence[int]:
    """Positions from 0 to the last, evenly spread, 64 at most."""
    return sorted({last * index // (_PIECES - 1) for index in range(_PIECES)})


def _date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def whole(path: Path) -> str:
    """SHA-256 of a whole file.

    Raises:
      OSError: if it can't be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
