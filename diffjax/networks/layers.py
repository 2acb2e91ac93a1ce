"""Layers of EDM's U-Nets: initialisation, embeddings, group norm, attention's projections.

Sources: Karras et al. 2022 (EDM, arXiv:2206.00364), which restates the architectures of Song et al.
2021 (DDPM++, NCSN++, arXiv:2011.13456) and Dhariwal & Nichol 2021 (ADM, arXiv:2105.05233) with one
residual block. Module and parameter names follow EDM's, so that conversion is renaming and
transposing alone.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array
from diffjax.networks import group_norm

Initializer = Callable[..., Array]

# Collection in which U-Nets leave their encoder's outputs, "level0" for the finest, if asked for.
FEATURES = "features"


@functools.cache
def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Xavier uniform initializer, variance gain² · 2 / (fan_in + fan_out): DDPM++ and NCSN++."""
    return nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")


@functools.cache
def kaiming_uniform(gain: float = 1.0) -> Initializer:
    """Kaiming uniform initializer, variance gain² / fan_in: ADM."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "uniform")


@functools.cache
def kaiming_normal(gain: float = 1.0) -> Initializer:
    """Kaiming normal initializer, variance gain² / fan_in: ADM's label embedding."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


@functools.cache
def uniform_bias(fan_in: int) -> Initializer:
    """Uniform initializer of biases in ±1/√fan_in: ADM."""

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@functools.cache
def zero_bias(fan_in: int) -> Initializer:
    """Zero initializer of biases: DDPM++ and NCSN++."""
    del fan_in
    return nn.initializers.zeros


class PositionalEmbedding(nn.Module):
    """Sinusoidal embedding of a noise label: [B] -> [B, features], cosines first (DDPM++, ADM).

    Attributes:
      features: number of outputs, even.
      max_positions: the longest period, over 2π.
      endpoint: whether the last frequency is exactly 1 / max_positions.
    """

    features: int
    max_positions: float = 10000.0
    endpoint: bool = False

    def __call__(self, noise_labels: Array) -> Array:
        """Embed noise labels [B] into [B, features]."""
        half = self.features // 2
        exponents = jnp.arange(half, dtype=jnp.float32) / (half - int(self.endpoint))
        freqs = jnp.float32(1 / self.max_positions) ** exponents
        phases = noise_labels[:, None] * freqs[None]
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
        """Embed noise labels [B] into [B, features]."""
        freqs = self.variable("buffers", "freqs", self._init_freqs)
        phases = noise_labels[:, None] * (2 * np.pi * jax.lax.stop_gradient(freqs.value)[None])
        return jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=1)

    def _init_freqs(self) -> Array:
        return self.scale * jax.random.normal(
            self.make_rng("params"), (self.features // 2,), jnp.float32
        )


def label_dropout(module: nn.Module, labels: Array, rate: float, train: bool) -> Array:
    """Zero whole rows of `labels` with probability `rate` while training.

    Args:
      module: bound module whose rng "dropout" draws the rows.
      labels: [B, K].
      rate: in [0, 1).
      train: whether to drop any.

    Returns:
      [B, K].
    """
    if not (train and rate):
        return labels
    kept = jnp.float32(1 - rate)  # whose type decides the draws
    keep = jax.random.bernoulli(module.make_rng("dropout"), kept, (labels.shape[0], 1))
    return labels * keep


class GroupNorm(nn.Module):
    """Group normalisation, by default with EDM's group count: min(32, C // 4) (Wu & He 2018).

    Attributes:
      eps: added to the variance.
      dtype: of the output.
      groups: number of groups, a divisor of C; None for EDM's.
    """

    eps: float = 1e-5
    dtype: Any = jnp.float32
    groups: int | None = None

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
        """Normalise x [B, ..., C] over the channels of each group and all axes between B and C.

        Args:
          x: [B, ..., C].
          shift_before: [B, C], added to x before statistics are taken.
          scale_after: [B, C]; the normalised result is multiplied by 1 + scale_after.
          shift_after: [B, C], added after the scaling.
          silu: whether to apply SiLU after the shift.
          dropout_rate: in [0, 1), of the dropout at the end.
          dropout_seed: [2] uint32, a row of `dropout.seeds`; needed where the rate isn't 0.

        Returns:
          [B, ..., C] of `dtype`.
        """
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        if scale_after is not None:
            scale, bias = scale * (scale_after + 1), bias * (scale_after + 1)
        if shift_after is not None:
            bias = bias + shift_after
        return group_norm.group_norm(
            x.astype(self.dtype),
            scale,
            bias,
            groups=self.groups or min(32, channels // 4),
            eps=self.eps,
            shift=shift_before,
            silu=silu,
            dropout_rate=dropout_rate,
            dropout_seed=dropout_seed,
        )


class QueriesKeysValues(nn.Module):
    """1×1 convolution before attention, with separate results for queries, keys and values.

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
        """Map x [B, H, W, C] to queries, keys and values, each [B, H, W, C]."""
        channels = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (1, 1, channels, 3 * channels), jnp.float32)
        bias = self.param("bias", self.bias_init, (3 * channels,), jnp.float32)
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
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=layout
    ) + bias.reshape(1, 1, 1, -1)
