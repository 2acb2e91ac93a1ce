"""Levels of `UNet2D` that resample an image beside their features, as NCSN++ has them.

Source: Song et al. 2021 (arXiv:2011.13456). Their group norms have min(C // 4, 32) groups, their
outputs are divided by √2, and they resample with the taps (1, 3, 3, 1).
"""

import dataclasses
import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.networks import resampling
from diffjax.networks import unet_2d_blocks as blocks

_TAPS = (1.0, 3.0, 3.0, 1.0)


def _styled(style: blocks.BlockStyle) -> blocks.BlockStyle:
    return dataclasses.replace(
        style,
        groups=None,
        attention_groups=blocks.SKIP_ATTENTION_GROUPS,
        divisor=math.sqrt(2),
        taps=_TAPS,
    )


class SkipDownBlock(nn.Module):
    """Level of the encoder that also takes in a smaller copy of the image.

    Attributes:
      channels: of the output.
      num_layers: number of residual blocks.
      style: settings of the network.
      has_attention: whether attention follows each residual block.
      is_last: whether the resolution stays.
    """

    channels: int
    num_layers: int
    style: blocks.BlockStyle
    has_attention: bool
    is_last: bool

    @nn.compact
    def __call__(self, x: Array, emb: Array, image: Array) -> tuple[Sequence[Array], Array]:
        """Map x [B, H, W, C], emb [B, E], image [B, H, W, 3] to all outputs and the image."""
        style, outputs = _styled(self.style), []
        for i in range(self.num_layers):
            x = blocks.ResnetBlock(self.channels, style, name=f"resnets_{i}")(x, emb)
            if self.has_attention:
                x = blocks.AttentionBlock(style, name=f"attentions_{i}")(x)
            outputs.append(x)
        if not self.is_last:
            down = blocks.ResnetBlock(
                self.channels, style, "down", has_shortcut=True, name="resnet_down"
            )
            image = resampling.downsample(image, _TAPS)
            outputs.append(style.conv("skip_conv", self.channels, 1)(image) + down(x, emb))
        return outputs, image


class SkipUpBlock(nn.Module):
    """Level of the decoder that also adds to an image.

    Attributes:
      channels: of the output.
      style: settings of the network.
      has_attention: whether attention follows the last residual block.
      is_last: whether the resolution stays, and nothing is added.
    """

    channels: int
    style: blocks.BlockStyle
    has_attention: bool
    is_last: bool

    @nn.compact
    def __call__(
        self, x: Array, skips: Sequence[Array], emb: Array, image: Array | None
    ) -> tuple[Array, Array | None]:
        """Map x [B, H, W, C], one skip a layer, emb [B, E] to [B, H', W', channels] and an image.

        The image that comes has half the resolution of x, or is None, and is doubled.
        """
        style = _styled(self.style)
        for i, skip in enumerate(skips):
            groups = None
            if self.has_attention:
                groups = blocks.skip_attention_groups(x.shape[-1], skip.shape[-1])
            x = jnp.concatenate([x, skip], axis=-1)
            block = blocks.ResnetBlock(
                self.channels, style, first_groups=groups, name=f"resnets_{i}"
            )
            x = block(x, emb)
        if self.has_attention:
            x = blocks.AttentionBlock(style, name="attentions_0")(x)
        if image is not None:
            image = resampling.upsample(image, _TAPS)
        if not self.is_last:
            h = dataclasses.replace(style, activation="silu").norm_act("skip_norm", x)
            added = style.conv("skip_conv", blocks.IMAGE_CHANNELS)(h)
            image = added if image is None else image + added
            up = blocks.ResnetBlock(self.channels, style, "up", has_shortcut=True, name="resnet_up")
            x = up(x, emb)
        return x, image
