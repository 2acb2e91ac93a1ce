"""Adam's options; that it is the published one is shown against PyTorch in `distill`."""

import chex
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


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"rampup": 100}, lambda n: min(n / 100, 1)),
        ({"frozen": 40}, lambda n: float(n >= 40)),
        ({"decay": 100, "end": 200}, lambda n: min(1, max(0, (200 - n) / 100))),
        # What is frozen for longer than the decay leaves falls from its end on.
        ({"frozen": 150, "decay": 100, "end": 200}, lambda n: (n >= 150) * (250 - n) / 100),
        ({"rampup": 64, "decay": 64, "end": 200}, lambda n: min(1, n / 64, (200 - n) / 64)),
    ],
)
def test_rates_by_images(changes, wanted):
    rate = optimizer.ramps(RATE, **changes)
    for images in range(0, 200, 8):
        got = rate(jnp.uint32(images))
        np.testing.assert_allclose(got, RATE * wanted(images), rtol=1e-6, atol=1e-12)
        assert got.dtype == jnp.float32


def test_rates_far_beyond_what_float32_counts():
    end = 3_000_000_000
    rate = optimizer.ramps(1.0, decay=1000, end=end)
    rates = [float(rate(jnp.uint32(end - n))) for n in (2000, 1000, 500, 1)]
    np.testing.assert_allclose(rates, [1, 1, 0.5, 0.001], rtol=1e-4)


def test_a_rate_is_followed():
    params = {"w": jnp.ones(3)}
    gradient = {"w": jnp.full(3, 0.3)}
    ramped = optimizer.adam(optimizer.ramps(RATE, rampup=64), max_grad_norm=1.0)
    plain = optimizer.adam(RATE, max_grad_norm=1.0)
    assert jax.tree.structure(ramped.init(params)) == jax.tree.structure(plain.init(params))
    for images, share in ((0, 0), (32, 0.5), (64, 1), (640, 1)):
        step = optimizer.step(ramped, gradient, ramped.init(params), params, jnp.uint32(images))
        full = optimizer.step(plain, gradient, plain.init(params), params, jnp.uint32(images))
        moved, wanted = (each[0]["w"] - params["w"] for each in (step, full))
        np.testing.assert_allclose(moved, share * wanted, rtol=1e-3)


def test_frozen_at_first_is_as_if_nothing_had_been():
    adam = optimizer.adam(1e-2, b1=0.9, frozen=30)
    params, state = {"w": jnp.ones(3)}, None
    state = begun = adam.init(params)
    for images in (0, 10, 20):
        params, state = optimizer.step(
            adam, {"w": jnp.full(3, 2.0)}, state, params, jnp.uint32(images)
        )
        chex.assert_trees_all_equal(state, begun)
        np.testing.assert_array_equal(params["w"], np.ones(3))
    late = optimizer.step(adam, {"w": jnp.full(3, 2.0)}, state, params, jnp.uint32(30))
    plain = optimizer.adam(1e-2, b1=0.9)
    first = optimizer.step(
        plain, {"w": jnp.full(3, 2.0)}, plain.init(params), params, jnp.uint32(0)
    )
    chex.assert_trees_all_close(late[0], first[0])
    np.testing.assert_allclose(late[0]["w"], 1 - 1e-2, rtol=1e-5)


def test_adamw_by_hand():
    """p ← p − rate (wd p + m̂ / (√v̂ + eps)), and buffers stay (Loshchilov & Hutter 2019)."""
    rate, b1, b2, eps, decay = 0.1, 0.9, 0.99, 1e-8, 0.01
    adamw = optimizer.adam(rate, b1=b1, b2=b2, eps=eps, weight_decay=decay)
    params = {"params": jnp.float32(2.0), "buffers": jnp.float32(3.0)}
    state = adamw.init(params)
    p, m, v = 2.0, 0.0, 0.0
    for i, g in enumerate((0.5, -1.5, 0.25), start=1):
        gradient = {"params": jnp.float32(g), "buffers": jnp.float32(0.0)}
        params, state = optimizer.step(adamw, gradient, state, params, jnp.uint32(0))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        p -= rate * (decay * p + (m / (1 - b1**i)) / (np.sqrt(v / (1 - b2**i)) + eps))
        np.testing.assert_allclose(params["params"], p, rtol=1e-6)
    assert params["buffers"] == 3


def test_gradients_are_clipped_by_value_before_by_norm():
    clipped = optimizer.adam(1.0, b1=0.9, b2=0.9, eps=1e3, max_grad_value=1.0, max_grad_norm=1.0)
    gradient = {"w": jnp.asarray([100.0, 1.0])}
    updates, _ = clipped.update(gradient, clipped.init(gradient))
    # By value first, both entries are 1 and stay equal; by norm first the second would vanish.
    np.testing.assert_allclose(updates["w"][0], updates["w"][1])
    # Adam with a large epsilon is linear: the norm of what it sees is 1.
    np.testing.assert_allclose(np.linalg.norm(updates["w"]), 1e-3, rtol=2e-3)
