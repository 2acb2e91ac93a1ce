"""Adversarial terms: a discriminator's logits, real against generated."""

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.losses import _per_example


def gan_generator(logits: Array) -> Array:
    """Non-saturating loss of a generator, softplus(−ℓ) (Goodfellow et al. 2014).

    Args:
      logits: [B, ...] ℓ at generated data, or at what noise made of it.

    Returns:
      [B] float32 or wider, the mean over all axes but the first, as DMD2, SMD and FastGen have it.
    """
    (logits,) = _per_example.widened(logits)
    return _per_example.mean(jax.nn.softplus(-logits))


def gan_discriminator(real: Array, fake: Array) -> Array:
    """Loss of a discriminator, softplus(−ℓ_real) + softplus(ℓ_fake) (Goodfellow et al. 2014).

    At its minimum the logit is the logarithm of the density ratio, real over generated.

    Args:
      real: [B, ...] ℓ at real data.
      fake: [B, ...] ℓ at generated data; example b of both makes value b.

    Returns:
      [B] float32 or wider, each the mean over all axes but the first.
    """
    real, fake = _per_example.widened(real, fake)
    return _per_example.mean(jax.nn.softplus(-real) + jax.nn.softplus(fake))


def r1(gradient: Array) -> Array:
    """R1 penalty ‖∇ℓ‖² without its factor γ/2 (Mescheder et al. 2018).

    Args:
      gradient: [B, ...] of a real example's logit, the sum of its logits if it has several, with
        respect to that example.

    Returns:
      [B] float32 or wider, summed over all axes but the first.
    """
    (gradient,) = _per_example.widened(gradient)
    return _per_example.total(jnp.square(gradient))


def approximate_r1(logits: Array, perturbed: Array) -> Array:
    """R1 penalty by a finite difference, (ℓ(x) − ℓ(x + εn))², without its factor (Lin et al. 2025).

    FastGen compares the logits of a noised real image with those of the clean image + 0.1 n, both
    at the noised image's level; its factor on CIFAR-10 is 1.

    Args:
      logits: [B, ...] at real data.
      perturbed: [B, ...] at the same data with a little noise on it.

    Returns:
      [B] float32 or wider, the mean over all axes but the first.
    """
    logits, perturbed = _per_example.widened(logits, perturbed)
    return _per_example.mean(jnp.square(logits - perturbed))
