"""Diffusion: noise levels, preconditioning, samplers and augmentation, without networks."""
