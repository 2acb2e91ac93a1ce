"""Blocks of the U-Net that Hugging Face's diffusers calls UNet2DModel.

Module and parameter names follow that package's, so that conversion is renaming and transposing
alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.networks import attention, layers, resampling

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "mish": jax.nn.mish,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
}
IMAGE_CHANNELS = 3  # of the image beside the features, in levels with skips
SKIP_ATTENTION_GROUPS = 32  # of the norm before attention, in levels with skips
_BOX = (1.0, 1.0)  # taps of the mean of 2×2 pixels, and of their repetition


def skip_attention_groups(x: int, skip: int) -> int:
    """Groups of the norm of a concatenation in a decoder's level with attention and skips.

    Other levels have min((x + skip) // 4, 32), which differs where there are few channels.

    Args:
      x: channels that come from the level before.
      skip: channels that come from the encoder.
    """
    return min(x + skip // 4, 32)


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """Settings that all blocks of a network share.

    Attributes:
      groups: of the group norms; None for min(C // 4, 32).
      attention_groups: of the group norm before attention; None for no such norm.
      eps: of the group norms.
      activation: a key of `ACTIVATIONS`.
      scale_shift: whether the embedding scales and shifts after the second norm, rather than being
        added before it.
      head_dim: channels of an attention head; None for one head of all channels.
      divisor: of what a residual block and an attention block give.
      dtype: of the computation; parameters are float32.
      attention: "xla" or "cudnn"; see `attention.self_attention`.
      taps: of the filter with which residual blocks resample.
    """

    groups: int | None
    attention_groups: int | None
    eps: float
    activation: str
    scale_shift: bool
    head_dim: int | None
    divisor: float
    dtype: Any
    attention: str
    taps: tuple[float, ...] = _BOX

    def act(self, x: Array) -> Array:
        """Apply the activation, elementwise."""
        return ACTIVATIONS[self.activation](x)

    def norm_act(self, name: str, x: Array, groups: int | None = None, **affine: Any) -> Array:
        """Group norm of the calling module, and the activation.

        Args:
          name: of the norm.
          x: [B, H, W, C].
          groups: of this norm, where they aren't the style's.
          **affine: shifts and scales as `layers.GroupNorm` takes them.
        """
        is_silu = ACTIVATIONS[self.activation] is jax.nn.silu
        groups = groups or self.groups
        norm = layers.GroupNorm(eps=self.eps, dtype=self.dtype, groups=groups, name=name)
        x = norm(x, silu=is_silu, **affine)
        return x if is_silu else self.act(x)

    def conv(self, name: str, channels: int, size: int = 3) -> nn.Conv:
        """Convolution of the calling module that keeps the resolution."""
        return nn.Conv(channels, (size, size), padding="SAME", dtype=self.dtype, name=name)


class ResnetBlock(nn.Module):
    """Residual block of two convolutions with an embedding between them.

    Attributes:
      channels: of the output.
      style: settings of the network.
      resample: "down" or "up" to halve or double the resolution, "" to keep it.
      has_shortcut: whether a convolution stands beside the block even where channels stay.
      first_groups: groups of the first norm; None for the style's.
    """

    channels: int
    style: BlockStyle
    resample: str = ""
    has_shortcut: bool = False
    first_groups: int | None = None

    @nn.compact
    def __call__(self, x: Array, emb: Array | None = None) -> Array:
        """Map x [B, H, W, C] and emb [B, E], if there is one, to [B, H', W', channels]."""
        style, channels = self.style, self.channels
        h = style.norm_act("norm1", x, self.first_groups)
        if self.resample:
            function = resampling.downsample if self.resample == "down" else resampling.upsample
            x, h = function(x, style.taps), function(h, style.taps)
        h = style.conv("conv1", channels)(h)
        h = self._embed(h, emb)
        h = style.conv("conv2", channels)(h)
        if self.has_shortcut or x.shape[-1] != channels:
            x = style.conv("conv_shortcut", channels, 1)(x)
        return (x + h) / style.divisor

    def _embed(self, h: Array, emb: Array | None) -> Array:
        """Second norm and activation, with the embedding before or after the norm."""
        style = self.style
        if emb is None:
            return style.norm_act("norm2", h)
        width = 2 * self.channels if style.scale_shift else self.channels
        emb = nn.Dense(width, name="time_emb_proj")(style.act(emb))
        if style.scale_shift:
            scale, shift = jnp.split(emb, 2, axis=-1)
            return style.norm_act("norm2", h, scale_after=scale, shift_after=shift)
        return style.norm_act("norm2", h, shift_before=emb)


class AttentionBlock(nn.Module):
    """Self-attention over pixels, added to its input.

    A head has `style.head_dim` channels, and there are as many heads as go into the input's: if
    they don't fill it, queries, keys and values have fewer channels.

    Attributes:
      style: settings of the network.
    """

    style: BlockStyle

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map x [B, H, W, C] to [B, H, W, C]."""
        style, channels = self.style, x.shape[-1]
        dim = style.head_dim or channels
        heads = channels // dim
        h = x
        if style.attention_groups is not None:
            norm = layers.GroupNorm(
                eps=style.eps, dtype=style.dtype, groups=style.attention_groups, name="group_norm"
            )
            h = norm(h)
        q, k, v = (
            nn.Dense(heads * dim, dtype=style.dtype, name=name)(h)
            for name in ("to_q", "to_k", "to_v")
        )
        h = attention.self_attention(q, k, v, heads, style.attention)
        return (x + nn.Dense(channels, dtype=style.dtype, name="to_out_0")(h)) / style.divisor


class Downsample(nn.Module):
    """Convolution of stride 2.

    Attributes:
      padding: 1: a row and a column of zeros on each side; 0: at the end alone.
      dtype: of the computation.
    """

    padding: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map x [B, H, W, C] to [B, H/2, W/2, C]."""
        widths = (self.padding, 1)
        conv = nn.Conv(x.shape[-1], (3, 3), 2, (widths, widths), dtype=self.dtype, name="conv")
        return conv(x)


class Upsample(nn.Module):
    """Repetition of pixels and a convolution.

    Attributes:
      style: settings of the network.
    """

    style: BlockStyle

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map x [B, H, W, C] to [B, 2H, 2W, C]."""
        return self.style.conv("conv", x.shape[-1])(resampling.upsample(x, _BOX))


class DownBlock(nn.Module):
    """Level of the encoder.

    Attributes:
      channels: of the output.
      num_layers: number of residual blocks.
      style: settings of the network.
      has_attention: whether attention follows each residual block.
      resample: how the resolution is halved at the end: "conv", "resnet", "" for not.
      padding: of `Downsample`.
    """

    channels: int
    num_layers: int
    style: BlockStyle
    has_attention: bool
    resample: str
    padding: int

    @nn.compact
    def __call__(self, x: Array, emb: Array | None = None) -> Sequence[Array]:
        """Map x [B, H, W, C] and emb [B, E] or None to all layers' outputs, the last one last."""
        outputs = []
        for i in range(self.num_layers):
            x = ResnetBlock(self.channels, self.style, name=f"resnets_{i}")(x, emb)
            if self.has_attention:
                x = AttentionBlock(self.style, name=f"attentions_{i}")(x)
            outputs.append(x)
        name = "downsamplers_0"
        if self.resample == "conv":
            outputs.append(Downsample(self.padding, self.style.dtype, name=name)(x))
        elif self.resample == "resnet":
            outputs.append(ResnetBlock(self.channels, self.style, "down", name=name)(x, emb))
        return outputs


class MidBlock(nn.Module):
    """Two residual blocks at the least resolution.

    Attributes:
      style: settings of the network.
      has_attention: whether attention stands between them.
    """

    style: BlockStyle
    has_attention: bool

    @nn.compact
    def __call__(self, x: Array, emb: Array | None = None) -> Array:
        """Map x [B, H, W, C] and emb [B, E] or None to [B, H, W, C]."""
        x = ResnetBlock(x.shape[-1], self.style, name="resnets_0")(x, emb)
        if self.has_attention:
            x = AttentionBlock(self.style, name="attentions_0")(x)
        return ResnetBlock(x.shape[-1], self.style, name="resnets_1")(x, emb)


class UpBlock(nn.Module):
    """Level of the decoder.

    Attributes:
      channels: of the output.
      style: settings of the network.
      has_attention: whether attention follows each residual block.
      resample: how the resolution is doubled at the end: "conv", "resnet", "" for not.
    """

    channels: int
    style: BlockStyle
    has_attention: bool
    resample: str

    @nn.compact
    def __call__(self, x: Array, skips: Sequence[Array | None], emb: Array | None = None) -> Array:
        """Map x [B, H, W, C], a skip or None a layer and emb to [B, H', W', channels]."""
        for i, skip in enumerate(skips):
            x = x if skip is None else jnp.concatenate([x, skip], axis=-1)
            x = ResnetBlock(self.channels, self.style, name=f"resnets_{i}")(x, emb)
            if self.has_attention:
                x = AttentionBlock(self.style, name=f"attentions_{i}")(x)
        name = "upsamplers_0"
        if self.resample == "conv":
            x = Upsample(self.style, name=name)(x)
        elif self.resample == "resnet":
            x = ResnetBlock(self.channels, self.style, "up", name=name)(x, emb)
        return x
