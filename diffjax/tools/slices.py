"""TPU slices that can be compiled for without having one."""

import difflib
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

# Memory of a chip in GiB that programs can have, by what libtpu 0.0.42 says when it refuses one;
# some of what https://cloud.google.com/tpu/docs calls "HBM capacity" is its own.
HBM_GIB = {"v4": 30.5, "v5e": 15.75, "v5p": 95.74, "v6e": 31.25}
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
_LAYOUTS = {"v4": _CUBES, "v5e": _FLAT, "v5p": _CUBES, "v6e": _FLAT}
SLICES = tuple(f"{name}:{layout}" for name in HBM_GIB for layout in _LAYOUTS[name])

# libtpu would ask a cloud's server where it is, complain that it is nowhere, and let one process
# use it at a time; a slice that is named is the same anywhere, and compiling takes no device.
_NOWHERE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def describe_slice(name: str) -> tuple[list[jax.Device], int]:
    """Devices of a TPU slice, and the bytes of memory that programs can have on each.

    Args:
      name: generation and layout in chips, such as "v5e:2x2" or "v5p:2x2x1".

    Returns:
      (devices, bytes a device); on v4 JAX sees each half of a chip as a device.

    Raises:
      ModuleNotFoundError: without libtpu.
      ValueError: if there is no such slice, with the nearest that there is.
    """
    generation, _, layout = name.partition(":")
    if generation not in HBM_GIB or not re.fullmatch(r"\d+(x\d+)+", layout):
        raise _no_slice(name)
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError(
            "libtpu, which compiles for TPUs, isn't installed: pip install 'diffjax[tpu]'"
        )
    for variable, value in _NOWHERE.items():
        os.environ.setdefault(variable, value)
    # A host has four chips unless one says otherwise.
    single = math.prod(int(size) for size in layout.split("x")) == 1
    host = {"chips_per_host_bounds": [1, 1, 1]} if single else {}
    try:
        devices: list[Any] = topologies.get_topology_desc(name, "tpu", **host).devices
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise
        raise _no_slice(name) from error
    chips = {tuple(device.coords) for device in devices}
    return devices, int(HBM_GIB[generation] * 2**30) * len(chips) // len(devices)


def _no_slice(name: str) -> ValueError:
    nearest = difflib.get_close_matches(name, SLICES, n=1, cutoff=0.0)[0]
    return ValueError(
        f"--topology={name}: there is no such slice; the nearest is {nearest}. Known are "
        f"{', '.join(HBM_GIB)} with a layout in chips."
    )
