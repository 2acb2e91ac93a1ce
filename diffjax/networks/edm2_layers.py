"""Magnitude-preserving layers of EDM2 (Karras et al. 2024, arXiv:2312.02696, appendix B).

A weight is normalised each time that it is used, so that its magnitude says nothing. In training it
is also overwritten by its normalised self before it is used, without gradient: `normalized_weights`
is what a training step then starts from, and `effective_weight` what a layer computes with.

Where an update calls a network several times, `prepared_weights` computes these once for all.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array, Params

_EPS = 1e-4
_SILU_GAIN = 0.596  # root mean square of SiLU of a standard normal


def normalize(x: Array, axes: Sequence[int]) -> Array:
    """Divide by ε + root mean square over some axes, ε = 10⁻⁴.

    The norm is taken in float32 at least. The gradient is finite everywhere: at 0 that of the norm
    is taken to be 0.

    Args:
      x: of any shape.
      axes: over which the mean square is taken.

    Returns:
      Array of the shape and type of x. Since ε is added, doing it again shrinks by 10⁻⁴.
    """
    axes = tuple(axes)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.mean(jnp.square(wide), axis=axes, keepdims=True)
    is_zero = square == 0
    norm = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))
    return x / (_EPS + norm).astype(x.dtype)


def normalize_weight(kernel: Array) -> Array:
    """Normalise each output's weights: [..., in, out] over all axes but the last."""
    return normalize(kernel, range(kernel.ndim - 1))


def normalized_weights(params: Params) -> Params:
    """Normalise all weights of a network, as a training forward pass of EDM2 leaves them.

    A pure function of the parameters, without gradient. An optimiser of EDM2's training steps from
    its result, and the next training forward pass normalises what the step made.

    Args:
      params: nested dicts, in which a weight is called `kernel`; gains and buffers stay.
    """

    def normalized(path: Any, leaf: Array) -> Array:
        is_weight = getattr(path[-1], "key", None) == "kernel"
        return jax.lax.stop_gradient(normalize_weight(leaf)) if is_weight else leaf

    return jax.tree_util.tree_map_with_path(normalized, params)


def effective_weight(kernel: Array, gain: Array | float = 1.0, *, force: bool = False) -> Array:
    """Weight that a layer computes with: normalised, times gain / √fan_in (equations 47 and 66).

    Args:
      kernel: [in, out] or [h, w, in, out].
      gain: scalar.
      force: whether the weight is first overwritten by its normalised self. The gradient is that
        of the overwritten weight, as if it were the parameter.

    Returns:
      float32, of the kernel's shape; the mean square of each output's weights is gain² / fan_in.
    """
    kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    if force:
        held = jax.lax.stop_gradient(kernel)
        kernel = normalize_weight(held) + (kernel - held)
    return normalize_weight(kernel) * (gain / math.sqrt(math.prod(kernel.shape[:-1])))


def prepared_weights(
    params: Params, gains: Mapping[str, str], parts: Mapping[str, int], *, force: bool
) -> Params:
    """Add to each weight what its layer computes with, which the layer then takes from there.

    A pure function of the parameters, whose gradient is that of `effective_weight`.

    Args:
      params: nested dicts, in which a weight is called `kernel`.
      gains: layer -> the parameter beside it that is its gain, where it has one.
      parts: layer -> number of parts that its weight is taken apart into, see `Weight`; else 1.
      force: see `effective_weight`. Layers called with another `force` compute their own.
    """
    found: dict[str, Any] = {}
    for name, tree in params.items():
        if not isinstance(tree, Mapping):
            found[name] = tree
        elif "kernel" in tree:
            gain = params[gains[name]] if name in gains else 1.0
            weight = effective_weight(tree["kernel"], gain, force=force)
            found[name] = {**tree, _prepared(force): _parted(weight, parts.get(name, 1))}
        else:
            found[name] = prepared_weights(tree, gains, parts, force=force)
    return found


def _prepared(force: bool) -> str:
    """Name of a prepared weight, which lies beside its kernel."""
    return "forced" if force else "effective"


def _parted(weight: Array, parts: int) -> tuple[Array, ...]:
    return tuple(weight[..., i::parts] for i in range(parts)) if parts > 1 else (weight,)


