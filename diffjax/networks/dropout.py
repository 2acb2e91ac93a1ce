"""Dropout whose mask is cheap enough to draw again in the backward pass.

The mask is a hash of the element's place and the key; see `diffjax.hashing`.
"""

import math

import jax
import jax.numpy as jnp

from diffjax import hashing
from diffjax.types import Array, PRNGKey


def dropout(x: Array, rate: float, key: PRNGKey) -> Array:
    """Zeroes each element with probability `rate` and divides the others by 1 − rate.

    Args:
      x: array of fewer than 2³² elements.
      rate: in [0, 1).
      key: one for each call.

    Raises:
      ValueError: a rate outside its range, or too large an array.
    """
    return drop(x, rate, seed_of(key))


def seed_of(key: PRNGKey) -> Array:
    """[3] uint32: two words of hash key, and the number of the first example, 0."""
    return jnp.concatenate([jax.random.bits(key, (2,), jnp.uint32), jnp.zeros(1, jnp.uint32)])


def drop(x: Array, rate: float, seed: Array) -> Array:
    """`dropout` by the seed that `seed_of` makes."""
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate} of dropout isn't in [0, 1).")
    if x.size >= 2**32:
        raise ValueError(f"dropout of {x.shape}: places are counted in 32 bits; split the batch.")
    if not rate:
        return x
    place = seed[2] * jnp.uint32(math.prod(x.shape[1:])) + hashing.places(x.shape)
    keep = is_kept(place, seed[0], seed[1], rate)
    return jnp.where(keep, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))


def is_kept(place: Array, word0: Array, word1: Array, rate: float) -> Array:
    """Whether the element at each `place`, uint32 of any shape, is kept."""
    return hashing.bits(place, word0, word1) >= jnp.uint32(round(rate * 2**32))
