"""Turns of processes that share a GPU: one computes, the others compile or wait."""

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path


def gpus() -> list[str]:
    """List the GPUs of this process.

    Returns:
      Those of `CUDA_VISIBLE_DEVICES`, as named there, or all of the host; sorted, each once, since
      nobody waits for a lock of their own. Where there are none, "none" alone.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        found = {each.name.removeprefix("nvidia") for each in Path("/dev").glob("nvidia[0-9]*")}
    else:
        found = {each.strip() for each in given.split(",")} - {""}
    return sorted(found) or ["none"]


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Wait for the GPUs of this process, and keep off them whoever of this user takes turns.

    Each GPU has a lock file in the host's folder of temporary files, so that it matters neither
    which study a process is part of, nor how many GPUs it has.
    """
    folder = Path(tempfile.gettempdir())
    with contextlib.ExitStack() as stack:
        for gpu in gpus():  # in one order for all, so that none waits for one that waits for it
            plain = re.sub(r"[^\w-]", "_", gpu)  # "MIG-…/1/0"
            name = f"diffjax_{os.getuid()}_turn_of_gpu_{plain}.lock"
            file = stack.enter_context((folder / name).open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX)  # closing the file ends it
        yield
