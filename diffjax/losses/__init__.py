"""Losses as pure functions: arrays in, one value for each example out.

No network, no random numbers, no configuration: call the networks, then these, and let `jax.grad`
do the rest. Sums are over all axes but the first, and means those of a discriminator's logits; the
caller averages over the batch. Half precision is summed in float32. Under `jax.vmap` each mapped
array keeps a batch axis of its own, and a weight [B] is mapped with them.
"""

from diffjax.losses._f_divergences import F_DIVERGENCES
from diffjax.losses.denoising import denoising
from diffjax.losses.diff_instruct import diff_instruct
from diffjax.losses.dmd import dmd
from diffjax.losses.f_distill import (
    f_distill,
    f_divergence_weight,
    normalized_f_divergence_weight,
)
from diffjax.losses.fgm import fgm
from diffjax.losses.gan import approximate_r1, gan_discriminator, gan_generator, r1
from diffjax.losses.moment_matching import moment_matching, moment_matching_auxiliary
from diffjax.losses.normalizing_weight import normalizing_weight
from diffjax.losses.sid import sid
from diffjax.losses.sida import sida, sida_gan_discriminator, sida_gan_generator
from diffjax.losses.sim import sim
from diffjax.losses.smd import skewed_logits, smd, smd_critic
from diffjax.losses.uni_instruct import uni_instruct, uni_instruct_released

__all__ = [
    "F_DIVERGENCES",
    "approximate_r1",
    "denoising",
    "diff_instruct",
    "dmd",
    "f_distill",
    "f_divergence_weight",
    "fgm",
    "gan_discriminator",
    "gan_generator",
    "moment_matching",
    "moment_matching_auxiliary",
    "normalized_f_divergence_weight",
    "normalizing_weight",
    "r1",
    "sid",
    "sida",
    "sida_gan_discriminator",
    "sida_gan_generator",
    "sim",
    "skewed_logits",
    "smd",
    "smd_critic",
    "uni_instruct",
    "uni_instruct_released",
]
