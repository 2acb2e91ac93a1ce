"""Checks on entry, and sums over all axes but the first, for all losses."""

import chex
import jax.numpy as jnp

from diffjax.interfaces import Array


def check(x: Array, *others: Array, weight: Array | float | None) -> None:
    """Check that arrays have equal shapes, and that a weight fits them.

    Args:
      x: [B, ...].
      *others: of the shape of x.
      weight: a number, [B] or None.

    Raises:
      AssertionError: shapes differ, or the weight has another.
      ValueError: the arrays are scalars.
    """
    chex.assert_equal_shape([x, *others])
    if jnp.ndim(x) < 1:
        raise ValueError("The arrays need a leading batch axis, [B, ...]; they are scalars.")
    if weight is not None:
        chex.assert_rank(weight, {0, 1})
        if jnp.ndim(weight) == 1:
            chex.assert_shape(weight, (x.shape[0],))


def total(x: Array) -> Array:
    """Sum over all axes but the first: [B, ...] -> [B]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def mean(x: Array) -> Array:
    """Mean over all axes but the first: [B, ...] -> [B]."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
