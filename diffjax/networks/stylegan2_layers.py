"""Layers of StyleGAN2: equalised learning rates, and convolutions modulated by a style.

Sources: Karras et al. 2020 (StyleGAN2, arXiv:1912.04958; StyleGAN2-ADA, arXiv:2006.06676) and, for
equalised learning rates, Karras et al. 2018 (arXiv:1710.10196). Parameters are drawn with the
variance 1 / lr_multiplier² and scaled when they are used, so that Adam's steps are of one size
relative to them in every layer. Module and parameter names follow the released networks'.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.networks import resampling

BUFFERS = "buffers"  # collection of what is kept with the parameters and never trained
_EPSILON = 1e-8
_NHWC = ("NHWC", "HWIO", "NHWC")

# Name -> function, and the gain that keeps the second moment of unit normal input.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], float]] = {
    "linear": (lambda x: x, 1.0),
    "relu": (jax.nn.relu, math.sqrt(2)),
    "lrelu": (lambda x: jax.nn.leaky_relu(x, 0.2), math.sqrt(2)),
    "tanh": (jnp.tanh, 1.0),
    "sigmoid": (jax.nn.sigmoid, 1.0),
    "elu": (jax.nn.elu, 1.0),
    "selu": (jax.nn.selu, 1.0),
    "softplus": (jax.nn.softplus, 1.0),
    "swish": (jax.nn.silu, math.sqrt(2)),
}


def activate(x: Array, name: str, *, gain: float = 1.0, clamp: float | None = None) -> Array:
    """Apply an activation, its gain times another, and a bound.

    Args:
      x: of any shape.
      name: a key of `ACTIVATIONS`.
      gain: on top of the activation's own.
      clamp: bound of the result's magnitude; None for none.

    Returns:
      The shape of x.
    """
    function, own_gain = ACTIVATIONS[name]
    x = function(x)
    if own_gain * gain != 1:
        x = x * (own_gain * gain)
    return x if clamp is None else jnp.clip(x, -clamp, clamp)


def normalize_second_moment(x: Array) -> Array:
    """Scale each row to the mean square 1: [B, C] -> [B, C].

    Args:
      x: [B, C].
    """
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=1, keepdims=True) + _EPSILON)


def modulated_conv(
    x: Array,
    kernel: Array,
    styles: Array,
    *,
    demodulate: bool = True,
    up: bool = False,
    taps: Sequence[float] = (1, 3, 3, 1),
    fused: bool = False,
) -> Array:
    """Convolve with a kernel whose input channels are scaled by each example's style.

    Args:
      x: [B, H, W, I]; its type is that of the computation.
      kernel: [K, K, I, O], K odd; 3 where `up`.
      styles: [B, I].
      demodulate: whether each example's kernel is scaled to the norm 1 for each output channel.
      up: whether the resolution is doubled, by a transposed convolution and a filter.
      taps: the separable filter's factor, even in length.
      fused: whether each example gets a kernel of its own, in one grouped convolution. Otherwise
        input and output are scaled around an ordinary one. Results are equal but for rounding.

    Returns:
      [B, H, W, O], or [B, 2H, 2W, O] where `up`.
    """
    scales = None
    if demodulate:
        energy = jnp.sum(jnp.square(kernel), axis=(0, 1))
        norms = jnp.einsum("bi,io->bo", jnp.square(styles), energy, precision="highest")
        scales = jax.lax.rsqrt(norms + _EPSILON)
    if fused:
        kernels = kernel * styles[:, None, None, :, None]
        if scales is not None:
            kernels = kernels * scales[:, None, None, None, :]
        kernels = kernels.astype(x.dtype)
        return jax.vmap(lambda one, own: _conv(one[None], own, up, taps)[0])(x, kernels)
    x = x * styles[:, None, None, :].astype(x.dtype)
    x = _conv(x, kernel.astype(x.dtype), up, taps)
    return x if scales is None else x * scales[:, None, None, :].astype(x.dtype)


def _conv(x: Array, kernel: Array, up: bool, taps: Sequence[float]) -> Array:
    if not up:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_NHWC)
    # All of the transposed convolution, one pixel more than twice the size, which the filter takes
    # off again. It is a convolution proper, so that the kernel is turned around.
    x = jax.lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        (1, 1),
        ((2, 2), (2, 2)),
        lhs_dilation=(2, 2),
        dimension_numbers=_NHWC,
    )
    return resampling.smooth(x, taps, padding=len(taps) // 2 - 1, gain=2.0)


class EqualizedDense(nn.Module):
    """Dense layer at an equalised learning rate: [B, I] -> [B, features].

    Attributes:
      features: number of outputs.
      activation: a key of `layers.ACTIVATIONS`.
      lr_multiplier: learning rate relative to other layers'.
      bias_init: value of the biases at initialisation, as the layer applies them.
    """

    features: int
    activation: str = "linear"
    lr_multiplier: float = 1.0
    bias_init: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map x [B, I] to [B, features]."""
        shape = (x.shape[-1], self.features)
        normal = nn.initializers.normal(1 / self.lr_multiplier)
        constant = nn.initializers.constant(self.bias_init / self.lr_multiplier)
        kernel = self.param("kernel", normal, shape, jnp.float32)
        bias = self.param("bias", constant, (self.features,), jnp.float32)
        kernel = kernel * (self.lr_multiplier / math.sqrt(shape[0]))
        return activate(x @ kernel + self.lr_multiplier * bias, self.activation)


