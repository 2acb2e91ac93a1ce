"""Diffusion: noise levels, preconditioning, processes, samplers, augmentation; no networks."""
