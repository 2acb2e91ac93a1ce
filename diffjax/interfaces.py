"""Vocabulary that all of diffjax shares: array aliases and two protocols."""

from typing import Any, Protocol

import jax

Array = jax.Array
PRNGKey = jax.Array
Params = Any  # a pytree of arrays


class Denoiser(Protocol):
    """Denoiser D(x; σ) ≈ E[x₀ | x₀ + σ n = x], n ~ N(0, I), such as teacher and fake score."""

    def __call__(
        self,
        params: Params,
        x: Array,
        sigma: Array,
        *,
        labels: Array | None = None,
        augment_labels: Array | None = None,
        train: bool = False,
        rng: PRNGKey | None = None,
    ) -> Array:
        """Denoise.

        Args:
          params: the parameters of the denoiser.
          x: [B, ...] noisy data, images being [B, H, W, C] in [-1, 1] plus noise.
          sigma: [B] noise levels, in the units of x.
          labels: [B, K] one-hot classes; None asks for the unconditional answer.
          augment_labels: [B, A] augmentation parameters; None means unaugmented.
          train: whether dropout is on; it then needs `rng`.
          rng: key of the dropout masks.

        Returns:
          [B, ...] float32, the shape of x.
        """
        ...


class Generator(Protocol):
    """Generator x = G(z): a U-Net at a fixed noise level, a GAN, any differentiable sampler."""

    def __call__(
        self,
        params: Params,
        z: Array,
        *,
        labels: Array | None = None,
        train: bool = False,
        rng: PRNGKey | None = None,
    ) -> Array:
        """Generate.

        Args:
          params: the parameters of the generator.
          z: [B, ...] latents ~ N(0, I).
          labels: [B, K] one-hot classes, or None.
          train: whether dropout is on; it then needs `rng`.
          rng: key of the dropout masks.

        Returns:
          [B, ...] float32 data, images being [B, H, W, C] in [-1, 1].
        """
        ...
