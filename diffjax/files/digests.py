"""Digests of a folder's files, kept beside them to notice damage before it is used.

Orbax and TensorStore read a flipped byte of an array as another number, without a word.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from diffjax.files import json_values, kinds, writing

FILE = "digests.json"

# Bytes. After each block Python may give way to a thread that traces, so that blocks are large.
_BLOCK = 1 << 26


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
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
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
        if _sha256(path) != sha256:
            return f"{name} isn't what was written: its SHA-256 differs"
    return None


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