class StyledConv(nn.Module):
    """Modulated 3×3 convolution, noise, bias and activation.

    Attributes:
      features: number of output channels.
      resolution: of the output.
      up: whether it doubles the resolution.
      use_noise: whether it has noise.
      activation: a key of `ACTIVATIONS`.
      conv_clamp: bound of the output's magnitude, before `gain`; None for none.
      taps: of the resampling filter.
      fused: as `modulated_conv` takes it.
    """

    features: int
    resolution: int
    up: bool = False
    use_noise: bool = True
    activation: str = "lrelu"
    conv_clamp: float | None = None
    taps: Sequence[float] = (1, 3, 3, 1)
    fused: bool = False

    @nn.compact
    def __call__(
        self, x: Array, w: Array, *, noise: Array | None, is_const: bool, gain: float = 1.0
    ) -> Array:
        """Map x [B, H, W, I] and w [B, w_dim] to [B, resolution, resolution, features].

        Args:
          x: [B, H, W, I].
          w: [B, w_dim].
          noise: [B, resolution, resolution], unit normal; None for none or the constant.
          is_const: whether the noise is the layer's own constant.
          gain: of the output.
        """
        channels, size = x.shape[-1], self.resolution
        normal = nn.initializers.normal(1.0)
        kernel = self.param("kernel", normal, (3, 3, channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        styles = EqualizedDense(channels, bias_init=1.0, name="affine")(w)
        x = modulated_conv(x, kernel, styles, up=self.up, taps=self.taps, fused=self.fused)
        if self.use_noise:
            strength = self.param("noise_strength", nn.initializers.zeros, (), jnp.float32)
            constant = self.variable(BUFFERS, "noise_const", self._init_noise, (size, size)).value
            if is_const:
                noise = jax.lax.stop_gradient(constant)[None]
            if noise is not None:
                x = x + (noise * strength)[..., None].astype(x.dtype)
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return activate(x + bias.astype(x.dtype), self.activation, gain=gain, clamp=clamp)

    def _init_noise(self, shape: tuple[int, int]) -> Array:
        return jax.random.normal(self.make_rng("params"), shape, jnp.float32)


class ToRGB(nn.Module):
    """Modulated 1×1 convolution to the image's channels, without demodulation.

    Attributes:
      features: channels of the image.
      conv_clamp: bound of the output's magnitude; None for none.
      fused: as `modulated_conv` takes it.
    """

    features: int
    conv_clamp: float | None = None
    fused: bool = False

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        """Map x [B, H, W, I] and w [B, w_dim] to [B, H, W, features]."""
        channels = x.shape[-1]
        normal = nn.initializers.normal(1.0)
        kernel = self.param("kernel", normal, (1, 1, channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        styles = EqualizedDense(channels, bias_init=1.0, name="affine")(w) / math.sqrt(channels)
        x = modulated_conv(x, kernel, styles, demodulate=False, fused=self.fused)
        return activate(x + bias.astype(x.dtype), "linear", clamp=self.conv_clamp)


class UpsamplingSkip(nn.Module):
    """1×1 convolution without bias, upsampled: the shortcut of a residual block.

    Attributes:
      features: number of output channels.
      taps: of the resampling filter.
    """

    features: int
    taps: Sequence[float] = (1, 3, 3, 1)

    @nn.compact
    def __call__(self, x: Array, *, gain: float = 1.0) -> Array:
        """Map x [B, H, W, I] to [B, 2H, 2W, features], times `gain`."""
        channels = x.shape[-1]
        normal: Any = nn.initializers.normal(1.0)
        kernel = self.param("kernel", normal, (1, 1, channels, self.features), jnp.float32)
        kernel = (kernel * (gain / math.sqrt(channels))).astype(x.dtype)
        return resampling.upsample(_conv(x, kernel, False, ()), self.taps)
