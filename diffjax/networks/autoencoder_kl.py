"""Stable Diffusion's autoencoder of images, AutoencoderKL in Hugging Face's diffusers.

Sources: Rombach et al. 2022 (arXiv:2112.10752); Kingma & Welling 2014 (arXiv:1312.6114). Module and
parameter names follow diffusers', so that conversion is renaming and transposing alone.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.networks import layers
from diffjax.networks import unet_2d_blocks as blocks

DOWN_BLOCK, UP_BLOCK = "DownEncoderBlock2D", "UpDecoderBlock2D"
_EPS = 1e-6
_LOG_VARIANCES = (-30.0, 20.0)  # range that the encoder's are clipped to
_MAX_LEVELS, _MAX_LAYERS, _MAX_CHANNELS = 10, 100, 1 << 16


class LatentLaw(NamedTuple):
    """Law N(mean, exp(log_variance)) of an image's latent.

    Attributes:
      mean: [B, h, w, c].
      log_variance: [B, h, w, c].
    """

    mean: Array
    log_variance: Array

    @property
    def std(self) -> Array:
        """Standard deviation, [B, h, w, c]."""
        return jnp.exp(0.5 * self.log_variance)


class Encoder(nn.Module):
    """Network from images to the moments of their latents.

    Attributes:
      latent_channels: c.
      block_out_channels: of each level, the finest first.
      layers_per_block: residual blocks a level.
      has_attention: whether attention stands between the last two residual blocks.
      style: settings of the blocks.
    """

    latent_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    has_attention: bool
    style: blocks.BlockStyle

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map x [B, H, W, C] to [B, h, w, 2c]."""
        style, last = self.style, len(self.block_out_channels) - 1
        x = style.conv("conv_in", self.block_out_channels[0])(x)
        for i, channels in enumerate(self.block_out_channels):
            level = blocks.DownBlock(
                channels,
                self.layers_per_block,
                style,
                has_attention=False,
                resample="conv" if i < last else "",
                padding=0,
                name=f"down_blocks_{i}",
            )
            x = level(x)[-1]
        x = blocks.MidBlock(style, self.has_attention, name="mid_block")(x)
        return style.conv("conv_out", 2 * self.latent_channels)(_norm_out(style)(x, silu=True))


