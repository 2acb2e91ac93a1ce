"""Starts of a run: the command of each and what computed it, a line each in `W/starts.jsonl`.

It is told, and decides nothing: a run that goes on doesn't read it.
"""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffjax.files import writing

FILE = "starts.jsonl"

# Of this process; empty where the run is begun from Python.
_asked: dict[str, Any] = {}


def asked_by(arguments: Sequence[str], *, config: str, overridden: Sequence[str]) -> None:
    """Keep for the record what this process was asked on its command line.

    Args:
      arguments: after the program's name.
      config: the file that `--config` names.
      overridden: dotted names of the fields that were set besides.
    """
    command = f"python -m diffjax.main {shlex.join(arguments)}"
    _asked.update(command=command, config=config, overridden=list(overridden))


def record(workdir: Path, step: int, versions: Mapping[str, str]) -> None:
    """Add a line for the start that is being made.

    Args:
      workdir: of the run.
      step: updates that were done before.
      versions: of what computes it, by name.

    Raises:
      OSError: if it can't be written.
    """
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    line = {"time": now, "step": step, **_asked, "versions": dict(versions)}
    path = workdir / FILE
    with writing.explained(path), path.open("ab", buffering=0) as file:
        writing.append(file, (json.dumps(line) + "\n").encode())


def read(workdir: Path) -> list[dict[str, Any]]:
    """Read what is known of a run's starts, in order; what isn't a line of it is left out."""
    try:
        text = (workdir / FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        try:
            start = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(start, dict):
            found.append(start)
    return found
