"""ADM (Dhariwal & Nichol 2021, arXiv:2105.05233) as EDM restates it (its Table 1)."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.networks import blocks, layers

HEAD_CHANNELS = 64


class DhariwalUNet(nn.Module):
    """Raw network F(x; noise label) of ADM.

    Attribute names are EDM's.

    Attributes:
      img_resolution: height and width of the images.
      out_channels: channels of the output.
      label_dim: number of classes; 0 for an unconditional network.
      augment_dim: number of augmentation labels; 0 for none.
      model_channels: channels of the first level over `channel_mult[0]`.
      channel_mult: each level's channels over `model_channels`.
      channel_mult_emb: the embedding's width over `model_channels`.
      num_blocks: residual blocks a level.
      attn_resolutions: resolutions with self-attention, of one head per 64 channels.
      dropout: rate inside the residual blocks.
      label_dropout: rate at which a row of labels is zeroed while training.
      dtype: of the computation; parameters and the embedding are float32.
      attention: "xla" or "cudnn"; see `attention.self_attention`.
      rematerialize: whether blocks are computed again in the backward pass.
    """

    img_resolution: int
    out_channels: int
    label_dim: int = 0
    augment_dim: int = 0
    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    channel_mult_emb: int = 4
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (32, 16, 8)
    dropout: float = 0.10
    label_dropout: float = 0.0
    dtype: Any = jnp.float32
    attention: str = "xla"
    rematerialize: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        noise_labels: Array,
        labels: Array | None = None,
        augment_labels: Array | None = None,
        *,
        train: bool = False,
    ) -> Array:
        """Apply the network.

        Args:
          x: [B, H, W, C] scaled noisy images.
          noise_labels: [B], c_noise(σ).
          labels: [B, label_dim], or None where label_dim is 0.
          augment_labels: [B, augment_dim], or None for zeros.
          train: whether dropout is on (rng "dropout").

        Returns:
          [B, H, W, out_channels] in `dtype`.
        """
        style = self._style
        emb = self._embed(noise_labels, labels, augment_labels, train)
        seeds = blocks.dropout_seeds(self, train)

        x = x.astype(self.dtype)
        skips = []
        for level, mult in enumerate(self.channel_mult):
            if level == 0:
                channels = self.model_channels * mult
                x = style.conv(channels, x.shape[-1], name=f"enc_{self._res(0)}_conv")(x)
            else:
                x = self._block(level, "enc", "down", x.shape[-1], down=True)(x, emb, next(seeds))
            skips.append(x)
            for idx in range(self.num_blocks):
                x = self._block(level, "enc", f"block{idx}", self.model_channels * mult)(
                    x, emb, next(seeds)
                )
                skips.append(x)
            self.sow(layers.FEATURES, f"level{level}", x)

        for level, mult in reversed(list(enumerate(self.channel_mult))):
            if level == len(self.channel_mult) - 1:
                x = self._block(level, "dec", "in0", x.shape[-1], attention=True)(
                    x, emb, next(seeds)
                )
                x = self._block(level, "dec", "in1", x.shape[-1], attention=False)(
                    x, emb, next(seeds)
                )
            else:
                x = self._block(level, "dec", "up", x.shape[-1], up=True)(x, emb, next(seeds))
            for idx in range(self.num_blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = self._block(level, "dec", f"block{idx}", self.model_channels * mult)(
                    x, emb, next(seeds)
                )
        x = style.norm(name="out_norm")(x, silu=True)
        return style.conv(self.out_channels, x.shape[-1], zero=True, name="out_conv")(x)

    @property
    def _style(self) -> blocks.BlockStyle:
        init = layers.kaiming_uniform(math.sqrt(1 / 3))
        return blocks.BlockStyle(
            dropout=self.dropout,
            skip_scale=1.0,
            eps=1e-5,
            resample_filter=(1, 1),
            resample_proj=False,
            adaptive_scale=True,
            init=init,
            init_zero=nn.initializers.zeros,
            init_attn=init,
            bias_init=layers.uniform_bias,
            dtype=self.dtype,
            attention=self.attention,
            rematerialize=self.rematerialize,
        )

    def _res(self, level: int) -> str:
        resolution = self.img_resolution >> level
        return f"{resolution}x{resolution}"

    def _block(
        self,
        level: int,
        side: str,
        name: str,
        channels: int,
        *,
        attention: bool | None = None,
        up: bool = False,
        down: bool = False,
    ) -> Callable[[Array, Array, Array | None], Array]:
        if attention is None:
            attention = self.img_resolution >> level in self.attn_resolutions and not (up or down)
        block = blocks.UNetBlock(
            channels,
            self._style,
            up=up,
            down=down,
            num_heads=channels // HEAD_CHANNELS if attention else 0,
            parent=None,
        )
        return functools.partial(
            blocks.apply_block, self, f"{side}_{self._res(level)}_{name}", block
        )

    def _embed(
        self, noise_labels: Array, labels: Array | None, augment_labels: Array | None, train: bool
    ) -> Array:
        style, emb_channels = self._style, self.model_channels * self.channel_mult_emb
        emb = layers.PositionalEmbedding(self.model_channels, name="map_noise")(
            noise_labels.astype(jnp.float32)
        )
        if self.augment_dim:
            if augment_labels is None:
                augment_labels = jnp.zeros((emb.shape[0], self.augment_dim), jnp.float32)
            emb += nn.Dense(
                self.model_channels,
                use_bias=False,
                kernel_init=nn.initializers.zeros,
                name="map_augment",
            )(augment_labels)
        emb = nn.silu(style.dense(emb_channels, self.model_channels, name="map_layer0")(emb))
        emb = style.dense(emb_channels, emb_channels, name="map_layer1")(emb)
        if self.label_dim:
            assert labels is not None, "labels are needed where label_dim is not 0"
            labels = layers.label_dropout(self, labels, self.label_dropout, train)
            emb += nn.Dense(
                emb_channels,
                use_bias=False,
                kernel_init=layers.kaiming_normal(math.sqrt(self.label_dim)),
                name="map_label",
            )(labels)
        return nn.silu(emb)
