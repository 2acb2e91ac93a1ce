"""Layers that EDM's U-Nets share: embeddings, group norm, resampling, the residual block.

Sources: Karras et al. 2022 (EDM, arXiv:2206.00364), which restates the architectures of Song et al.
2021 (DDPM++, NCSN++, arXiv:2011.13456) and Dhariwal & Nichol 2021 (ADM, arXiv:2105.05233) with one
residual block. Module and parameter names follow EDM's, so that conversion is renaming and
transposing alone.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array, Params
from diffjax.networks import dropout, group_norm
from diffjax.networks.attention import self_attention

Initializer = Callable[..., Array]


@functools.cache
def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Uniform with variance gain² · 2 / (fan_in + fan_out): DDPM++ and NCSN++."""
    return nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")


@functools.cache
def kaiming_uniform(gain: float = 1.0) -> Initializer:
    """Uniform with variance gain² / fan_in: ADM."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "uniform")


@functools.cache
def kaiming_normal(gain: float = 1.0) -> Initializer:
    """Normal with variance gain² / fan_in: ADM's label embedding."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


@functools.cache
def uniform_bias(fan_in: int) -> Initializer:
    """Uniform in ±1/√fan_in: ADM's biases."""

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@functools.cache
def zero_bias(fan_in: int) -> Initializer:
    """Zeros: DDPM++'s and NCSN++'s biases."""
    del fan_in
    return nn.initializers.zeros


class PositionalEmbedding(nn.Module):
    """Sinusoids of a noise label: [B] -> [B, features], cosines first (DDPM++, ADM).

    Attributes:
      features: number of outputs, even.
      max_positions: the longest period, over 2π.
      endpoint: whether the last frequency is exactly 1 / max_positions.
    """

    features: int
    max_positions: float = 10000.0
    endpoint: bool = False

    def __call__(self, noise_labels: Array) -> Array:
        """Embeds noise labels [B]."""
        half = self.features // 2
        exponents = jnp.arange(half, dtype=jnp.float32) / (half - int(self.endpoint))
        freqs = jnp.float32(1 / self.max_positions) ** exponents
        phases = noise_labels[:, None] * freqs
        return jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=1)


