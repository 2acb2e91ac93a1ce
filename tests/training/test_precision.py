"""Types narrower than float32: rounding to the nearest, and at random."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax.training import optimizer, precision


def test_cast_rounds_each_array():
    params = {"a": {"kernel": jnp.asarray([1.0, 1.001, -3e4])}}
    for dtype in (jnp.bfloat16, jnp.float16):
        rounded = precision.cast(params, jnp.dtype(dtype))["a"]["kernel"]
        assert rounded.dtype == dtype
        np.testing.assert_array_equal(rounded, np.asarray(params["a"]["kernel"]).astype(dtype))


def test_cast_refuses_what_the_type_cannot_hold():
    params = {"a": {"bias": jnp.ones(2), "kernel": jnp.asarray([1.0, 7e4])}}
    with pytest.raises(ValueError, match=r"^a/kernel has values that float16 can't hold"):
        precision.cast(params, jnp.dtype(jnp.float16))
    precision.cast(params, jnp.dtype(jnp.bfloat16))


def rounded_many_times(value, times=20_000):
    def once(word):
        return precision.round_to_bfloat16(jnp.full((2, 3), value), word, jnp.uint32(7))

    return np.asarray(jax.vmap(once)(jnp.arange(times, dtype=jnp.uint32)), np.float64)


@pytest.mark.parametrize("value", [1 + 2**-10, 3.3e-12, -0.7, 1.0, 0.0])
def test_rounding_at_random_is_right_on_average(value):
    results = rounded_many_times(np.float32(value))
    unit = abs(value) * 2**-7  # at least one unit in the last place
    neighbours = np.unique(results)
    assert len(neighbours) <= 2
    assert np.abs(neighbours - np.float32(value)).max() <= unit
    error = results.mean(axis=0) - np.float32(value)
    assert np.abs(error).max() <= 5 * 0.5 * unit / np.sqrt(len(results))
    if float(np.float32(value).astype(jnp.bfloat16)) == np.float32(value):
        assert len(neighbours) == 1  # what bfloat16 has stays as it is
    else:
        # The elements of an array go up and down by themselves.
        ups = (results == neighbours[-1]).reshape(len(results), -1)
        correlation = np.corrcoef(ups.T) - np.eye(6)
        assert np.abs(correlation).max() < 5 / np.sqrt(len(results))


GRADIENTS = np.random.RandomState(0).standard_normal((4000, 64)).astype(np.float32)
GRADIENTS[2000:] *= 0.1


def moments(transformation, widen=lambda state: state):
    """Adam's state after all gradients, and the last update."""
    start = jnp.zeros(64)

    @jax.jit
    def run():
        def step(opt_state, gradient):
            updates, opt_state = transformation.update(gradient, opt_state, start)
            return widen(opt_state), updates

        state, updates = jax.lax.scan(step, widen(transformation.init(start)), GRADIENTS)
        return state, updates[-1]

    return run()


def second_moment(opt_state):
    return np.asarray(optax.tree_utils.tree_get(opt_state, "nu"), np.float64)


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_moments_in_bfloat16_follow_those_in_float32(b1):
    wanted, update_wanted = moments(optimizer.adam(1e-3, b1=b1))
    got, update = moments(optimizer.adam(1e-3, b1=b1, bfloat16_state=True))
    arrays = [leaf for leaf in jax.tree.leaves(got) if leaf.ndim]
    assert {leaf.dtype for leaf in arrays} == {np.dtype(jnp.bfloat16)}
    assert len(arrays) == (2 if b1 else 1)
    ratio = second_moment(got) / second_moment(wanted)
    assert abs(ratio.mean() - 1) < 0.03
    assert ratio.std() < 0.15  # a thousand roundings, each of up to 0.4 %
    error = np.linalg.norm(update - update_wanted) / np.linalg.norm(update_wanted)
    assert error < 0.1

    # Rounded to the nearest they stick at what the first, larger gradients left.
    def to_nearest(state):
        return jax.tree.map(
            lambda x: x.astype(jnp.bfloat16).astype(x.dtype) if x.dtype == jnp.float32 else x, state
        )

    stuck, _ = moments(optimizer.adam(1e-3, b1=b1), to_nearest)
    assert (second_moment(stuck) / second_moment(wanted)).mean() > 3


def test_the_first_update_is_that_of_float32():
    gradient = {"a": jnp.asarray([0.3, -2.0]), "b": jnp.ones((2, 2))}
    plain, narrowed = (optimizer.adam(1e-3, bfloat16_state=flag) for flag in (False, True))
    wanted, _ = plain.update(gradient, plain.init(gradient))
    got, _ = narrowed.update(gradient, narrowed.init(gradient))
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
