"""Dropout whose mask is cheap enough to draw again in the backward pass.

The mask is a hash of the element's place and the key; see `diffjax.hashing`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from diffjax import hashing
from diffjax.types import Array, PRNGKey

_PLACES = 2**32


def dropout(x: Array, rate: float, key: PRNGKey) -> Array:
    """Zeroes each element with probability `rate` and divides the others by 1 − rate.

    Args:
      x: array of examples [B, ...], each of at most 2³² elements.
      rate: in [0, 1).
      key: one for each call.

    Raises:
      ValueError: a rate outside its range, or too large an example.
    """
    return drop(x, rate, seed_of(key))


def seed_of(key: PRNGKey) -> Array:
    """[3] uint32: two words of hash key, and the number of the first example, 0."""
    return jnp.concatenate([jax.random.bits(key, (2,), jnp.uint32), jnp.zeros(1, jnp.uint32)])


def drop(x: Array, rate: float, seed: Array) -> Array:
    """`dropout` by the seed that `seed_of` makes."""
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate} of dropout isn't in [0, 1).")
    if not rate:
        return x
    size = math.prod(x.shape[1:])
    if x.shape[0] <= examples_a_lap(size):  # one multiplication, where the rest would be 0
        place, word1 = seed[2] * jnp.uint32(size) + hashing.places(x.shape), seed[1]
    else:
        example = seed[2] + jnp.arange(x.shape[0], dtype=jnp.uint32)
        first, word1 = (
            each.reshape(-1, *(1,) * (x.ndim - 1)) for each in start(example, size, seed[1])
        )
        place = first + hashing.places((1, *x.shape[1:]))
    keep = is_kept(place, seed[0], word1, rate)
    return jnp.where(keep, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))


def examples_a_lap(size: int) -> int:
    """How many examples of `size` elements have places of their own.

    Raises:
      ValueError: if not even one has.
    """
    if size > _PLACES:
        raise ValueError(f"dropout of examples of {size} elements: {_PLACES} can be told apart.")
    return _PLACES // size


def start(example: Array, size: int, word1: Array) -> tuple[Array, Array]:
    """The place of an example's first element, and the second word of its hash key.

    Places are counted in 32 bits. Where they come round, the key changes.

    Args:
      example: its number in the batch, uint32 of any shape.
      size: elements of an example.
      word1: the second word of the batch's key.
    """
    lap, number = jnp.divmod(example, jnp.uint32(examples_a_lap(size)))
    return number * jnp.uint32(size), word1 + lap


def drop_tile(
    x: Array,
    rate: float,
    seed: Any,
    example: Array,
    pixel: Array,
    channel: Array,
    size: tuple[int, int],
) -> Array:
    """`drop` of a part of an example, for kernels that go through it by parts.

    Args:
      x: [P, C'].
      rate: in [0, 1).
      seed: of `seed_of`, or a reference to it.
      example: its number, int32 scalar.
      pixel: [P] numbers of its pixels.
      channel: [C'] numbers of its channels.
      size: pixels and channels of an example.
    """
    if not rate:
        return x
    number = example.astype(jnp.uint32) + seed[2]
    first, word1 = start(number, math.prod(size), seed[1])
    row = first + pixel.astype(jnp.uint32) * jnp.uint32(size[1])
    place = row[:, None] + channel.astype(jnp.uint32)[None, :]
    return jnp.where(is_kept(place, seed[0], word1, rate), x / (1 - rate), 0.0)


def is_kept(place: Array, word0: Array, word1: Array, rate: float) -> Array:
    """Whether the element at each `place`, uint32 of any shape, is kept."""
    return hashing.bits(place, word0, word1) >= jnp.uint32(round(rate * 2**32))
