"""Noise levels, by their short name: see `diffjax.diffusion.noise`."""

from diffjax.diffusion.noise import (
    KarrasUniform,
    LogNormal,
    SigmaDistribution,
    edm_weight,
    heun_sigmas,
    karras_sigma,
    lognormal_sigma,
)

__all__ = [
    "KarrasUniform",
    "LogNormal",
    "SigmaDistribution",
    "edm_weight",
    "heun_sigmas",
    "karras_sigma",
    "lognormal_sigma",
]
