import jax
import jax.numpy as jnp
import numpy as np

from diffjax import losses

X = jnp.asarray([[1.0, 2.0], [0.0, -1.0]])
D_TEACHER = jnp.asarray([[0.5, 3.0], [1.0, 1.0]])
D_FAKE = jnp.asarray([[0.0, 1.0], [2.0, 1.0]])


def test_hand_computed():
    # delta . (teacher - x) = [1.75, -1], ||delta||^2 = [4.25, 1]
    expected = np.asarray([3.5 - 4.25, -2.0 - 1.0])
    np.testing.assert_allclose(losses.fgm(X, D_TEACHER, D_FAKE), expected)
    weight = jnp.asarray([2.0, 4.0])
    np.testing.assert_allclose(losses.fgm(X, D_TEACHER, D_FAKE, weight=weight), weight * expected)


def test_is_twice_sid_at_one_half():
    def gradients(loss):
        return jax.grad(lambda *a: loss(*a).sum(), (0, 1, 2))(X, D_TEACHER, D_FAKE)

    sid = gradients(lambda *a: 2 * losses.sid(*a, alpha=0.5, weight=1.0))
    for found, expected in zip(gradients(losses.fgm), sid, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
