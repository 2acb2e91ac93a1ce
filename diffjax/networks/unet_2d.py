"""U-Net that Hugging Face's diffusers calls UNet2DModel, in Linen, channels last.

With its simplest blocks it is DDPM's network (Ho et al. 2020, arXiv:2006.11239); with `scale_shift`
and resampling residual blocks that of Dhariwal & Nichol 2021 (arXiv:2105.05233); with blocks that
have skips NCSN++ (Song et al. 2021, arXiv:2011.13456). Attributes are named and have defaults as in
that package's configs.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array
from diffjax.networks import unet_2d_blocks as blocks
from diffjax.networks import unet_2d_settings, unet_2d_skips

_FOURIER_SCALE = 16.0


class UNet2D(nn.Module):
    """Raw network F(x, t, labels) of UNet2DModel; dropout is off.

    Attributes:
      in_channels: channels of the images.
      out_channels: channels of the output.
      center_input_sample: whether images in [0, 1] come, which become 2 x - 1.
      time_embedding_type: "positional"; "fourier", of log t, the output being divided by t;
        "learned", a table over integer t.
      time_embedding_dim: width of the embedding; None for 4 block_out_channels[0].
      freq_shift: subtracted from the number of frequencies, the divisor of their exponents.
      flip_sin_to_cos: whether cosines come before sines.
      down_block_types: levels of the encoder, keys of `unet_2d_settings.DOWN_BLOCKS`.
      mid_block_type: "UNetMidBlock2D", or None for none.
      up_block_types: levels of the decoder, from the least resolution, keys of `UP_BLOCKS` there.
      block_out_channels: channels of the levels, from the greatest resolution.
      layers_per_block: residual blocks a level; the decoder has one more.
      mid_block_scale_factor: divisor of the outputs in the middle.
      downsample_padding: see `unet_2d_blocks.Downsample`.
      downsample_type: how an attention level halves the resolution, "conv" or "resnet".
      upsample_type: how an attention level doubles it.
      act_fn: "silu", "swish", "mish", "gelu" or "relu".
      attention_head_dim: channels of an attention head; None for one head.
      norm_num_groups: groups of the group norms.
      attn_norm_num_groups: groups of the norm before the middle's attention; None for
        norm_num_groups, or for no norm with "scale_shift".
      norm_eps: added to variances.
      resnet_time_scale_shift: "default": the embedding is added before the second norm;
        "scale_shift": it scales and shifts after it.
      add_attention: whether the middle has attention.
      class_embed_type: None; "timestep": labels are embedded as t is; "identity": labels are
        embeddings.
      num_class_embeds: number of classes where class_embed_type is None; None for no classes.
      num_train_timesteps: number of times where the embedding is "learned".
      dtype: of the computation; parameters and the embedding are float32.
      attention: "xla" or "cudnn"; see `attention.self_attention`.

    Raises:
      ValueError: naming the attribute that isn't read, or doesn't fit the others.
    """

    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D", *("AttnDownBlock2D",) * 3)
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = (*("AttnUpBlock2D",) * 3, "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    act_fn: str = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None
    dtype: Any = jnp.float32
    attention: str = "xla"

    def __post_init__(self) -> None:
        unet_2d_settings.check(self)
        super().__post_init__()

    @property
    def is_conditional(self) -> bool:
        """Whether labels are needed."""
        return self.class_embed_type is not None or self.num_class_embeds is not None

    @nn.compact
    def __call__(self, x: Array, t: Array, labels: Array | None = None) -> Array:
        """Apply the network.

        Args:
          x: [B, H, W, in_channels] noisy images, H and W multiples of 2^(levels - 1).
          t: [B] times, integer or floating.
          labels: of classes, [B, num_class_embeds] one-hot, or [B] integers; [B] numbers for
            "timestep"; [B, E] for "identity"; None for an unconditional network.

        Returns:
          [B, H, W, out_channels] in `dtype`.

        Raises:
          ValueError: for labels where there are none, or none where there are.
        """
        emb = self._embed(t, labels)
        if self.center_input_sample:
            x = 2 * x - 1
        style, image = self._style, x.astype(self.dtype)
        x = style.conv("conv_in", self.block_out_channels[0])(image)
        x, skips = self._encode(x, emb, image)
        if self.mid_block_type is not None:
            middle = dataclasses.replace(
                style,
                attention_groups=self._attention_groups_of_middle,
                divisor=self.mid_block_scale_factor,
            )
            x = blocks.MidBlock(middle, self.add_attention, name="mid_block")(x, emb)
        x, image_out = self._decode(x, skips, emb)
        x = dataclasses.replace(style, activation="silu").norm_act("conv_norm_out", x)
        x = style.conv("conv_out", self.out_channels)(x)
        if image_out is not None:
            x = x + image_out
        if self.time_embedding_type == "fourier":
            x = x / jnp.expand_dims(t, (1, 2, 3)).astype(self.dtype)
        return x

    @property
    def _style(self) -> blocks.BlockStyle:
        return blocks.BlockStyle(
            groups=self.norm_num_groups,
            attention_groups=self.norm_num_groups,
            eps=self.norm_eps,
            activation=self.act_fn,
            scale_shift=self.resnet_time_scale_shift == "scale_shift",
            head_dim=self.attention_head_dim,
            divisor=1.0,
            dtype=self.dtype,
            attention=self.attention,
        )

    @property
    def _attention_groups_of_middle(self) -> int | None:
        if self.attn_norm_num_groups is not None or self.resnet_time_scale_shift == "scale_shift":
            return self.attn_norm_num_groups
        return self.norm_num_groups

    def _encode(self, x: Array, emb: Array, image: Array) -> tuple[Array, list[Array]]:
        skips, last = [x], len(self.block_out_channels) - 1
        for i, channels in enumerate(self.block_out_channels):
            kind = unet_2d_settings.kind_of(self.down_block_types[i])
            name, layers = f"down_blocks_{i}", self.layers_per_block
            if kind.has_skips:
                level = unet_2d_skips.SkipDownBlock(
                    channels, layers, self._style, kind.has_attention, i == last, name=name
                )
                outputs, image = level(skips[-1], emb, image)
            else:
                outputs = blocks.DownBlock(
                    channels,
                    layers,
                    self._style,
                    kind.has_attention,
                    "" if i == last else kind.resample or self.downsample_type,
                    self.downsample_padding,
                    name=name,
                )(skips[-1], emb)
            skips += outputs
        return skips[-1], skips

    def _decode(self, x: Array, skips: list[Array], emb: Array) -> tuple[Array, Array | None]:
        last, image = len(self.block_out_channels) - 1, None
        for i, channels in enumerate(reversed(self.block_out_channels)):
            kind = unet_2d_settings.kind_of(self.up_block_types[i])
            name, taken = f"up_blocks_{i}", [skips.pop() for _ in range(self.layers_per_block + 1)]
            if kind.has_skips:
                level = unet_2d_skips.SkipUpBlock(
                    channels, self._style, kind.has_attention, i == last, name=name
                )
                x, image = level(x, taken, emb, image)
            else:
                x = blocks.UpBlock(
                    channels,
                    self._style,
                    kind.has_attention,
                    "" if i == last else kind.resample or self.upsample_type,
                    name=name,
                )(x, taken, emb)
        return x, image

    def _embed(self, t: Array, labels: Array | None) -> Array:
        width = self.time_embedding_dim or 4 * self.block_out_channels[0]
        project = _TimeProjection(
            self.block_out_channels[0],
            self.time_embedding_type,
            self.freq_shift,
            self.flip_sin_to_cos,
            self.num_train_timesteps,
            name="time_proj",
        )
        emb = _TimestepEmbedding(width, name="time_embedding")(project(t))
        if not self.is_conditional:
            if labels is not None:
                raise ValueError("UNet2D: labels for a network without classes")
            return emb
        if labels is None:
            raise ValueError("UNet2D: labels are needed, the network has classes")
        if self.class_embed_type == "identity":
            return emb + labels
        if self.class_embed_type == "timestep":
            return emb + _TimestepEmbedding(width, name="class_embedding")(project(labels))
        assert self.num_class_embeds is not None
        embed = nn.Embed(self.num_class_embeds, width, name="class_embedding")
        return emb + (embed(labels) if labels.ndim == 1 else labels @ embed.embedding)


class _TimeProjection(nn.Module):
    """Features of a time [B], by the fields of `UNet2D`: [B, features], twice that if "fourier"."""

    features: int
    kind: str
    freq_shift: int
    flip_sin_to_cos: bool
    num_times: int | None

    @nn.compact
    def __call__(self, t: Array) -> Array:
        if self.kind == "learned":
            assert self.num_times is not None
            shape = (self.num_times, self.features)
            table: Array = self.param("embedding", nn.initializers.normal(1.0), shape, jnp.float32)
            return table[t.astype(int)]
        t = t.astype(jnp.float32)
        if self.kind == "fourier":
            freqs = self.variable("buffers", "weight", self._init_freqs).value
            phases = jnp.log(t)[:, None] * freqs * (2 * np.pi)
            return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=-1)
        half = self.features // 2
        # In float32 up to the exponent, as the weights were trained: t multiplies the rounding.
        exponents = np.float32(-math.log(10_000)) * np.arange(half, dtype=np.float32)
        exponents /= np.float32(half - self.freq_shift)
        phases = t[:, None] * np.exp(exponents.astype(np.float64)).astype(np.float32)
        parts = [jnp.sin(phases), jnp.cos(phases)]
        features = jnp.concatenate(parts[::-1] if self.flip_sin_to_cos else parts, axis=-1)
        return jnp.pad(features, ((0, 0), (0, self.features % 2)))

    def _init_freqs(self) -> Array:
        key = self.make_rng("params")
        return _FOURIER_SCALE * jax.random.normal(key, (self.features,), jnp.float32)


class _TimestepEmbedding(nn.Module):
    """Two linear layers with SiLU between them: [B, features] -> [B, width]."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.silu(nn.Dense(self.width, name="linear_1")(x))
        return nn.Dense(self.width, name="linear_2")(x)
