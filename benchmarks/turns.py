"""Turns of processes that share a GPU: one computes, the others compile or wait.

And shares of the host's cores, which they have in common too.
"""

import contextlib
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
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


def named(numbers: Iterable[str]) -> list[str]:
    """Name GPUs by their numbers among those of this process, for `CUDA_VISIBLE_DEVICES`.

    Args:
      numbers: such as "0"; of the host's GPUs where `CUDA_VISIBLE_DEVICES` doesn't say which.

    Raises:
      ValueError: if it lists no such one.
    """
    numbers = list(numbers)
    given = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if not any(given):
        return numbers
    for number in numbers:
        if not (number.isdecimal() and int(number) < len(given)):
            raise ValueError(
                f"CUDA_VISIBLE_DEVICES={','.join(given)} has no number {number!r}; numbers count "
                "from 0 among those."
            )
    return [given[int(number)] for number in numbers]


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


@contextlib.contextmanager
def alone(path: Path, is_over: Callable[[], bool] = lambda: False) -> Iterator[bool]:
    """Wait until no other process has the lock of a file, and have it.

    Args:
      path: of the file, which is made, its folder too, and stays.
      is_over: asked while it waits, whether to give up.

    Yields:
      False if it gave up.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if is_over():
                    yield False
                    return
                time.sleep(0.2)
                continue
            yield True
            return


def threads(share: float) -> dict[str, str]:
    """Environment of a process whose linear algebra has a share of the host's cores.

    By default each process takes all of them, and many such processes get in one another's way.

    Args:
      share: between 0 and 1.

    Returns:
      Variables, but those that are set already.
    """
    count = str(max(1, int(share * (os.cpu_count() or 1))))
    names = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"
    return {name: count for name in names if name not in os.environ}
