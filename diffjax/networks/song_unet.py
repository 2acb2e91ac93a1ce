"""DDPM++ and NCSN++ (Song et al. 2021, arXiv:2011.13456) as EDM restates them (its Table 1)."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.networks import blocks, layers, resampling

_Seeds = Iterator[Array | None]
_CHOICES = {
    "embedding_type": ("positional", "fourier"),
    "encoder_type": ("standard", "skip", "residual"),
    "decoder_type": ("standard", "skip"),
}


class SongUNet(nn.Module):
    """Raw network F(x; noise label) of DDPM++ (the defaults) and NCSN++.

    NCSN++ is `embedding_type="fourier"`, `channel_mult_noise=2`, `encoder_type="residual"`,
    `resample_filter=(1, 3, 3, 1)`. Attribute names are EDM's.

    Attributes:
      img_resolution: height and width of the images.
      out_channels: channels of the output.
      label_dim: number of classes; 0 for an unconditional network.
      augment_dim: number of augmentation labels; 0 for none.
      model_channels: channels of the first level.
      channel_mult: each level's channels over `model_channels`.
      channel_mult_emb: the embedding's width over `model_channels`.
      num_blocks: residual blocks a level.
      attn_resolutions: resolutions with self-attention.
      dropout: rate inside the residual blocks.
      label_dropout: rate at which a row of labels is zeroed while training.
      embedding_type: "positional" or "fourier".
      channel_mult_noise: the noise embedding's width over `model_channels`.
      encoder_type: "standard", "skip" or "residual".
      decoder_type: "standard" or "skip".
      resample_filter: taps of the resampling filter.
      dtype: of the computation; parameters and the embedding are float32.
      attention: "xla" or "cudnn"; see `attention.self_attention`.
      rematerialize: whether blocks are computed again in the backward pass.
    """

    img_resolution: int
    out_channels: int
    label_dim: int = 0
    augment_dim: int = 0
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    channel_mult_emb: int = 4
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.10
    label_dropout: float = 0.0
    embedding_type: str = "positional"
    channel_mult_noise: int = 1
    encoder_type: str = "standard"
    decoder_type: str = "standard"
    resample_filter: tuple[float, ...] = (1, 1)
    dtype: Any = jnp.float32
    attention: str = "xla"
    rematerialize: bool = False

    def __post_init__(self) -> None:
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"SongUNet: {field}={getattr(self, field)!r}, not in {choices}.")
        super().__post_init__()

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
        emb = self._embed(noise_labels, labels, augment_labels, train)
        seeds = blocks.dropout_seeds(self, train)
        x, skips = self._encode(x.astype(self.dtype), emb, seeds)
        return self._decode(x, skips, emb, seeds)

    @property
    def _style(self) -> blocks.BlockStyle:
        return blocks.BlockStyle(
            dropout=self.dropout,
            skip_scale=math.sqrt(0.5),
            eps=1e-6,
            resample_filter=self.resample_filter,
            resample_proj=True,
            adaptive_scale=False,
            init=layers.xavier_uniform(),
            init_zero=layers.xavier_uniform(1e-5),
            init_attn=layers.xavier_uniform(math.sqrt(0.2)),
            bias_init=layers.zero_bias,
            dtype=self.dtype,
            attention=self.attention,
            rematerialize=self.rematerialize,
        )

    def _res(self, level: int) -> str:
        resolution = self.img_resolution >> level
        return f"{resolution}x{resolution}"

    def _has_attention(self, level: int) -> bool:
        return self.img_resolution >> level in self.attn_resolutions

    def _block(
        self,
        level: int,
        name: str,
        channels: int,
        *,
        attention: bool = False,
        up: bool = False,
        down: bool = False,
    ) -> Callable[[Array, Array, Array | None], Array]:
        block = blocks.UNetBlock(
            channels, self._style, up=up, down=down, num_heads=int(attention), parent=None
        )
        return functools.partial(blocks.apply_block, self, name.format(res=self._res(level)), block)

    def _embed(
        self, noise_labels: Array, labels: Array | None, augment_labels: Array | None, train: bool
    ) -> Array:
        noise_channels = self.model_channels * self.channel_mult_noise
        if self.embedding_type == "positional":
            embedding: Any = layers.PositionalEmbedding(
                noise_channels, endpoint=True, name="map_noise"
            )
        else:
            embedding = layers.FourierEmbedding(noise_channels, name="map_noise")
        emb = embedding(noise_labels.astype(jnp.float32))
        emb = jnp.roll(emb, noise_channels // 2, axis=1)  # Song et al. put the sines first
        style = self._style
        if self.label_dim:
            assert labels is not None, "labels are needed where label_dim is not 0"
            labels = layers.label_dropout(self, labels, self.label_dropout, train)
            emb += style.dense(noise_channels, self.label_dim, name="map_label")(
                labels * math.sqrt(self.label_dim)
            )
        if self.augment_dim:
            if augment_labels is None:
                augment_labels = jnp.zeros((emb.shape[0], self.augment_dim), jnp.float32)
            emb += nn.Dense(
                noise_channels, use_bias=False, kernel_init=style.init, name="map_augment"
            )(augment_labels)
        emb_channels = self.model_channels * self.channel_mult_emb
        emb = nn.silu(style.dense(emb_channels, noise_channels, name="map_layer0")(emb))
        return nn.silu(style.dense(emb_channels, emb_channels, name="map_layer1")(emb))

    def _encode(self, x: Array, emb: Array, seeds: _Seeds) -> tuple[Array, list[Array]]:
        style, image_channels = self._style, x.shape[-1]
        aux, skips = x, []
        for level, mult in enumerate(self.channel_mult):
            res = self._res(level)
            if level == 0:
                x = style.conv(self.model_channels, image_channels, name=f"enc_{res}_conv")(x)
            else:
                x = self._block(level, "enc_{res}_down", x.shape[-1], down=True)(
                    x, emb, next(seeds)
                )
                if self.encoder_type == "skip":
                    aux = resampling.downsample(aux, self.resample_filter)
                    x = x + style.conv(
                        x.shape[-1], image_channels, kernel=1, name=f"enc_{res}_aux_skip"
                    )(aux)
                elif self.encoder_type == "residual":
                    aux = self._fused_down(aux, x.shape[-1], name=f"enc_{res}_aux_residual")
                    x = aux = (x + aux) * math.sqrt(0.5)
            skips.append(x)
            for idx in range(self.num_blocks):
                x = self._block(
                    level,
                    f"enc_{{res}}_block{idx}",
                    self.model_channels * mult,
                    attention=self._has_attention(level),
                )(x, emb, next(seeds))
                skips.append(x)
            self.sow(layers.FEATURES, f"level{level}", x)
        return x, skips

    def _fused_down(self, x: Array, channels: int, *, name: str) -> Array:
        """Convolve beyond the borders, as far as the filter reaches, then downsample."""
        reach = (len(self.resample_filter) - 1) // 2
        x = self._style.conv(channels, x.shape[-1], padding=1 + reach, name=name)(x)
        return resampling.downsample(x, self.resample_filter, padding=0)

    def _decode(self, x: Array, skips: list[Array], emb: Array, seeds: _Seeds) -> Array:
        image: Array | None = None
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            if level == len(self.channel_mult) - 1:
                x = self._block(level, "dec_{res}_in0", x.shape[-1], attention=True)(
                    x, emb, next(seeds)
                )
                x = self._block(level, "dec_{res}_in1", x.shape[-1])(x, emb, next(seeds))
            else:
                x = self._block(level, "dec_{res}_up", x.shape[-1], up=True)(x, emb, next(seeds))
            for idx in range(self.num_blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = self._block(
                    level,
                    f"dec_{{res}}_block{idx}",
                    self.model_channels * mult,
                    attention=idx == self.num_blocks and self._has_attention(level),
                )(x, emb, next(seeds))
            if self.decoder_type == "skip" or level == 0:
                coarser = (
                    None if image is None else resampling.upsample(image, self.resample_filter)
                )
                image = self._to_image(x, self._res(level))
                image = image if coarser is None else image + coarser
        assert image is not None
        return image

    def _to_image(self, x: Array, res: str) -> Array:
        h = self._style.norm(name=f"dec_{res}_aux_norm")(x, silu=True)
        return self._style.conv(
            self.out_channels, x.shape[-1], zero=True, name=f"dec_{res}_aux_conv"
        )(h)
