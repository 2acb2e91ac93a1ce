import jax
import jax.numpy as jnp
import numpy as np

from diffjax import losses

X = jnp.asarray([[1.0, 2.0], [3.0, -1.0]])
D_TEACHER = jnp.asarray([[0.5, 0.0], [1.0, 1.0]])
D_AUXILIARY = jnp.asarray([[1.0, 1.0], [1.0, 3.0]])


def test_hand_computed():
    # (auxiliary - teacher) . x
    np.testing.assert_allclose(losses.moment_matching(X, D_TEACHER, D_AUXILIARY), [2.5, -2.0])
    # ||auxiliary - x||^2 = 1, 20; ||auxiliary - teacher||^2 = 1.25, 4
    found = losses.moment_matching_auxiliary(X, D_TEACHER, D_AUXILIARY, weight=2.0)
    np.testing.assert_allclose(found, [4.5, 48.0])


def test_the_auxiliary_network_is_drawn_half_way():
    slope = jax.grad(lambda d: losses.moment_matching_auxiliary(X, D_TEACHER, d).sum())
    np.testing.assert_allclose(slope((X + D_TEACHER) / 2), jnp.zeros_like(X), atol=1e-6)
