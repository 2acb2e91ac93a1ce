"""What must be said to JAX before it touches a device."""

import os

import jax

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def prepare(*, deterministic: bool, distributed: bool) -> None:
    """Prepares this process; call it before anything asks for devices.

    Args:
      deterministic: makes equal runs equal to the bit on GPUs, at some cost; CPUs are so anyway.
      distributed: joins the other processes of a pod or cluster, whose coordinator JAX finds in
        the environment (TPU pods, SLURM, Open MPI, Kubernetes).
    """
    if deterministic and _DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DETERMINISTIC}".strip()
    if distributed and not jax.distributed.is_initialized():
        jax.distributed.initialize()
