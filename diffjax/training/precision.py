"""Arrays kept in a narrower floating type than they are computed in."""

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array, Params
from diffjax.networks import hashing


def cast(params: Params, dtype: np.dtype) -> Params:
    """Round parameters to a type, each to the nearest.

    Raises:
      ValueError: naming the first array that has values beyond the type's range.
    """

    @jax.jit
    def round_all(params: Params) -> tuple[Params, Params]:
        rounded = jax.tree.map(lambda x: x.astype(dtype), params)
        return rounded, jax.tree.map(lambda x: jnp.isfinite(x).all(), rounded)

    rounded, is_finite = round_all(params)
    for path, each in jax.tree_util.tree_leaves_with_path(is_finite):
        if not each:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{name} has values that {dtype} can't hold.")
    return rounded


def round_to_bfloat16(x: Array, word0: Array, word1: Array) -> Array:
    """Round float32 to bfloat16, up or down at random, so that the expected value is x.

    A running average whose steps are smaller than half a unit in bfloat16's last place, such as
    Adam's second moment with b2 = 0.999, would never move if it were rounded to the nearest.

    Args:
      x: finite float32 of any shape.
      word0: the first of two uint32 words that decide what is rounded up.
      word1: the second.
    """
    chance = hashing.bits(hashing.places(x.shape), word0, word1) >> 16
    raised = jax.lax.bitcast_convert_type(x, jnp.uint32) + chance
    return jax.lax.bitcast_convert_type((raised >> 16).astype(jnp.uint16), jnp.bfloat16)
