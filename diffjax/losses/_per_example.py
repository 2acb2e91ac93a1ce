"""Checks on entry, and sums over all axes but the first, for all losses."""

import math

import chex
import jax.numpy as jnp

from diffjax.interfaces import Array


def widened(x: Array, *others: Array, weight: Array | float | None = None) -> tuple[Array, ...]:
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
    check_weight(weight, x.shape[0])
    return tuple(_widened(array) for array in (x, *others))


def logits_for(x: Array, logits: Array) -> Array:
    """Check a discriminator's logits [B, ...] at x [B, ...], and give them in float32 or wider."""
    (logits,) = widened(logits)
    chex.assert_equal_shape_prefix([x, logits], 1)
    return logits


def check_weight(weight: Array | float | None, batch: int) -> None:
    """Check that a weight is a number, [B] or None."""
    if weight is not None:
        chex.assert_rank(weight, {0, 1})
        if jnp.ndim(weight) == 1:
            chex.assert_shape(weight, (batch,))


def wide(value: Array | float) -> Array | float:
    """Give σ and the like in float32 or wider, as σ² underflows in half; Python's numbers stay."""
    if isinstance(value, int | float):
        return value
    value = jnp.asarray(value)
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def along(weight: Array | float, x: Array) -> Array:
    """Give a weight, a number or [B], the rank of x [B, ...]."""
    weight = jnp.asarray(wide(weight))
    return weight.reshape(weight.shape + (1,) * (x.ndim - 1)) if weight.ndim else weight


def elements(x: Array) -> int:
    """Number of elements of one example of x [B, ...], where B is 0 too."""
    return math.prod(x.shape[1:])


def total(x: Array) -> Array:
    """Sum over all axes but the first: [B, ...] -> [B]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def mean(x: Array) -> Array:
    """Mean over all axes but the first: [B, ...] -> [B]."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def _widened(array: Array) -> Array:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"the arrays of a loss are floating-point, not {array.dtype}: images in uint8 "
            "become x / 127.5 - 1 first"
        )
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
