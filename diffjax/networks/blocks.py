"""Residual block of EDM's U-Nets (Karras et al. 2022, arXiv:2206.00364).

Module and parameter names follow EDM's, so that conversion is renaming and transposing alone.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffjax.interfaces import Array, Params
from diffjax.networks import dropout, layers
from diffjax.networks.attention import self_attention
from diffjax.networks.layers import Initializer
from diffjax.networks.resampling import downsample, upsample


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """Settings that all residual blocks of one U-Net share.

    Attributes:
      dropout: rate before the second convolution.
      skip_scale: factor after each residual addition.
      eps: of the group norms.
      resample_filter: taps of the resampling filter.
      resample_proj: whether a block that resamples has a 1×1 convolution on its skip even where
        the channels don't change.
      adaptive_scale: whether the embedding scales and shifts (ADM) or only shifts (DDPM++).
      init: of weights.
      init_zero: of the weights before a residual addition.
      init_attn: of the query, key and value weights.
      bias_init: fan_in -> the initializer of biases.
      dtype: of the computation; parameters are float32.
      attention: "xla" or "cudnn"; see `attention.self_attention`.
      rematerialize: whether blocks are computed again in the backward pass, which keeps their
        inputs alone.
    """

    dropout: float
    skip_scale: float
    eps: float
    resample_filter: tuple[float, ...]
    resample_proj: bool
    adaptive_scale: bool
    init: Initializer
    init_zero: Initializer
    init_attn: Initializer
    bias_init: Callable[[int], Initializer]
    dtype: Any
    attention: str = "xla"
    rematerialize: bool = False

    def conv(
        self,
        features: int,
        fan_channels: int,
        *,
        kernel: int = 3,
        padding: int | None = None,
        init: Initializer | None = None,
        zero: bool = False,
        name: str,
    ) -> nn.Conv:
        """Convolution with this style's initialisation.

        Args:
          features: output channels.
          fan_channels: input channels, by which biases are initialised.
          kernel: height and width.
          padding: zeros on each side; None keeps height and width.
          init: of the weights; None is the style's.
          zero: whether a residual addition follows, for which weights are drawn by `init_zero` and
            biases are 0.
          name: of the module among its network's.
        """
        padding = kernel // 2 if padding is None else padding
        bias_init = nn.initializers.zeros if zero else self.bias_init(fan_channels * kernel**2)
        return nn.Conv(
            features,
            (kernel, kernel),
            padding=padding,
            dtype=self.dtype,
            kernel_init=init or (self.init_zero if zero else self.init),
            bias_init=bias_init,
            name=name,
        )

    def queries_keys_values(self, channels: int, *, name: str) -> layers.QueriesKeysValues:
        """Projection to queries, keys and values with this style's initialisation."""
        return layers.QueriesKeysValues(
            self.init_attn, self.bias_init(channels), self.dtype, name=name
        )

    def dense(self, features: int, fan_in: int, *, name: str) -> nn.Dense:
        """Linear layer of the embedding, which is float32 whatever the compute dtype."""
        return nn.Dense(
            features, kernel_init=self.init, bias_init=self.bias_init(fan_in), name=name
        )

    def norm(self, *, name: str) -> layers.GroupNorm:
        """Group norm with this style's epsilon and dtype."""
        return layers.GroupNorm(self.eps, self.dtype, name=name)


class UNetBlock(nn.Module):
    """Residual block: two convolutions, the embedding between them, optional self-attention.

    Attributes:
      out_channels: channels of the output.
      style: settings that the blocks of the network share.
      up: whether to double the resolution.
      down: whether to halve it.
      num_heads: attention heads; 0 for none.
    """

    out_channels: int
    style: BlockStyle
    up: bool = False
    down: bool = False
    num_heads: int = 0

    @nn.compact
    def __call__(self, x: Array, emb: Array, dropout_seed: Array | None = None) -> Array:
        """Apply the block.

        Args:
          x: [B, H, W, C_in].
          emb: [B, E], the embedding of noise level and labels.
          dropout_seed: [2] uint32, or None for no dropout.

        Returns:
          [B, H', W', C_out].
        """
        style, in_channels, channels = self.style, x.shape[-1], self.out_channels
        skip = self._resample(x)
        h = self._resample(style.norm(name="norm0")(x, silu=True))
        h = style.conv(channels, in_channels, name="conv0")(h)

        width = 2 * channels if style.adaptive_scale else channels
        affine = style.dense(width, emb.shape[-1], name="affine")(emb)
        if style.adaptive_scale:
            scale, shift = jnp.split(affine, 2, axis=-1)
            modulation = {"scale_after": scale, "shift_after": shift}
        else:
            modulation = {"shift_before": affine}
        h = style.norm(name="norm1")(
            h,
            **modulation,
            silu=True,
            dropout_rate=0.0 if dropout_seed is None else style.dropout,
            dropout_seed=dropout_seed,
        )
        h = style.conv(channels, channels, zero=True, name="conv1")(h)

        if channels != in_channels or (style.resample_proj and (self.up or self.down)):
            skip = style.conv(channels, in_channels, kernel=1, name="skip")(skip)
        x = (h + skip) * style.skip_scale
        if self.num_heads:
            h = style.norm(name="norm2")(x)
            q, k, v = style.queries_keys_values(channels, name="qkv")(h)
            h = self_attention(q, k, v, self.num_heads, style.attention)
            h = style.conv(channels, channels, kernel=1, zero=True, name="proj")(h)
            x = (h + x) * style.skip_scale
        return x

    def _resample(self, x: Array) -> Array:
        if self.up:
            return upsample(x, self.style.resample_filter)
        if self.down:
            return downsample(x, self.style.resample_filter)
        return x


def dropout_seeds(network: nn.Module, train: bool) -> Iterator[Array | None]:
    """Dropout seed of each block of a U-Net in turn, [2] uint32, or None without dropout.

    Seeds are drawn together, from the rng "dropout": drawn one by one they take a good part of the
    time that XLA compiles for.

    Args:
      network: bound, with the attributes of `SongUNet`.
      train: whether dropout is on.
    """
    if not (train and network.dropout):
        return itertools.repeat(None)
    blocks = len(network.channel_mult) * (2 * network.num_blocks + 3)
    return iter(dropout.seeds(network.make_rng("dropout"), blocks))


def apply_block(
    network: nn.Module,
    name: str,
    block: Any,
    x: Array,
    emb: Array,
    dropout_seed: Array | None,
) -> Array:
    """Apply a block as the part `name` of a network.

    Blocks that are alike are traced once, for all networks of that shape: tracing is most of what
    a start waits for when the compiled update is there already. The program doesn't change.

    Args:
      network: bound.
      name: of the block's parameters among the network's.
      block: not bound; called as `UNetBlock` is, with a `style` that says `rematerialize`.
      x: [B, H, W, C_in].
      emb: [B, E].
      dropout_seed: [2] uint32, or None for no dropout.

    Returns:
      [B, H', W', C_out].
    """
    if network.is_initializing():
        out: Array = block.clone(parent=network, name=name)(x, emb)
        return out
    params: Params = network.get_variable("params", name)
    return _apply_block(block, params, x, emb, dropout_seed)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _apply_block(
    block: Any, params: Params, x: Array, emb: Array, dropout_seed: Array | None
) -> Array:
    def apply(params: Params, x: Array, emb: Array) -> Array:
        out: Any = block.apply({"params": params}, x, emb, dropout_seed)
        return out

    if block.style.rematerialize:
        apply = jax.checkpoint(apply)
    return apply(params, x, emb)
