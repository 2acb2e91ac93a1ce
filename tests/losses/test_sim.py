import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses

X = jnp.asarray([[1.0, 2.0], [0.0, -1.0]])
D_TEACHER = jnp.asarray([[0.0, 3.0], [1.0, 1.0]])
D_FAKE = jnp.asarray([[3.0, -1.0], [1.0, 1.0]])
# By hand at sigma 1: Y = fake - teacher = [[3, -4], [0, 0]], Y . (x - fake) = [-18, 0].


def sim(**settings):
    return losses.sim(X, D_TEACHER, D_FAKE, **settings)


def test_hand_computed():
    np.testing.assert_allclose(sim(sigma=1.0, distance="squared"), [-36.0, 0.0])
    for c in (0.5, 2.0):
        expected = [-18 / np.sqrt(25 + c**2), 0]
        np.testing.assert_allclose(sim(sigma=1.0, c=c), expected, rtol=1e-6)
    np.testing.assert_allclose(sim(sigma=1.0, weight=3.0), 3 * sim(sigma=1.0), rtol=1e-6)


def test_scores_scale_with_the_noise_level():
    sigma = jnp.asarray([2.0, 1.0])  # Y = 5/4 long, the other factor a quarter
    expected = [-18 / 16 / np.sqrt((5 / 4) ** 2 + 1), 0]
    np.testing.assert_allclose(sim(sigma=sigma), expected, rtol=1e-6)
    np.testing.assert_allclose(sim(sigma=2.0), sim(sigma=jnp.full(2, 2.0)))


def test_named_distances_are_like_given_ones():
    given = {
        "squared": lambda y: jnp.square(y).sum(-1),
        "pseudo_huber": lambda y: jnp.sqrt(jnp.square(y).sum(-1) + 1.5**2) - 1.5,
    }
    for name, distance in given.items():
        found = sim(sigma=0.7, c=1.5, distance=name)
        np.testing.assert_allclose(found, sim(sigma=0.7, distance=distance), rtol=1e-6)


def test_a_distance_gives_one_value_an_example():
    with pytest.raises(AssertionError):
        sim(sigma=1.0, distance=jnp.square)


@pytest.mark.parametrize("bad", [(3,), (2, 1)], ids=str)
def test_noise_levels_of_other_shapes_are_refused(bad):
    with pytest.raises(AssertionError):
        sim(sigma=jnp.ones(bad))


def test_gradients_where_the_scores_agree():
    """The pseudo-Huber distance is smooth there, unlike a norm."""
    gradient = jax.grad(lambda x: losses.sim(x, 2 * x, 2 * x, 0.5).sum())(X)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(X))