def apply_weight(x: Array, weight: Array) -> Array:
    """Multiply [B, in] by a weight [in, out], or convolve [B, H, W, in] with [h, w, in, out].

    Args:
      x: input; zeros lie around an image.
      weight: of any type; the computation is in that of x.
    """
    weight = weight.astype(x.dtype)
    if weight.ndim == 2:
        return x @ weight
    padding = [(size // 2, size // 2) for size in weight.shape[:2]]
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, weight, (1, 1), padding, dimension_numbers=layout)


def mp_silu(x: Array) -> Array:
    """SiLU, scaled so that standard normals keep their magnitude (equation 81)."""
    return nn.silu(x) / _SILU_GAIN


def mp_sum(a: Array, b: Array, t: float = 0.5) -> Array:
    """Blend (1 − t) a + t b, scaled to keep the magnitude of independent inputs (equation 88).

    Args:
      a: of any shape.
      b: of that shape.
      t: share of b, in [0, 1].
    """
    return (a + t * (b - a)) / math.hypot(1 - t, t)


def mp_cat(a: Array, b: Array, t: float = 0.5) -> Array:
    """Concatenate channels, so that the share of b in the magnitude is t (equation 103).

    Args:
      a: [..., N_a].
      b: [..., N_b].
      t: share of b, in [0, 1].

    Returns:
      [..., N_a + N_b], of the magnitude of inputs of equal magnitude.
    """
    size_a, size_b = a.shape[-1], b.shape[-1]
    scale = math.sqrt(size_a + size_b) / math.hypot(1 - t, t)
    scale_a, scale_b = scale / math.sqrt(size_a) * (1 - t), scale / math.sqrt(size_b) * t
    return jnp.concatenate([scale_a * a, scale_b * b], axis=-1)


class Fourier(nn.Module):
    """Random Fourier features √2 cos(f x + φ): [B] -> [B, features] (equation 75).

    Frequencies f and phases φ are buffers: kept with the parameters, never trained.

    Attributes:
      features: number of outputs.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Embed [B] into [B, features], float32."""
        freqs = self.variable("buffers", "freqs", self._init, jax.random.normal)
        phases = self.variable("buffers", "phases", self._init, jax.random.uniform)
        angles = jnp.outer(x.astype(jnp.float32), jax.lax.stop_gradient(freqs.value))
        return math.sqrt(2) * jnp.cos(angles + jax.lax.stop_gradient(phases.value))

    def _init(self, draw: Any) -> Array:
        drawn: Array = draw(self.make_rng("params"), (self.features,), jnp.float32)
        return 2 * np.pi * drawn


class Weight(nn.Module):
    """Weight of a magnitude-preserving layer without bias (equation 47), initially normal.

    Attributes:
      shape: [in, out] or [h, w, in, out].
      force: see `effective_weight`.
      parts: number of parts that it is taken apart into, of which the i-th has every so many-th
        output from i on.
    """

    shape: tuple[int, ...]
    force: bool = False
    parts: int = 1

    @nn.compact
    def __call__(self, gain: Array | float = 1.0) -> tuple[Array, ...]:
        """Give the parts of the weight that is computed with, float32; see `effective_weight`."""
        if self.has_variable("params", _prepared(self.force)):
            prepared: Any = self.get_variable("params", _prepared(self.force))
            return tuple(prepared)
        kernel = self.param("kernel", nn.initializers.normal(1.0), self.shape, jnp.float32)
        return _parted(effective_weight(kernel, gain, force=self.force), self.parts)


def layer(
    x: Array,
    features: int,
    *,
    name: str,
    kernel: int = 0,
    gain: Array | float = 1.0,
    force: bool = False,
) -> Array:
    """Apply a magnitude-preserving layer of the module that is being called.

    Args:
      x: [B, in], or [B, H, W, in].
      features: number of outputs.
      name: of the layer's parameters.
      kernel: width of a convolution's kernel; 0 for a dense layer.
      gain: scalar.
      force: see `effective_weight`.

    Returns:
      [B, features] or [B, H, W, features], of the type of x.
    """
    shape = (*(kernel, kernel) * bool(kernel), x.shape[-1], features)
    (weight,) = Weight(shape, force=force, name=name)(gain)
    return apply_weight(x, weight)
