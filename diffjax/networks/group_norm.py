"""Group normalisation with what surrounds it in a U-Net, in few passes over memory.

Between its convolutions a residual block is bound by memory. Left to automatic differentiation,
group norm with the embedding's shift before it, and SiLU and dropout after it, reads the
activations nine times. Here only the input is kept for the backward pass, statistics take one
reading, and the rest another; the kernels of `group_norm_triton` have the second from the cache.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from diffjax.networks.dropout import drop, seed_of
from diffjax.types import Array, PRNGKey

KERNELS = ("xla", "triton", "triton_sums")


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
    dropout_key: PRNGKey | None = None,
    kernels: str = "xla",
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
      dropout_rate: of `dropout.dropout`, applied last.
      dropout_key: its key, needed where the rate isn't 0.
      kernels: "xla", or on NVIDIA GPUs kernels of our own, "triton" for all of it and "triton_sums"
        for its sums over pixels. XLA can't split these: over several devices they need the mesh in
        context (`diffjax.sharding.context`), over all axes of which the batch is split then.

    Returns:
      [B, ..., C] of x's type. Everything in between is float32.
    """
    batch, channels = x.shape[0], x.shape[-1]
    scale, bias, shift = (
        jnp.broadcast_to(jnp.asarray(0.0 if term is None else term, jnp.float32), (batch, channels))
        for term in (scale, bias, shift)
    )
    if dropout_rate:
        assert dropout_key is not None, "dropout_key is needed where dropout_rate is not 0"
        seed = seed_of(dropout_key)
    else:
        seed = jnp.zeros(3, jnp.uint32)
    settings = _Settings(groups, eps, silu, dropout_rate, kernels)
    flat = x.reshape(batch, math.prod(x.shape[1:-1]), channels)
    return _group_norm(flat, scale, bias, shift, seed, settings).reshape(x.shape)


@dataclasses.dataclass(frozen=True)
class _Settings:
    groups: int
    eps: float
    silu: bool
    rate: float
    kernels: str


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _group_norm(
    x: Array, scale: Array, bias: Array, shift: Array, seed: Array, settings: _Settings
) -> Array:
    """The same with x [B, N, C], [B, C] float32 three times, and a seed."""
    return _forward(x, scale, bias, shift, seed, settings)[0]


_Residuals = tuple[Array, Array, Array, Array, Array, Array, Array]


def _forward(
    x: Array, scale: Array, bias: Array, shift: Array, seed: Array, settings: _Settings
) -> tuple[Array, _Residuals]:
    forward = _forward_triton if settings.kernels == "triton" else _forward_xla
    out, centre, inverse_std, offset = forward(x, scale, bias, shift, seed, settings)
    return out, (x, scale, bias, seed, centre, inverse_std, offset)


def _backward(
    settings: _Settings, kept: _Residuals, d_out: Array
) -> tuple[Array, Array, Array, Array, None]:
    x, scale, bias, seed, centre, inverse_std, offset = kept
    backward = _backward_triton if settings.kernels == "triton" else _backward_xla
    dx, d_scale, d_bias = backward(x, d_out, scale, bias, seed, centre, inverse_std, settings)
    # The sum of dx over pixels, by what is known of its terms.
    along_mean = _group_mean(scale * d_bias, settings.groups)
    along_std = _group_mean(scale * d_scale, settings.groups)
    d_shift = (scale * d_bias - along_mean - along_std * offset) * inverse_std
    return dx, d_scale, d_bias, d_shift, None


_group_norm.defvjp(_forward, _backward)


def _forward_xla(
    x: Array, scale: Array, bias: Array, shift: Array, seed: Array, settings: _Settings
) -> tuple[Array, Array, Array, Array]:
    """The output and, [B, C]: what to subtract from x, to multiply by, and a mean after both."""
    count = x.shape[1]
    # Sums are of differences from one pixel: E[x²] − E[x]² by itself cancels where the mean is
    # large, and two passes would cost another reading.
    reference = x[:, 0].astype(jnp.float32)
    sums, squares = _sums(x, reference, settings)
    mean, square = sums / count, squares / count
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
    out = drop(out, settings.rate, seed)
    return out.astype(x.dtype), centre, inverse_std, offset * inverse_std


