"""Numerics of a run, which are its own whatever JAX's settings are around it.

JAX reads some of its settings from the environment, such as JAX_ENABLE_X64 or
JAX_DEFAULT_PRNG_IMPL, and a program can change them. Within `own` those that decide a run's
numbers, or whether its code is accepted, have the values that it was written and tested for.
"""

import contextlib
import enum
import json
import os
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import jax

from diffjax.files import writing
from diffjax.interfaces import PRNGKey

FILE = "numerics.json"
RANDOM_BITS = "threefry2x32"

# JAX's own defaults, on which published runs rest. A version of JAX may lack some of them.
SETTINGS: dict[str, Any] = {
    # Which numbers are drawn.
    "jax_default_prng_impl": RANDOM_BITS,
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_enable_custom_prng": False,
    # What is computed with them.
    "jax_enable_x64": False,
    "jax_default_dtype_bits": "64",
    "jax_default_matmul_precision": None,
    "jax_numpy_dtype_promotion": "standard",
    "jax_softmax_custom_jvp": False,
    "jax_default_device": None,
    "eager_constant_folding": False,
    # How it is compiled, and whether at all.
    "jax_disable_jit": False,
    "jax_disable_most_optimizations": False,
    "jax_no_execution": False,
    "jax_no_tracing": False,
    # What is refused. Numbers that aren't finite are a run's own affair.
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
    "jax_debug_key_reuse": False,
    "jax_legacy_prng_key": "allow",
    "jax_numpy_rank_promotion": "allow",
    "jax_transfer_guard": None,
    "jax_transfer_guard_host_to_device": None,
    "jax_transfer_guard_device_to_device": None,
    "jax_transfer_guard_device_to_host": None,
    "jax_thread_guard": False,
}


@contextlib.contextmanager
def own() -> Iterator[list[str]]:
    """Context in which JAX's settings in `SETTINGS` are a run's own, in all threads.

    Yields:
      Those that were otherwise, as "name=value" of the environment's variable.

    Raises:
      ValueError: if a setting can't be changed, since a context such as `jax.enable_x64` holds it.
    """
    held = _others()
    with futures.ThreadPoolExecutor(1) as pool:  # contexts hold a setting in their thread alone
        others = pool.submit(_others).result()
    for name in held:
        if others.get(name) != held[name]:
            raise ValueError(
                f"{name}={held[name]} is held by a context around this call, and a run has its own "
                "settings: make the call outside of it"
            )
    try:
        for name in others:
            jax.config.update(name, SETTINGS[name])
        yield [f"{name.upper()}={value}" for name, value in others.items()]
    finally:
        for name, value in others.items():
            jax.config.update(name, value)


def _others() -> dict[str, Any]:
    """Settings of this thread that aren't a run's."""
    values = jax.config.values
    plain = {k: v.value if isinstance(v, enum.Enum) else v for k, v in values.items()}
    return {k: plain[k] for k, own in SETTINGS.items() if k in plain and plain[k] != own}


def key(seed: int) -> PRNGKey:
    """Key of a seed, of the kind that all runs draw from.

    Args:
      seed: in [0, 2³²).
    """
    return jax.random.key(seed, impl=RANDOM_BITS)


def record(folder: Path, versions: Mapping[str, str]) -> None:
    """Write down what decides a run's numbers besides its config, in `numerics.json`.

    Args:
      folder: of the run.
      versions: of what computes it, by name.

    Raises:
      OSError: if it can't be written.
    """
    decides = {
        **versions,
        "random_bits": f"{RANDOM_BITS}, partitionable",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
    settings = {name: value for name, value in SETTINGS.items() if name in jax.config.values}
    text = json.dumps(decides | settings, indent=2) + "\n"
    writing.write_text(folder / FILE, text)
