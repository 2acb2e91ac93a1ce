"""How much XLA optimises: little in the default run of the tests, most of which compile for longer
than they compute.

What users get is tested too: by tests that take `AS_USERS`, by a notebook, and by `-m slow`.
"""

import os

QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# For `jax.jit`: XLA's defaults, whatever the flags say.
AS_USERS = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


def flags(devices: int) -> str:
    """XLA_FLAGS of a process with so many devices that compiles as this one does."""
    quick = QUICK if QUICK in os.environ.get("XLA_FLAGS", "") else ""
    return f"--xla_force_host_platform_device_count={devices} {quick}".strip()
