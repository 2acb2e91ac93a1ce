"""Turns of processes that share a GPU: one computes, the others compile or wait."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Wait for the GPUs of this process, and keep off them whoever of this user takes turns.

    Processes on the same GPUs, by `CUDA_VISIBLE_DEVICES`, share a lock file in the host's folder of
    temporary files, whatever study they are part of.
    """
    gpus = (os.environ.get("CUDA_VISIBLE_DEVICES") or "all").replace(",", "_")
    path = Path(tempfile.gettempdir()) / f"diffjax_{os.getuid()}_turn_of_gpu_{gpus}.lock"
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file ends it
        yield
