"""Losses as pure functions: arrays in, one value for each example out.

No network, no random numbers, no configuration: call the networks, then these, and let `jax.grad`
do the rest. Sums are over all axes but the first; the caller averages over the batch.
"""

from diffjax.losses.denoising import denoising
from diffjax.losses.diff_instruct import diff_instruct
from diffjax.losses.sid import sid

__all__ = ["denoising", "diff_instruct", "sid"]
