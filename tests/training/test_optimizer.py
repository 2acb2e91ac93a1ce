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