class Decoder(nn.Module):
    """Network from latents to images.

    Attributes:
      out_channels: C.
      block_out_channels: of each level, the finest first.
      layers_per_block: residual blocks a level, less one.
      has_attention: whether attention stands between the first two residual blocks.
      style: settings of the blocks.
    """

    out_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    has_attention: bool
    style: blocks.BlockStyle

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Map z [B, h, w, c] to [B, H, W, C]."""
        style, last = self.style, len(self.block_out_channels) - 1
        x = style.conv("conv_in", self.block_out_channels[-1])(z)
        x = blocks.MidBlock(style, self.has_attention, name="mid_block")(x)
        for i, channels in enumerate(reversed(self.block_out_channels)):
            level = blocks.UpBlock(
                channels,
                style,
                has_attention=False,
                resample="conv" if i < last else "",
                name=f"up_blocks_{i}",
            )
            x = level(x, [None] * (self.layers_per_block + 1))
        return style.conv("conv_out", self.out_channels)(_norm_out(style)(x, silu=True))


class AutoencoderKL(nn.Module):
    """Variational autoencoder whose latents are images of fewer pixels.

    Attributes are diffusers' settings, with its defaults.

    Attributes:
      in_channels: of the encoder's images.
      out_channels: of the decoder's images.
      down_block_types: of each level of the encoder, the finest first.
      up_block_types: of each level of the decoder, the coarsest first.
      block_out_channels: channels of each level, the finest first.
      layers_per_block: residual blocks a level of the encoder; the decoder has one more.
      act_fn: of the blocks, a key of `unet_2d_blocks.ACTIVATIONS`; the last is SiLU always.
      latent_channels: of the latents.
      norm_num_groups: of the group norms.
      use_quant_conv: whether a convolution of one pixel ends the encoder.
      use_post_quant_conv: whether one begins the decoder.
      mid_block_add_attention: whether there is attention at the least resolution.
      dtype: of the computation; parameters are float32.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = (DOWN_BLOCK,)
    up_block_types: tuple[str, ...] = (UP_BLOCK,)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Refuse settings that aren't read, or don't fit together.

        Raises:
          ValueError: in one line, naming the setting.
        """
        _check(self)
        super().__post_init__()

    @property
    def factor(self) -> int:
        """Pixels of an image to one of its latent, along either axis."""
        return int(2 ** (len(self.block_out_channels) - 1))

    def setup(self) -> None:
        """Make both networks."""
        style = blocks.BlockStyle(
            groups=self.norm_num_groups,
            attention_groups=self.norm_num_groups,
            eps=_EPS,
            activation=self.act_fn,
            scale_shift=False,
            head_dim=None,
            divisor=1.0,
            dtype=self.dtype,
            attention="xla",
        )
        common = (self.block_out_channels, self.layers_per_block, self.mid_block_add_attention)
        self.encoder = Encoder(self.latent_channels, *common, style)
        self.decoder = Decoder(self.out_channels, *common, style)
        if self.use_quant_conv:
            self.quant_conv = nn.Conv(2 * self.latent_channels, (1, 1), dtype=self.dtype)
        if self.use_post_quant_conv:
            self.post_quant_conv = nn.Conv(self.latent_channels, (1, 1), dtype=self.dtype)

    def encode(self, x: Array) -> LatentLaw:
        """Give the law of the latents of images.

        Args:
          x: [B, H, W, in_channels], H and W multiples of `factor`.

        Returns:
          Mean and log-variance, [B, H / factor, W / factor, latent_channels] float32 each.
        """
        moments = self.encoder(x)
        if self.use_quant_conv:
            moments = self.quant_conv(moments)
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return LatentLaw(mean, jnp.clip(log_variance, *_LOG_VARIANCES))

    def decode(self, z: Array) -> Array:
        """Make images of latents.

        Args:
          z: [B, h, w, latent_channels], in the autoencoder's own units.

        Returns:
          [B, factor h, factor w, out_channels] float32, unclipped.
        """
        if self.use_post_quant_conv:
            z = self.post_quant_conv(z)
        return self.decoder(z).astype(jnp.float32)

    def __call__(self, x: Array) -> Array:
        """Map images x to what is decoded of their latents' means, [B, H, W, out_channels]."""
        return self.decode(self.encode(x).mean)


def _norm_out(style: blocks.BlockStyle) -> layers.GroupNorm:
    """Last norm, of the calling module; SiLU follows whatever the other activations are."""
    return layers.GroupNorm(style.eps, style.dtype, style.groups, name="conv_norm_out")


def _check(network: AutoencoderKL) -> None:
    channels = network.block_out_channels
    if not 1 <= len(channels) <= _MAX_LEVELS:
        raise ValueError(
            f"block_out_channels has {len(channels)} levels; 1 to {_MAX_LEVELS} are read"
        )
    for field, known in (("down_block_types", DOWN_BLOCK), ("up_block_types", UP_BLOCK)):
        kinds = getattr(network, field)
        if len(kinds) != len(channels):
            raise ValueError(
                f"{field} has {len(kinds)} levels, and block_out_channels {len(channels)}"
            )
        if other := [kind for kind in kinds if kind != known]:
            raise ValueError(f"{field}: {other[0]!r} isn't read; {known!r} is")
    if not 1 <= network.layers_per_block <= _MAX_LAYERS:
        raise ValueError(
            f"layers_per_block={network.layers_per_block} must lie in [1, {_MAX_LAYERS}]"
        )
    if network.act_fn not in blocks.ACTIVATIONS:
        known_names = ", ".join(map(repr, blocks.ACTIVATIONS))
        raise ValueError(f"act_fn={network.act_fn!r} isn't read; {known_names} are")
    sizes = (*channels, network.in_channels, network.out_channels, network.latent_channels)
    if not all(1 <= size <= _MAX_CHANNELS for size in sizes):
        raise ValueError(f"channels of {max(sizes)} aren't read; 1 to {_MAX_CHANNELS} are")
    groups = network.norm_num_groups
    if groups < 1:
        raise ValueError(f"norm_num_groups={groups} must be positive")
    if off := [each for each in channels if each % groups]:
        raise ValueError(f"norm_num_groups={groups} doesn't divide {off[0]} of block_out_channels")
