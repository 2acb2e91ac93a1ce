"""Discriminator heads on a denoiser's encoder (Yin et al. 2024, DMD2, arXiv:2405.14867)."""

import flax.linen as nn
import jax.numpy as jnp

from diffjax.interfaces import Array


class DiscriminatorHead(nn.Module):
    """Convolutional head that gives one logit for the features of one level, as DMD2 has it.

    Two convolutions take the height and width down 8 times, each followed by group norm and SiLU;
    a third gives logits. DMD2's features are 8 x 8, where one logit is left; of larger ones it is
    the mean over positions, and smaller ones have a smaller second convolution.

    Attributes:
      channels: of the hidden layers; 0 for those of the features. 768 in DMD2 on ImageNet-64.
    """

    channels: int = 0

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Judge features [B, h, w, c] by logits [B], float32."""
        x = features.astype(jnp.float32)
        channels = self.channels or x.shape[-1]
        x = nn.Conv(channels, (4, 4), 2, padding=1, name="conv0")(x)
        x = nn.silu(self._norm(channels, "norm0")(x))
        side = min(4, *x.shape[1:3])
        x = nn.Conv(channels, (side, side), side, padding=0, name="conv1")(x)
        x = nn.silu(self._norm(channels, "norm1")(x))
        x = nn.Conv(1, (1, 1), name="conv2")(x)
        return jnp.mean(x, axis=(1, 2, 3))

    def _norm(self, channels: int, name: str) -> nn.GroupNorm:
        return nn.GroupNorm(num_groups=min(32, max(1, channels // 4)), epsilon=1e-5, name=name)


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
        """Judge levels of features, each [B, h, w, c], the coarsest last, by logits [B, heads]."""
        judged = features[-self.levels :]
        heads = [
            DiscriminatorHead(self.channels, name=f"head{index}")(level)
            for index, level in enumerate(judged)
        ]
        return jnp.stack(heads, axis=1)
