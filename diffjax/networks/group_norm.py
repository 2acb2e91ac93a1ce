"""Group normalisation with what surrounds it in a U-Net, in few passes over memory.

Between its convolutions a residual block is bound by memory. Left to automatic differentiation,
group norm with the embedding's shift before it, and SiLU and dropout after it, reads the
activations many times over. Here only the input is kept for the backward pass, statistics take one
reading, and the rest another.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.networks.dropout import dropout


def group_norm(
    x: Array,
    scale: Array,
    bias: Array,
    *,
    groups: int,
    eps: float = 1e-5,
    shift: Array | None = None,
    silu: bool = False,
    dropout_rate: float = 0.0,
    dropout_seed: Array | None = None,
) -> Array:
    """Group normalisation (Wu & He 2018, arXiv:1803.08494) of `x + shift`.

    Reverse-mode derivatives alone are defined.

    Args:
      x: [B, ..., C] of any floating type.
      scale: [C], or [B, C] where it differs between examples.
      bias: [C] or [B, C].
      groups: number of groups, a divisor of C.
      eps: added to the variance.
      shift: [C] or [B, C], added to x before statistics are taken; None for nothing.
      silu: whether to apply SiLU to the result.
      dropout_rate: of `dropout.dropout`, applied last; in [0, 1).
      dropout_seed: [2] uint32, a row of `dropout.seeds`; needed where the rate isn't 0.

    Returns:
      [B, ..., C] of x's type. Everything in between is float32.
    """
    batch, channels = x.shape[0], x.shape[-1]
    scale, bias, shift = (
        jnp.broadcast_to(jnp.asarray(0.0 if term is None else term, jnp.float32), (batch, channels))
        for term in (scale, bias, shift)
    )
    if dropout_seed is None:
        assert not dropout_rate, "dropout_seed is needed where dropout_rate is not 0"
        dropout_seed = jnp.zeros(2, jnp.uint32)
    settings = _Settings(groups, eps, silu, dropout_rate)
    return _group_norm(x, scale, bias, shift, dropout_seed, settings)


@dataclasses.dataclass(frozen=True)
class _Settings:
    groups: int
    eps: float
    silu: bool
    rate: float


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _group_norm(
    x: Array, scale: Array, bias: Array, shift: Array, seed: Array, settings: _Settings
) -> Array:
    """Group norm whose scale, bias and shift are [B, C] float32, with a hand-written gradient."""
    return _forward(x, scale, bias, shift, seed, settings)[0]


def _forward_and_kept(
    x: Array, scale: Array, bias: Array, shift: Array, seed: Array, settings: _Settings
) -> tuple[Array, "_Residuals"]:
    out, *statistics = _forward(x, scale, bias, shift, seed, settings)
    # Kept is x as it came, since other layers keep it too: reshaped, or come out of a function, it
    # would be a copy where another program makes the pass back.
    return out, (x, scale, bias, seed, *statistics)


_Residuals = tuple[Array, Array, Array, Array, Array, Array, Array]


@functools.partial(jax.jit, static_argnums=5, inline=True)
def _forward(
    x: Array, scale: Array, bias: Array, shift: Array, seed: Array, settings: _Settings
) -> tuple[Array, Array, Array, Array]:
    """Result of the group norm, and the statistics of x that its gradient needs."""
    given, x = x, _flat(x)
    # Sums are of differences from one pixel: E[x²] − E[x]² by itself cancels where the mean is
    # large, and two passes would cost another reading.
    reference = x[:, 0].astype(jnp.float32)
    difference = x.astype(jnp.float32) - reference[:, None]
    count = x.shape[1]
    mean = difference.sum(axis=1) / count
    square = jnp.square(difference).sum(axis=1) / count
    variance = jnp.maximum(square - jnp.square(mean), 0.0)
    means = reference + mean + shift
    group_mean = _group_mean(means, settings.groups)
    offset = means - group_mean
    variance = _group_mean(variance + jnp.square(offset), settings.groups)
    inverse_std = jax.lax.rsqrt(variance + settings.eps)
    centre = group_mean - shift
    out = _affine(_normalise(x, centre, inverse_std), scale, bias)
    if settings.silu:
        out = jax.nn.silu(out)
    out = dropout(out, settings.rate, seed).astype(x.dtype).reshape(given.shape)
    return out, centre, inverse_std, offset * inverse_std


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _backward(
    settings: _Settings, kept: _Residuals, d_out: Array
) -> tuple[Array, Array, Array, Array, None]:
    given, scale, bias, seed, centre, inverse_std, offset = kept
    x, d_out = _flat(given), _flat(d_out)

    def terms(x: Array, d_out: Array) -> tuple[Array, Array]:
        normalised = _normalise(x, centre, inverse_std)
        d_affine = dropout(d_out.astype(jnp.float32), settings.rate, seed)
        if settings.silu:
            d_affine = d_affine * _silu_slope(_affine(normalised, scale, bias))
        return normalised, d_affine

    normalised, d_affine = terms(x, d_out)
    d_bias, d_scale = d_affine.sum(axis=1), (d_affine * normalised).sum(axis=1)
    x, d_out, d_bias, d_scale = _computed_again(x, d_out, d_bias, d_scale)
    normalised, d_affine = terms(x, d_out)
    # What the gradient loses along the group's mean and along its standard deviation.
    along_mean = _group_mean(scale * d_bias, settings.groups)
    along_std = _group_mean(scale * d_scale, settings.groups)
    count = x.shape[1]
    d_normalised = d_affine * scale[:, None] - along_mean[:, None] / count
    dx = (d_normalised - normalised * (along_std[:, None] / count)) * inverse_std[:, None]
    # The sum of dx over pixels, by what is known of its terms.
    d_shift = (scale * d_bias - along_mean - along_std * offset) * inverse_std
    return dx.astype(x.dtype).reshape(given.shape), d_scale, d_bias, d_shift, None


def _computed_again(*arrays: Array) -> tuple[Array, ...]:
    """Bar XLA from reusing what was computed from the arrays before, but for TPUs.

    Left alone, XLA writes the terms of the gradient to memory in float32 on GPUs, where reading x
    and d_out again moves fewer bytes. On TPUs it doesn't, and the barrier costs memory.
    """

    def barrier(*arrays: Array) -> tuple[Array, ...]:
        return jax.lax.optimization_barrier(arrays)

    return jax.lax.platform_dependent(*arrays, tpu=lambda *arrays: arrays, default=barrier)


_group_norm.defvjp(_forward_and_kept, _backward)


def _flat(x: Array) -> Array:
    """Merge the axes between the first and the last: [B, ..., C] -> [B, N, C]."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])


def _normalise(x: Array, centre: Array, inverse_std: Array) -> Array:
    return (x.astype(jnp.float32) - centre[:, None]) * inverse_std[:, None]


def _affine(normalised: Array, scale: Array, bias: Array) -> Array:
    return normalised * scale[:, None] + bias[:, None]


def _silu_slope(x: Array) -> Array:
    sigmoid = jax.nn.sigmoid(x)
    return sigmoid * (1 + x * (1 - sigmoid))


def _group_mean(per_channel: Array, groups: int) -> Array:
    """Mean over each channel's group: [B, C] -> [B, C]."""
    batch, channels = per_channel.shape
    mean = per_channel.reshape(batch, groups, -1).mean(axis=2, keepdims=True)
    return jnp.broadcast_to(mean, (batch, groups, channels // groups)).reshape(batch, channels)
