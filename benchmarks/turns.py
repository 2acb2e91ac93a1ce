"""Turns of processes that share a GPU: one computes, the others compile or wait."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait for the GPUs of this process, and keep other processes that take turns off them.

    Args:
      folder: that the processes share; a lock file for each set of GPUs
        (`CUDA_VISIBLE_DEVICES`) lies there.
    """
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or "all"
    with (folder / f"turn_of_gpu_{gpus.replace(',', '_')}.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file ends it
        yield
