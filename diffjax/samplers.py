"""Samplers, by their short name: see `diffjax.diffusion.samplers`."""

from diffjax.diffusion.samplers import edm_heun

__all__ = ["edm_heun"]
