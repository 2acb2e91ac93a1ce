"""Random bits from a hash of each element's place, cheap enough to make again in each use.

A few integer operations an element fuse into whatever reads or writes the array. JAX's generators
are better where numbers matter, and cost many times as much, or an array in memory.
"""

import math

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array

_WEYL = 0x9E3779B9  # 2³² over the golden ratio


def bits(place: Array, word0: Array, word1: Array) -> Array:
    """Random bits of each place, keyed by two words.

    Args:
      place: uint32 of any shape, as `places` gives it.
      word0: uint32, of a shape that broadcasts to that of `place`.
      word1: uint32, likewise.

    Returns:
      uint32 of the shape of `place`, all 32 bits random.
    """
    return mix(mix(place * jnp.uint32(_WEYL) + word0) ^ word1)


def places(shape: tuple[int, ...]) -> Array:
    """Number of each element of an array of that shape, in C order; uint32, modulo 2³²."""
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(shape):
        if size > 1:
            stride = jnp.uint32(math.prod(shape[axis + 1 :]))
            place = place + stride * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return jnp.broadcast_to(place, shape)


def mix(x: Array) -> Array:
    """Bijection of 32 bits in which each input bit changes about half of the output's.

    Its constants are those of Wellons' "lowbias32" search (nullprogram.com, 2018).
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
