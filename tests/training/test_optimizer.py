"""Adam's options; that it is the published one is shown against PyTorch in `distill`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.training import optimizer

RATE = 1e-3


def largest_steps(transformation, scales):
    """The largest step of any parameter, in learning rates, for gradients of these scales."""
    params = {"a": jnp.zeros(50), "b": jnp.zeros((7, 3))}
    state, steps = transformation.init(params), []
    update = jax.jit(transformation.update)
    for i, scale in enumerate(scales):
        keys = jax.random.split(jax.random.key(i), 2)
        gradient = {
            k: scale * jax.random.normal(key, params[k].shape)
            for k, key in zip("ab", keys, strict=True)
        }
        updates, state = update(gradient, state, params)
        steps.append(max(float(jnp.abs(x).max()) for x in jax.tree.leaves(updates)) / RATE)
    return np.array(steps)


@pytest.mark.parametrize("b1", [0.0, 0.9])
@pytest.mark.parametrize("bfloat16_state", [False, True])
def test_a_gradient_a_thousand_times_too_large_moves_nothing_far_if_clipped(b1, bfloat16_state):
    settings = {"b1": b1, "bfloat16_state": bfloat16_state}
    scales = [1.0] * 300 + [1000.0] + [1.0]
    usual_norm = np.sqrt(71)
    free = largest_steps(optimizer.adam(RATE, **settings), scales)
    held = largest_steps(optimizer.adam(RATE, max_grad_norm=2 * usual_norm, **settings), scales)
    outlier = 300
    assert free[outlier] > 1.8 * free[outlier - 50 : outlier].max()
    assert held[outlier] < 1.5 * held[outlier - 50 : outlier].max()


def test_smaller_gradients_are_left_as_they_are():
    scales = [1.0, 0.5, 0.9] * 5
    held = largest_steps(optimizer.adam(RATE, max_grad_norm=100.0), scales)
    np.testing.assert_array_equal(held, largest_steps(optimizer.adam(RATE), scales))
