"""Arrays that the tests of losses share."""

import jax

SHAPES = [(3,), (3, 4), (3, 4, 5, 2)]
# For a batch of 2 x 2: a wrong length, a column that would broadcast, one weight an element.
BAD_WEIGHTS = [(3,), (2, 1), (2, 2)]


def normal(shape, count):
    return jax.random.normal(jax.random.key(0), (count, *shape))
