"""Checks on entry, and sums over all axes but the first, for all losses."""

import chex
import jax.numpy as jnp

from diffjax.interfaces import Array


def widened(x: Array, *others: Array, weight: Array | float | None) -> tuple[Array, ...]:
    """Check arrays and their weight, and give the arrays in float32 or wider.

    In half precision a sum over pixels overflows, and so does a weight with a small floor.

    Args:
      x: [B, ...].
      *others: of the shape of x.
      weight: a number, [B] or None.

    Returns:
      x and the others.

    Raises:
      AssertionError: shapes differ, or the weight has another.
      ValueError: the arrays are scalars.
      TypeError: the arrays hold no floating-point numbers; integers would wrap.
    """
    chex.assert_equal_shape([x, *others])
    if jnp.ndim(x) < 1:
        raise ValueError("The arrays need a leading batch axis, [B, ...]; they are scalars.")
    if weight is not None:
        chex.assert_rank(weight, {0, 1})
        if jnp.ndim(weight) == 1:
            chex.assert_shape(weight, (x.shape[0],))
    for array in (x, *others):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"the arrays of a loss are floating-point, not {array.dtype}: images in uint8 "
                "become x / 127.5 - 1 first"
            )
    return tuple(a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in (x, *others))


def total(x: Array) -> Array:
    """Sum over all axes but the first: [B, ...] -> [B]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def mean(x: Array) -> Array:
    """Mean over all axes but the first: [B, ...] -> [B]."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