def _backward_xla(
    x: Array,
    d_out: Array,
    scale: Array,
    bias: Array,
    seed: Array,
    centre: Array,
    inverse_std: Array,
    settings: _Settings,
) -> tuple[Array, Array, Array]:
    """The gradients of x and, an example at a time, of scale and bias."""
    count = x.shape[1]
    normalised = _normalise(x, centre, inverse_std)
    d_affine = drop(d_out.astype(jnp.float32), settings.rate, seed)
    if settings.silu:
        d_affine = d_affine * _silu_slope(_affine(normalised, scale, bias))
    if settings.kernels == "triton_sums":
        from diffjax.networks import group_norm_sums

        kernel = functools.partial(group_norm_sums.backward, silu=settings.silu, rate=settings.rate)
        d_bias, d_scale = _on_each_device(
            kernel, x, d_out, scale, bias, centre, inverse_std, seed=seed
        )
    else:
        d_bias, d_scale = d_affine.sum(axis=1), (d_affine * normalised).sum(axis=1)
    # What the gradient loses along the group's mean and along its standard deviation.
    along_mean = _group_mean(scale * d_bias, settings.groups) / count
    along_std = _group_mean(scale * d_scale, settings.groups) / count
    d_normalised = d_affine * scale[:, None] - along_mean[:, None]
    dx = (d_normalised - normalised * along_std[:, None]) * inverse_std[:, None]
    return dx.astype(x.dtype), d_scale, d_bias


def _sums(x: Array, reference: Array, settings: _Settings) -> Any:
    """Sums over pixels, [B, C], of x − reference and of its square."""
    if settings.kernels == "triton_sums":
        from diffjax.networks import group_norm_sums

        def kernel(x: Array, reference: Array, _: Array) -> Any:
            return group_norm_sums.forward(x, reference)

        return _on_each_device(kernel, x, reference, seed=jnp.zeros(3, jnp.uint32))
    difference = x.astype(jnp.float32) - reference[:, None]
    return difference.sum(axis=1), jnp.square(difference).sum(axis=1)


def _forward_triton(
    x: Array, scale: Array, bias: Array, shift: Array, seed: Array, settings: _Settings
) -> tuple[Array, Array, Array, Array]:
    from diffjax.networks import group_norm_triton

    kernel = functools.partial(
        group_norm_triton.forward,
        groups=settings.groups,
        eps=settings.eps,
        silu=settings.silu,
        rate=settings.rate,
    )
    return _on_each_device(kernel, x, scale, bias, shift, seed=seed)


def _backward_triton(
    x: Array,
    d_out: Array,
    scale: Array,
    bias: Array,
    seed: Array,
    centre: Array,
    inverse_std: Array,
    settings: _Settings,
) -> tuple[Array, Array, Array]:
    from diffjax.networks import group_norm_triton

    kernel = functools.partial(
        group_norm_triton.backward, groups=settings.groups, silu=settings.silu, rate=settings.rate
    )
    return _on_each_device(kernel, x, d_out, scale, bias, centre, inverse_std, seed=seed)


def _on_each_device(kernel: Callable[..., Any], *arrays: Array, seed: Array) -> Any:
    """A kernel, which XLA can't split, on each device's own examples.

    Args:
      kernel: takes arrays [B, ...] and a seed, and returns such arrays; examples don't mix.
      *arrays: split over all axes of the mesh in context, if there is one.
      seed: of `dropout.seed_of`; each device's counts its examples from where they stand.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel(*arrays, seed)
    axes = mesh.axis_names

    def on_one(seed: Array, *arrays: Array) -> Any:
        before = jax.lax.axis_index(axes) * arrays[0].shape[0]
        return kernel(*arrays, seed.at[2].add(before.astype(jnp.uint32)))

    split = PartitionSpec(axes)
    return jax.shard_map(
        on_one,
        in_specs=(PartitionSpec(), *[split] * len(arrays)),
        out_specs=split,
        check_vma=False,  # which would ask the kernels to say it of their results
    )(seed, *arrays)


def _normalise(x: Array, centre: Array, inverse_std: Array) -> Array:
    return (x.astype(jnp.float32) - centre[:, None]) * inverse_std[:, None]


def _affine(normalised: Array, scale: Array, bias: Array) -> Array:
    return normalised * scale[:, None] + bias[:, None]


def _silu_slope(x: Array) -> Array:
    sigmoid = jax.nn.sigmoid(x)
    return sigmoid * (1 + x * (1 - sigmoid))


def _group_mean(per_channel: Array, groups: int) -> Array:
    """[B, C] -> [B, C], each channel the mean over its group."""
    batch, channels = per_channel.shape
    mean = per_channel.reshape(batch, groups, -1).mean(axis=2, keepdims=True)
    return jnp.broadcast_to(mean, (batch, groups, channels // groups)).reshape(batch, channels)
