import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses

X = jnp.asarray([[1.0, 2.0], [0.0, -1.0]])
D_TEACHER = jnp.asarray([[0.5, 3.0], [1.0, 1.0]])
D_FAKE = jnp.asarray([[0.0, 1.0], [2.0, 1.0]])
# By hand: fake - teacher = [[-0.5, -2], [1, 0]]; mean |x - teacher| = [0.75, 1.5].
DIFFERENCE = np.asarray([[-0.5, -2.0], [1.0, 0.0]])
MEANS = np.asarray([0.75, 1.5])


def value_and_gradient(**settings):
    def loss(x):
        return losses.dmd(x, D_TEACHER, D_FAKE, **settings)

    return loss(X), jax.grad(lambda x: loss(x).sum())(X)


@pytest.mark.parametrize(
    ("settings", "weight"),
    [
        ({}, 1 / MEANS),
        ({"floor": 1.0}, 1 / np.asarray([1.0, 1.5])),
        ({"epsilon": 0.25}, 1 / (MEANS + 0.25)),
        ({"floor": 1.0, "epsilon": 0.25}, 1 / np.asarray([1.25, 1.75])),
        ({"weight": 3.0}, np.asarray([3.0, 3.0])),
        ({"weight": jnp.asarray([2.0, 5.0])}, np.asarray([2.0, 5.0])),
    ],
    ids=str,
)
def test_hand_computed(settings, weight):
    value, gradient = value_and_gradient(**settings)
    step = weight[:, None] * DIFFERENCE
    np.testing.assert_allclose(gradient, step, rtol=1e-6)
    np.testing.assert_allclose(value, 0.5 * (step**2).sum(axis=1), rtol=1e-6)


def test_is_diff_instruct_with_a_weight():
    weight = jnp.asarray([2.0, 5.0])
    expected = jax.grad(lambda x: losses.diff_instruct(x, D_TEACHER, D_FAKE, weight=weight).sum())(
        X
    )
    np.testing.assert_allclose(value_and_gradient(weight=weight)[1], expected)


def test_small_steps_are_not_lost_in_rounding():
    """In float32 x - (x - g) is 0 for these."""
    x, d_teacher = jnp.full((1, 2), 1000.0), jnp.zeros((1, 2))
    gradient = jax.grad(lambda x: losses.dmd(x, d_teacher, d_teacher + 1e-3, weight=1.0).sum())(x)
    np.testing.assert_allclose(gradient, jnp.full((1, 2), 1e-3))


def test_nothing_over_nothing_is_nothing():
    """As in DMD2; something over nothing isn't finite, which no later step would see otherwise."""
    both = jnp.ones((2, 2))
    d_fake = both.at[1, 1].set(2.0)
    value = losses.dmd(both, both, d_fake)
    gradient = jax.grad(lambda x: losses.dmd(x, both, d_fake).sum())(both)
    assert value[0] == 0
    np.testing.assert_array_equal(gradient, [[0, 0], [0, np.inf]])
    assert not np.isfinite(value[1])
    floored = losses.dmd(both, both, d_fake, floor=1e-5)
    np.testing.assert_allclose(floored, [0, 0.5e10])


def test_normalizing_weight():
    weight = losses.normalizing_weight(X, D_TEACHER)
    np.testing.assert_allclose(weight, 1 / MEANS, rtol=1e-6)
    near = losses.normalizing_weight(X, X + jnp.asarray([[0.9e-5], [2e-5]]))
    np.testing.assert_allclose(near, [1e5, 0.5e5], rtol=0.02)  # x holds 7 digits
    assert np.isinf(losses.normalizing_weight(X, X, floor=0.0)).all()
