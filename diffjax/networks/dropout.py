"""Dropout whose mask is cheap enough to draw again in the backward pass.

The mask is a hash of the element's place and the key; see `diffjax.networks.hashing`.
"""

import math

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array, PRNGKey
from diffjax.networks import hashing

_PLACES = 2**32


def seeds(key: PRNGKey, count: int) -> Array:
    """Seeds [count, 2] uint32 of the masks of `dropout`, one row for each call."""
    return jax.random.bits(key, (count, 2), jnp.uint32)


def dropout(x: Array, rate: float, seed: Array) -> Array:
    """Zero each element with probability `rate` and divide the others by 1 − rate.

    Args:
      x: array of examples [B, ...], each of at most 2³² elements.
      rate: in [0, 1).
      seed: [2] uint32, a row of `seeds`; equal seeds drop equal elements.

    Returns:
      Array of the shape and type of x.

    Raises:
      ValueError: a rate outside its range, or too large an example.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate} of dropout isn't in [0, 1).")
    if not rate:
        return x
    batch, size = x.shape[0], math.prod(x.shape[1:])
    if size > _PLACES:
        raise ValueError(f"dropout of examples of {size} elements: {_PLACES} can be told apart.")
    word0, word1 = seed[0], seed[1]
    lap = _PLACES // size  # examples that have places of their own
    if batch <= lap:
        place = hashing.places(x.shape)
    else:  # places come round, and with each lap the key changes
        example = jnp.arange(batch, dtype=jnp.uint32).reshape(batch, *[1] * (x.ndim - 1))
        place = example % lap * jnp.uint32(size) + hashing.places((1, *x.shape[1:]))
        word1 = word1 + example // lap
    keep = hashing.bits(place, word0, word1) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))
