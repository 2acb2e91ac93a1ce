"""U-Net of EDM2 (Karras et al. 2024, arXiv:2312.02696, configuration G and its appendix B)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from diffjax.interfaces import Array, Params
from diffjax.networks import blocks, dropout, edm2_layers, layers
from diffjax.networks.attention import self_attention
from diffjax.networks.resampling import downsample, upsample

_Seeds = Iterator[Array | None]

# What a layer's weight is made of besides its kernel, or taken apart into: see `prepared_weights`.
_GAINS = {"emb_linear": "emb_gain", "out_conv": "out_gain"}
_PARTS = {"attn_qkv": 3}


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """Settings that all blocks of a network share; see `EDM2UNet`."""

    dropout: float
    channels_per_head: int
    res_balance: float
    attn_balance: float
    clip_act: float | None
    resample_filter: tuple[float, ...]
    dtype: Any
    attention: str
    rematerialize: bool
    force: bool

    def heads(self, channels: int) -> int:
        """Heads of an attention over so many channels; none where they are too few."""
        return channels // self.channels_per_head


class Block(nn.Module):
    """Residual block of magnitude-preserving layers, with attention or resampling (figure 21).

    Attributes:
      channels: of the output.
      style: what all blocks share.
      decodes: whether it is the decoder's, else the encoder's.
      attends: whether self-attention follows.
      up: whether the resolution is doubled first.
      down: whether it is halved first.
    """

    channels: int
    style: BlockStyle
    decodes: bool = False
    attends: bool = False
    up: bool = False
    down: bool = False

    @nn.compact
    def __call__(self, x: Array, emb: Array, dropout_seed: Array | None = None) -> Array:
        """Map x [B, H, W, C_in] and emb [B, E] to [B, H', W', channels]."""
        style, channels = self.style, self.channels
        conv = functools.partial(edm2_layers.layer, force=style.force)
        if self.up:
            x = upsample(x, style.resample_filter)
        if self.down:
            x = downsample(x, style.resample_filter)
        has_skip = x.shape[-1] != channels
        if not self.decodes:
            if has_skip:
                x = conv(x, channels, kernel=1, name="conv_skip")
            x = edm2_layers.normalize(x, (-1,))

        y = conv(edm2_layers.mp_silu(x), channels, kernel=3, name="conv_res0")
        gain = self.param("emb_gain", nn.initializers.zeros, (), jnp.float32)
        scale = conv(emb, channels, gain=gain, name="emb_linear") + 1
        y = edm2_layers.mp_silu(y * scale[:, None, None].astype(y.dtype))
        if dropout_seed is not None:
            y = dropout.dropout(y, style.dropout, dropout_seed)
        y = conv(y, channels, kernel=3, name="conv_res1")

        if self.decodes and has_skip:
            x = conv(x, channels, kernel=1, name="conv_skip")
        x = edm2_layers.mp_sum(x, y, style.res_balance)
        if self.attends and style.heads(channels):
            y = conv(self._attention(x), channels, kernel=1, name="attn_proj")
            x = edm2_layers.mp_sum(x, y, style.attn_balance)
        return x if style.clip_act is None else jnp.clip(x, -style.clip_act, style.clip_act)

    def _attention(self, x: Array) -> Array:
        """Attend with queries, keys and values that are normalised in each head."""
        style, channels = self.style, self.channels
        heads = style.heads(channels)
        shape = (1, 1, channels, 3 * channels)
        weights = edm2_layers.Weight(shape, force=style.force, parts=3, name="attn_qkv")()

        def one_of(place: int) -> Array:  # channels are ordered (head, channel, q/k/v)
            y = edm2_layers.apply_weight(x, weights[place])
            apart = y.reshape(*y.shape[:-1], heads, channels // heads)
            return edm2_layers.normalize(apart, (-1,)).reshape(y.shape)

        return self_attention(one_of(0), one_of(1), one_of(2), heads, style.attention)


class LogVariance(nn.Module):
    """Log-variance u(σ) of the denoising loss (equations 14 to 22), learned with the network.

    Attributes:
      features: number of Fourier features.
      force: see `edm2_layers.effective_weight`.
    """

    features: int
    force: bool = False

    @nn.compact
    def __call__(self, c_noise: Array) -> Array:
        """Map c_noise [B] to [B], float32."""
        features = edm2_layers.Fourier(self.features, name="fourier")(c_noise)
        return edm2_layers.layer(features, 1, name="linear", force=self.force)[:, 0]


class EDM2UNet(nn.Module):
    """Raw network F(x; noise label) of EDM2. Attribute names are EDM2's.

    Attributes:
      img_resolution: height and width of the images or latents.
      out_channels: channels of the output.
      label_dim: number of classes; 0 for an unconditional network.
      model_channels: channels of the first level: 128, 192, 256, 320, 384 and 448 from XS to XXL.
      channel_mult: each level's channels over `model_channels`.
      channel_mult_noise: Fourier features over `model_channels`; None for the first level's.
      channel_mult_emb: the embedding's width over `model_channels`; None for the widest level's.
      num_blocks: residual blocks a level.
      attn_resolutions: resolutions with self-attention.
      label_balance: share of the classes in the embedding.
      concat_balance: share of the encoder's channels in the decoder's inputs.
      res_balance: share of a block's residual branch.
      attn_balance: share of attention.
      channels_per_head: of attention.
      clip_act: bound on the activations after each block; None for none.
      resample_filter: taps of the resampling filter.
      logvar_channels: Fourier features of the log-variance.
      dropout: rate inside the residual blocks.
      label_dropout: rate at which a row of labels is zeroed while training.
      force_normalization: whether weights are overwritten by their normalised selves in training.
      dtype: of the computation; parameters, their normalisation and the embedding are float32.
      attention: "xla" or "cudnn"; see `attention.self_attention`.
      rematerialize: whether blocks are computed again in the backward pass.
    """

    img_resolution: int
    out_channels: int
    label_dim: int = 0
    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    channel_mult_noise: int | None = None
    channel_mult_emb: int | None = None
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (16, 8)
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attn_balance: float = 0.3
    channels_per_head: int = 64
    clip_act: float | None = 256
    resample_filter: tuple[float, ...] = (1, 1)
    logvar_channels: int = 128
    dropout: float = 0.0
    label_dropout: float = 0.0
    force_normalization: bool = True
    dtype: Any = jnp.float32
    attention: str = "xla"
    rematerialize: bool = False

    augment_dim = 0  # it takes no augmentation labels

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
          augment_labels: None.
          train: whether dropout is on (rng "dropout") and weights are overwritten.

        Returns:
          [B, H, W, out_channels] in `dtype`.
        """
        assert augment_labels is None, "EDM2's networks take no augmentation labels"
        style = self._style(train)
        emb = self._embed(noise_labels.astype(jnp.float32), labels, train)
        if self.is_initializing():  # so that its parameters are there for `log_variance`
            LogVariance(self.logvar_channels, name="logvar")(noise_labels)
        seeds = blocks.dropout_seeds(self, train)
        x, skips = self._encode(x.astype(self.dtype), emb, seeds, style)
        x = self._decode(x, skips, emb, seeds, style)
        gain = self.param("out_gain", nn.initializers.zeros, (), jnp.float32)
        return edm2_layers.layer(
            x, self.out_channels, kernel=3, gain=gain, force=style.force, name="out_conv"
        )

    def log_variance(
        self, variables: Mapping[str, Any], noise_labels: Array, *, train: bool = False
    ) -> Array:
        """Log-variance u(σ) of the denoising loss.

        Args:
          variables: `{"params": …, "buffers": …}` of this network.
          noise_labels: [B], c_noise(σ).
          train: whether weights are overwritten.

        Returns:
          [B] float32.
        """
        force = self._style(train).force
        head = LogVariance(self.logvar_channels, force=force, parent=None)
        own = {name: variables[name]["logvar"] for name in ("params", "buffers")}
        out: Any = head.apply(own, noise_labels)
        return out

    def prepared(self, params: Params) -> Params:
        """Parameters with the weights that training passes compute with, made of them once.

        A pure function. Training passes give the same with its result as with the parameters, and
        its gradient leads on to theirs.

        Args:
          params: of this network, without buffers.
        """
        force = self._style(train=True).force
        return edm2_layers.prepared_weights(params, _GAINS, _PARTS, force=force)

    def _style(self, train: bool) -> BlockStyle:
        return BlockStyle(
            dropout=self.dropout,
            channels_per_head=self.channels_per_head,
            res_balance=self.res_balance,
            attn_balance=self.attn_balance,
            clip_act=self.clip_act,
            resample_filter=self.resample_filter,
            dtype=self.dtype,
            attention=self.attention,
            rematerialize=self.rematerialize,
            force=train and self.force_normalization,
        )

    def _block(
        self, style: BlockStyle, level: int, name: str, channels: int, **kind: Any
    ) -> Callable[[Array, Array, Array | None], Array]:
        size = self.img_resolution >> level
        block = Block(channels, style, **kind, parent=None)
        return functools.partial(blocks.apply_block, self, name.format(f"{size}x{size}"), block)

    def _has_attention(self, level: int) -> bool:
        return self.img_resolution >> level in self.attn_resolutions

    def _embed(self, noise_labels: Array, labels: Array | None, train: bool) -> Array:
        factors = [factor * self.model_channels for factor in self.channel_mult]
        wide = self.channel_mult_noise and self.channel_mult_noise * self.model_channels
        features = edm2_layers.Fourier(wide or factors[0], name="emb_fourier")(noise_labels)
        wide = self.channel_mult_emb and self.channel_mult_emb * self.model_channels
        width = wide or max(factors)
        dense = functools.partial(edm2_layers.layer, force=self._style(train).force)
        emb = dense(features, width, name="emb_noise")
        if self.label_dim:
            assert labels is not None, "labels are needed where label_dim is not 0"
            labels = layers.label_dropout(self, labels, self.label_dropout, train)
            labels = labels.astype(jnp.float32) * math.sqrt(self.label_dim)
            of_classes = dense(labels, width, name="emb_label")
            emb = edm2_layers.mp_sum(emb, of_classes, self.label_balance)
        return edm2_layers.mp_silu(emb)

    def _encode(
        self, x: Array, emb: Array, seeds: _Seeds, style: BlockStyle
    ) -> tuple[Array, list[Array]]:
        # Instead of biases: a channel of ones.
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        skips = []
        for level, mult in enumerate(self.channel_mult):
            channels = self.model_channels * mult
            if level == 0:
                name = f"enc_{self.img_resolution}x{self.img_resolution}_conv"
                x = edm2_layers.layer(x, channels, kernel=3, force=style.force, name=name)
            else:
                down = self._block(style, level, "enc_{}_down", x.shape[-1], down=True)
                x = down(x, emb, next(seeds))
            skips.append(x)
            for idx in range(self.num_blocks):
                attends = self._has_attention(level)
                block = self._block(style, level, f"enc_{{}}_block{idx}", channels, attends=attends)
                x = block(x, emb, next(seeds))
                skips.append(x)
            self.sow(layers.FEATURES, f"level{level}", x)
        return x, skips

    def _decode(
        self, x: Array, skips: list[Array], emb: Array, seeds: _Seeds, style: BlockStyle
    ) -> Array:
        make = functools.partial(self._block, style, decodes=True)
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            if level == len(self.channel_mult) - 1:
                x = make(level, "dec_{}_in0", x.shape[-1], attends=True)(x, emb, next(seeds))
                x = make(level, "dec_{}_in1", x.shape[-1])(x, emb, next(seeds))
            else:
                x = make(level, "dec_{}_up", x.shape[-1], up=True)(x, emb, next(seeds))
            for idx in range(self.num_blocks + 1):
                x = edm2_layers.mp_cat(x, skips.pop(), self.concat_balance)
                block = make(
                    level,
                    f"dec_{{}}_block{idx}",
                    self.model_channels * mult,
                    attends=self._has_attention(level),
                )
                x = block(x, emb, next(seeds))
        return x
