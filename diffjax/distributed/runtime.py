"""Preparation of JAX before it touches a device, and how its processes find each other."""

import collections
import hashlib
import math
import os
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
# JAX reads the first itself; all three make a plain host list.
_HOST_LIST = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# JAX's service hears each process every half of its time, so that it may find one dead after half
# of it. `peers`, which say more, need 1.25 times `peer_seconds`.
_JAX_WAITS = 4


class NoDeviceError(ValueError):
    """No device of the kind that is asked for, which another environment would mend."""

    exit_code = 2


def prepare(
    *,
    deterministic: bool,
    distributed: bool,
    peer_seconds: float = 60.0,
    join_seconds: int = 300,
    compilation_cache: str = "",
) -> None:
    """Prepare this process, before anything asks for devices.

    Args:
      deterministic: makes equal runs equal to the bit on GPUs, at some cost; CPUs are so anyway.
        Equal are runs on as many devices of one kind, on a CPU with as many cores.
      distributed: joins the other processes of a pod or cluster. JAX finds them in the environment
        on TPU pods, under SLURM, Open MPI and Kubernetes; anywhere else JAX_COORDINATOR_ADDRESS
        (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID name them.
      peer_seconds: time for which a process may be silent; JAX's own service, which ends processes
        with less to say, waits two to four times as long.
      join_seconds: time to wait for all processes to come.
      compilation_cache: folder where compiled functions are kept for the next start, on the same
        devices with the same versions; "" leaves it to JAX_COMPILATION_CACHE_DIR.

    Raises:
      ValueError: the environment doesn't say which processes there are. If they don't all come,
        this process ends with a line that says so.
      NoDeviceError: JAX finds no device to use, or not as many in all processes.
      OSError: there is no such folder, and it can't be made.
    """
    if deterministic and _DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DETERMINISTIC}".strip()
    if distributed and not jax.distributed.is_initialized():
        _join(peer_seconds, join_seconds)
    if compilation_cache:
        if "://" not in compilation_cache:  # JAX opens stores too
            _make_cache(Path(compilation_cache))
        jax.config.update("jax_compilation_cache_dir", compilation_cache)
        # JAX by itself keeps only what took a second, and a start needs smaller programs too.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    _check_devices()


def _make_cache(folder: Path) -> None:
    """Make a folder in which JAX would keep nothing, with a warning for each program, if it can't.

    One that is there may be read alone.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"compilation_cache={str(folder)!r} can't be a folder ({error.strerror}): name "
            "another, or '' for none"
        ) from error


def _join(peer_seconds: float, join_seconds: int) -> None:
    hosts = _host_list()
    # Beyond its own limit JAX ends the process with a page that doesn't say what was waited for.
    timer = threading.Timer(join_seconds, _end_alone, [join_seconds, hosts])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **hosts,
            initialization_timeout=join_seconds + 60,
            heartbeat_timeout_seconds=math.ceil(_JAX_WAITS * peer_seconds),
        )
    except (ValueError, RuntimeError) as error:
        if "must be called before" in str(error):
            raise ValueError(
                "distributed=True, but JAX was used before the processes met: let the config file, "
                "and what it imports, compute with NumPy"
            ) from error
        raise ValueError(
            f"distributed=True, but the processes can't be found ({error}): on a TPU pod "
            "and under SLURM, Open MPI or Kubernetes JAX finds them; elsewhere set "
            f"{', '.join(_HOST_LIST)}, or distributed=False for a process by itself."
        ) from error
    finally:
        timer.cancel()


def _check_devices() -> None:
    try:
        there = jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter, without a word, of CUDA's alone
        asked = os.environ.get("JAX_PLATFORMS")
        where = f"JAX_PLATFORMS={asked}: " if asked else ""
        why = str(error).partition(" (set JAX_PLATFORMS=")[0] or "no such platform"
        raise NoDeviceError(
            f"{where}JAX finds no device that it can use ({why}); name what is there, such as cpu"
        ) from error
    counts = [*collections.Counter(device.process_index for device in there).values()]
    if len(set(counts)) > 1:
        raise NoDeviceError(f"the processes have {counts} devices: all need as many")


def _end_alone(seconds: int, hosts: dict[str, Any]) -> None:
    where = f" at {hosts['coordinator_address']}" if hosts else ""
    print(
        f"error: after {seconds} s the processes haven't all come together{where}: see which of "
        "them runs, and whether it reaches that address.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def peak_memory_gib() -> float | None:
    """Peak memory of this process on its first device in GiB; None if nobody counts."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] / 2**30 if stats else None


def agree(what: str, value: object) -> None:
    """Check that all processes have one value; all of them call it together.

    Args:
      what: name of the value in an error.
      value: anything with one `repr` for equal values.

    Raises:
      ValueError: naming the processes that differ from process 0.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(repr(value).encode()).digest(), np.uint8)
    digests = np.asarray(multihost_utils.process_allgather(digest))
    differing = [i for i, other in enumerate(digests) if not np.array_equal(other, digests[0])]
    if differing:
        names = ", ".join(map(str, differing))
        raise ValueError(
            f"{what} of process {names} differs from that of process 0: give all processes one "
            "command, one version of the code, the same files, and a work directory that all see."
        )


def _host_list() -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize`; empty where JAX is to look for a cluster.

    Raises:
      ValueError: if a variable is missing or not a number.
    """
    given = {name: os.environ[name] for name in _HOST_LIST if os.environ.get(name)}
    if not given.keys() & set(_HOST_LIST[1:]):
        return {}
    missing = [name for name in _HOST_LIST if name not in given]
    if missing:
        raise ValueError(
            f"{', '.join(sorted(given))} without {', '.join(missing)}: a list of processes needs "
            f"all of {', '.join(_HOST_LIST)}."
        )
    address, count, index = (given[name] for name in _HOST_LIST)
    if not (count.isdecimal() and index.isdecimal() and 0 <= int(index) < int(count)):
        raise ValueError(
            f"JAX_NUM_PROCESSES={count!r}, JAX_PROCESS_ID={index!r}: whole numbers are needed, and "
            "an id from 0 to the number less 1."
        )
    if not address.rpartition(":")[2].isdecimal() or not address.rpartition(":")[0]:
        raise ValueError(
            f"JAX_COORDINATOR_ADDRESS={address!r}: host:port of process 0 is needed, such as "
            "10.0.0.1:1234."
        )
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(index),
        "cluster_detection_method": "deactivate",
    }
