"""What the losses share: checks on entry, and sums over all axes but the first."""

import chex
import jax.numpy as jnp

from diffjax.interfaces import Array


def check(x: Array, *others: Array, weight: Array | float | None) -> None:
    """Asserts equal shapes [B, ...] and a weight that is a number or [B]."""
    chex.assert_equal_shape([x, *others])
    if jnp.ndim(x) < 1:
        raise ValueError("The arrays need a leading batch axis, [B, ...]; they are scalars.")
    if weight is not None:
        chex.assert_rank(weight, {0, 1})
        if jnp.ndim(weight) == 1:
            chex.assert_shape(weight, (x.shape[0],))


def total(x: Array) -> Array:
    """[B, ...] -> [B], summed."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def mean(x: Array) -> Array:
    """[B, ...] -> [B], averaged."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
