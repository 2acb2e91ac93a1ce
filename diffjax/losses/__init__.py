"""Losses as pure functions: arrays in, one value for each example out.

No network, no random numbers, no configuration: call the networks, then these, and let `jax.grad`
do the rest. Sums are over all axes but the first; the caller averages over the batch. Half
precision is summed in float32. Under `jax.vmap` each mapped array keeps a batch axis of its own,
and a weight [B] is mapped with them.
"""

from diffjax.losses.denoising import denoising
from diffjax.losses.diff_instruct import diff_instruct
from diffjax.losses.sid import sid

__all__ = ["denoising", "diff_instruct", "sid"]
