"""Units of latents: what a teacher takes for an image, and what an autoencoder makes one of."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array
from diffjax.networks.autoencoder_kl import LatentLaw

_LEVELS = 255
# Over a pixel's level, which is cut to a whole one, so that white stays white when rounding is off.
_NUDGE = 1e-3


@dataclasses.dataclass(frozen=True)
class LatentUnits:
    """Units of a teacher's latents, scale · raw + bias of an autoencoder's raw ones.

    Attributes:
      scale: of all channels, or of each.
      bias: of all channels, or of each.
      has_unit_pixels: whether the autoencoder was given pixels in [0, 1] for the teacher's data,
        and not in [-1, 1].
    """

    scale: tuple[float, ...]
    bias: tuple[float, ...]
    has_unit_pixels: bool = False

    @property
    def channels(self) -> int | None:
        """Number of channels that these units are of; None for any."""
        return len(self.scale) if len(self.scale) > 1 else None

    def to_raw(self, z: Array) -> Array:
        """Latents in the autoencoder's units.

        Args:
          z: [B, h, w, c] in the teacher's.
        """
        return (z - jnp.float32(self.bias)) / jnp.float32(self.scale)

    def from_raw(self, raw: Array) -> Array:
        """Latents in the teacher's units.

        Args:
          raw: [B, h, w, c] in the autoencoder's.
        """
        return raw * jnp.float32(self.scale) + jnp.float32(self.bias)

    def draw(self, law: LatentLaw, noise: Array) -> Array:
        """Latents in the teacher's units, one an image.

        Args:
          law: of the raw latents.
          noise: [B, h, w, c] draws of N(0, 1).
        """
        return self.from_raw(law.mean + law.std * noise)

    def pixels(self, images: Array) -> Array:
        """Pixels as the autoencoder takes them.

        Args:
          images: [B, H, W, C] uint8.
        """
        if self.has_unit_pixels:
            return images.astype(jnp.float32) / _LEVELS
        return images.astype(jnp.float32) / (_LEVELS / 2) - 1

    def images(self, decoded: Array) -> Array:
        """Images in [-1, 1], which `files.images.to_uint8` brings to the levels as published.

        Args:
          decoded: [B, H, W, C] of the autoencoder's decoder.

        Returns:
          [B, H, W, C]; levels are rounded where pixels are in [-1, 1], and cut in [0, 1].
        """
        if not self.has_unit_pixels:
            return decoded
        levels = jnp.clip(decoded, 0, 1) * _LEVELS + _NUDGE
        return (levels - (_LEVELS + 1) / 2) / (_LEVELS / 2)


def scaled(factor: float, shift: float = 0.0) -> LatentUnits:
    """Units (raw − shift) · factor of Stable Diffusion's latents, DiT's and SiT's (0.18215).

    Args:
      factor: `scaling_factor` of diffusers.
      shift: `shift_factor` of diffusers.
    """
    return LatentUnits((factor,), (-shift * factor,))


def standardised(
    mean: tuple[float, ...], std: tuple[float, ...], *, to: float, has_unit_pixels: bool
) -> LatentUnits:
    """Units in which latents have mean 0 and one standard deviation.

    Args:
      mean: of each channel of the raw latents.
      std: of each channel likewise.
      to: the standard deviation to have.
      has_unit_pixels: as `LatentUnits` has it.
    """
    scale = np.float32(to) / np.asarray(std, np.float32)
    bias = -np.asarray(mean, np.float32) * scale
    return LatentUnits(tuple(scale.tolist()), tuple(bias.tolist()), has_unit_pixels)


# Of ImageNet's latents in sd-vae-ft-mse, as EDM2's released networks take them (Karras et al. 2024,
# arXiv:2312.02696).
EDM2 = standardised(
    (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28), to=0.5, has_unit_pixels=True
)