class FourierEmbedding(nn.Module):
    """Random Fourier features of a noise label: [B] -> [B, features], cosines first (NCSN++).

    The frequencies are a buffer: kept with the parameters, never trained.

    Attributes:
      features: number of outputs, even.
      scale: standard deviation of the frequencies at initialisation.
    """

    features: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, noise_labels: Array) -> Array:
        """Embeds noise labels [B]."""
        freqs = self.variable("buffers", "freqs", self._init_freqs)
        phases = noise_labels[:, None] * (2 * np.pi * jax.lax.stop_gradient(freqs.value))
        return jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=1)

    def _init_freqs(self) -> Array:
        return self.scale * jax.random.normal(self.make_rng("params"), (self.features // 2,))


def label_dropout(module: nn.Module, labels: Array, rate: float, train: bool) -> Array:
    """Zeroes whole rows of `labels` [B, K] with probability `rate` while training."""
    if not (train and rate):
        return labels
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, (labels.shape[0], 1))
    return labels * keep


class GroupNorm(nn.Module):
    """Group normalisation with EDM's group count: min(32, C // 4) groups (Wu & He 2018).

    Attributes:
      eps: added to the variance.
      dtype: of the output.
    """

    eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        shift_before: Array | None = None,
        scale_after: Array | None = None,
        shift_after: Array | None = None,
        silu: bool = False,
        dropout_rate: float = 0.0,
        dropout_seed: Array | None = None,
    ) -> Array:
        """Normalises x [B, ..., C] over the channels of each group and all between B and C.

        Args:
          x: [B, ..., C].
          shift_before: [B, C], added before.
          scale_after: [B, C]; one more than it is a factor on the result.
          shift_after: [B, C], added to the result after that.
          silu: whether to apply SiLU to that.
          dropout_rate: of dropout at the end.
          dropout_seed: its seed, needed where the rate isn't 0.
        """
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        if scale_after is not None:
            scale, bias = scale * (scale_after + 1), bias * (scale_after + 1)
        if shift_after is not None:
            bias = bias + shift_after
        return group_norm.group_norm(
            x.astype(self.dtype),
            scale,
            bias,
            groups=min(32, channels // 4),
            eps=self.eps,
            shift=shift_before,
            silu=silu,
            dropout_rate=dropout_rate,
            dropout_seed=dropout_seed,
        )


def resample_kernel(taps: Sequence[float]) -> np.ndarray:
    """The one-dimensional factor of a separable resampling filter, summing to 1."""
    kernel = np.asarray(taps, dtype=np.float32)
    return kernel / kernel.sum()


def downsample(x: Array, taps: Sequence[float], padding: int | None = None) -> Array:
    """Filters and keeps every second pixel: [B, H, W, C] -> [B, H/2, W/2, C].

    Args:
      x: [B, H, W, C].
      taps: the separable filter's factor, even in length; it is normalised.
      padding: zeros on each side; the default keeps the output aligned to the input.

    Returns:
      out[i] = Σ_k f[k] x[2i + k − padding] along both spatial axes.
    """
    kernel = resample_kernel(taps)
    padding = (len(kernel) - 1) // 2 if padding is None else padding
    for axis in (1, 2):
        x = _pad(x, axis, padding, padding)
        size = (x.shape[axis] - len(kernel)) // 2 + 1
        terms = (
            float(f) * jax.lax.slice_in_dim(x, k, k + 2 * size - 1, stride=2, axis=axis)
            for k, f in enumerate(kernel)
        )
        x = functools.reduce(jnp.add, terms)
    return x


def upsample(x: Array, taps: Sequence[float]) -> Array:
    """Inserts zeros between pixels and filters: [B, H, W, C] -> [B, 2H, 2W, C].

    Args:
      x: [B, H, W, C].
      taps: the separable filter's factor, even in length; it is normalised, with gain 2 an axis.

    Returns:
      out[j] = 2 Σ_i f[j + p − 2i] x[i] along both spatial axes, p = (len(f) − 1) // 2.
    """
    kernel = 2 * resample_kernel(taps)
    if np.array_equal(kernel, (1, 1)):
        return _repeat(x)
    padding = (len(kernel) - 1) // 2
    margin = len(kernel)
    for axis in (1, 2):
        size = x.shape[axis]
        padded = _pad(x, axis, margin, margin)
        # Even and odd outputs are two short filters of the same input (polyphase form), which
        # costs a quarter of a filter over the zero-stuffed image.
        phases = []
        for phase in (0, 1):
            taps_of_phase = range((phase + padding) % 2, len(kernel), 2)
            phases.append(
                sum(
                    float(kernel[k]) * jax.lax.slice_in_dim(padded, start, start + size, axis=axis)
                    for k in taps_of_phase
                    for start in [margin + (phase + padding - k) // 2]
                )
            )
        x = jnp.stack(phases, axis=axis + 1).reshape(
            *x.shape[:axis], 2 * size, *x.shape[axis + 1 :]
        )
    return x


@jax.custom_vjp
def _repeat(x: Array) -> Array:
    """Each pixel four times, in one pass over memory, which its gradient is too."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def _repeat_backward(_: None, d_out: Array) -> tuple[Array]:
    batch, height, width, channels = d_out.shape
    d = d_out.astype(jnp.float32).reshape(batch, height // 2, 2, width // 2, 2, channels)
    total = d[:, :, 0, :, 0] + d[:, :, 0, :, 1] + d[:, :, 1, :, 0] + d[:, :, 1, :, 1]
    return (total.astype(d_out.dtype),)


_repeat.defvjp(lambda x: (_repeat(x), None), _repeat_backward)


def _pad(x: Array, axis: int, before: int, after: int) -> Array:
    if not before and not after:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths)


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """What all residual blocks of one U-Net share.

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
      attention: see `self_attention`.
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
        """A convolution with this style's initialisation; `zero` for those before an addition."""
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

    def queries_keys_values(self, channels: int, *, name: str) -> "QueriesKeysValues":
        """What attention is given, with this style's initialisation."""
        return QueriesKeysValues(self.init_attn, self.bias_init(channels), self.dtype, name=name)

    def dense(self, features: int, fan_in: int, *, name: str) -> nn.Dense:
        """A linear layer of the embedding, which is float32 whatever the compute dtype."""
        return nn.Dense(
            features, kernel_init=self.init, bias_init=self.bias_init(fan_in), name=name
        )

    def norm(self, *, name: str) -> GroupNorm:
        """A group norm."""
        return GroupNorm(self.eps, self.dtype, name=name)


class QueriesKeysValues(nn.Module):
    """The 1×1 convolution before attention, with a result for each of the three.

    Parameters are those of one `nn.Conv` to 3·C channels, ordered (channel, q/k/v) as in EDM.

    Attributes:
      kernel_init: of the weights [1, 1, C, 3·C].
      bias_init: of the bias [3·C].
      dtype: of the computation; parameters are float32.
    """

    kernel_init: Initializer
    bias_init: Initializer
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Sequence[Array]:
        """Maps x [B, H, W, C] to queries, keys and values of the same shape."""
        channels = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (1, 1, channels, 3 * channels))
        bias = self.param("bias", self.bias_init, (3 * channels,))
        arrays = [array.astype(self.dtype) for array in (x, kernel, bias)]
        # Asked for all at once, the result is taken apart in memory, and its gradient put together,
        # which costs GPUs time. Of three TPUs would reduce more than their gradients over chips.
        results: Sequence[Array] = jax.lax.platform_dependent(*arrays, tpu=_at_once, default=_apart)
        return results


def _apart(x: Array, kernel: Array, bias: Array) -> Sequence[Array]:
    return [_pointwise(x, kernel[..., i::3], bias[i::3]) for i in range(3)]


def _at_once(x: Array, kernel: Array, bias: Array) -> Sequence[Array]:
    together = _pointwise(x, kernel, bias)
    return [together[..., i::3] for i in range(3)]


def _pointwise(x: Array, kernel: Array, bias: Array) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout) + bias


