"""Discriminator heads on a denoiser's encoder (Yin et al. 2024, DMD2, arXiv:2405.14867)."""

import flax.linen as nn
import jax.numpy as jnp

from diffjax.interfaces import Array

_SIDE = 8  # of the features that DMD2's head takes to one logit


class DiscriminatorHead(nn.Module):
    """Convolutional head that gives one logit for the features of one level, as DMD2 has it.

    Two convolutions take 8 x 8 features down to one position, each followed by group norm and SiLU;
    a third gives the logit. Larger features are halved first, by a convolution with norm and SiLU
    each time, until they are at most 8 wide, as FastGen has it; smaller ones have a smaller last
    but one. What has more than one position then, of sides that don't halve to 8, has their mean.

    Attributes:
      channels: of the hidden layers; 0 for those of the features. 768 in DMD2 on ImageNet-64.
    """

    channels: int = 0

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Judge features [B, h, w, c] by logits [B], float32."""
        x = features.astype(jnp.float32)
        channels = self.channels or x.shape[-1]
        halvings = 1
        while max(x.shape[1:3]) >> halvings > _SIDE // 2:
            halvings += 1
        for index in range(halvings):
            x = nn.Conv(channels, (4, 4), 2, padding=1, name=f"conv{index}")(x)
            x = self._activated(x, index)
        side = min(_SIDE // 2, *x.shape[1:3])
        x = nn.Conv(channels, (side, side), side, padding=0, name=f"conv{halvings}")(x)
        x = self._activated(x, halvings)
        x = nn.Conv(1, (1, 1), name=f"conv{halvings + 1}")(x)
        return jnp.mean(x, axis=(1, 2, 3))

    def _activated(self, x: Array, index: int) -> Array:
        groups = min(32, max(1, x.shape[-1] // 4))
        return nn.silu(nn.GroupNorm(num_groups=groups, epsilon=1e-5, name=f"norm{index}")(x))


class DiscriminatorHeads(nn.Module):
    """A head a level of an encoder, or one for the last level.

    Attributes:
      levels: how many levels are judged, counted from the coarsest; 0 for all.
      channels: of each head's hidden layers; 0 for those of its features.
    """

    levels: int = 1
    channels: int = 0

    @nn.compact
    def __call__(self, features: tuple[Array, ...]) -> Array:
        """Judge levels of features, each [B, h, w, c], the coarsest last, by logits [B, heads].

        Raises:
          ValueError: if there are fewer levels than are judged.
        """
        if self.levels > len(features):
            raise ValueError(
                f"levels={self.levels} is more than the {len(features)} of the features; take "
                "these at most, or 0 for all."
            )
        judged = features[-self.levels :]
        heads = [
            DiscriminatorHead(self.channels, name=f"head{index}")(level)
            for index, level in enumerate(judged)
        ]
        return jnp.stack(heads, axis=1)
