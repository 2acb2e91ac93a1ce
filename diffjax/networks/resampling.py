"""Separable resampling filters that halve, double or keep an image's resolution.

Source: Karras et al. 2022 (EDM, arXiv:2206.00364), whose networks resample with the taps (1, 1), or
(1, 3, 3, 1) in NCSN++ (Song et al. 2021, arXiv:2011.13456), as StyleGAN2 does.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array


def resample_kernel(taps: Sequence[float]) -> np.ndarray:
    """One-dimensional factor of a separable resampling filter, normalised to the sum 1.

    Args:
      taps: [K], of any sum but 0.

    Returns:
      [K] float32.
    """
    kernel = np.asarray(taps, dtype=np.float32)
    return kernel / kernel.sum()


def downsample(x: Array, taps: Sequence[float], padding: int | None = None) -> Array:
    """Filter an image and keep every second pixel: [B, H, W, C] -> [B, H/2, W/2, C].

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
    """Insert zeros between pixels and filter: [B, H, W, C] -> [B, 2H, 2W, C].

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


def smooth(x: Array, taps: Sequence[float], *, padding: int, gain: float = 1.0) -> Array:
    """Filter an image at its own resolution: [B, H, W, C] -> [B, H', W', C], H' = H + 2p − K + 1.

    Args:
      x: [B, H, W, C].
      taps: the separable filter's factor, [K]; it is normalised.
      padding: zeros on each side, p.
      gain: of each axis.

    Returns:
      out[i] = gain Σ_k f[K − 1 − k] x[i + k − p] along both spatial axes, a convolution.
    """
    kernel = gain * resample_kernel(taps)[::-1]
    for axis in (1, 2):
        padded = _pad(x, axis, padding, padding)
        size = padded.shape[axis] - len(kernel) + 1
        terms = (
            float(f) * jax.lax.slice_in_dim(padded, k, k + size, axis=axis)
            for k, f in enumerate(kernel)
        )
        x = functools.reduce(jnp.add, terms)
    return x


@jax.custom_vjp
def _repeat(x: Array) -> Array:
    """Repeat each pixel four times, in one pass over memory, as its gradient is."""
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