class UNetBlock(nn.Module):
    """EDM's residual block: two convolutions, the embedding between them, optional attention.

    Attributes:
      out_channels: channels of the output.
      style: what the blocks of the network share.
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
        """Maps x [B, H, W, C_in] and emb [B, E] to [B, H', W', C_out], with a seed by dropout."""
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
    """The seed of each block of a U-Net in turn, [2] uint32, or None where there is no dropout.

    They are drawn together, from the rng "dropout": one by one they are a tenth of what XLA's
    passes take.
    """
    if not (train and network.dropout):
        return itertools.repeat(None)
    blocks = len(network.channel_mult) * (2 * network.num_blocks + 3)
    return iter(dropout.seeds(network.make_rng("dropout"), blocks))


def apply_block(
    network: nn.Module,
    name: str,
    block: UNetBlock,
    x: Array,
    emb: Array,
    dropout_seed: Array | None,
) -> Array:
    """Applies a block as the part `name` of a network.

    Blocks that are alike are traced once, for all networks of that shape: tracing is most of what
    a start waits for when the compiled update is there already. The program is the same.

    Args:
      network: bound.
      name: of the block's parameters among the network's.
      block: not bound.
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
    block: UNetBlock, params: Params, x: Array, emb: Array, dropout_seed: Array | None
) -> Array:
    def apply(params: Params, x: Array, emb: Array) -> Array:
        out: Any = block.apply({"params": params}, x, emb, dropout_seed)
        return out

    if block.style.rematerialize:
        apply = jax.checkpoint(apply)
    return apply(params, x, emb)
