import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses

LOG3 = np.log(3)
REAL = jnp.asarray([[0.0, LOG3], [-LOG3, -LOG3]])
FAKE = jnp.asarray([[LOG3, LOG3], [0.0, 0.0]])


def test_hand_computed():
    # softplus(log 3) = log 4, softplus(0) = log 2, softplus(-log 3) = log 4/3
    np.testing.assert_allclose(losses.gan_generator(FAKE), np.log([4 / 3, 2]), rtol=1e-6)
    expected = [np.log(2 * 4 / 3) / 2 + np.log(4), np.log(4) + np.log(2)]
    np.testing.assert_allclose(losses.gan_discriminator(REAL, FAKE), expected, rtol=1e-6)
    np.testing.assert_allclose(losses.approximate_r1(REAL, FAKE), [LOG3**2 / 2, LOG3**2], rtol=1e-6)
    np.testing.assert_allclose(losses.r1(jnp.asarray([[3.0, 4.0], [0.0, 1.0]])), [25, 1])


@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 3), (2, 1, 4, 4)])
def test_logits_of_any_shape(shape):
    logits = jnp.full(shape, LOG3)
    np.testing.assert_allclose(losses.gan_generator(logits), np.log([4 / 3] * 2), rtol=1e-6)


def test_extreme_logits():
    values, slopes = jax.vmap(jax.value_and_grad(lambda x: losses.gan_generator(x[None])[0]))(
        jnp.asarray([-1e4, 1e4, jnp.inf])
    )
    np.testing.assert_allclose(values, [1e4, 0, 0])
    np.testing.assert_allclose(slopes, [-1, 0, 0])


def test_r1_of_a_linear_discriminator_is_its_finite_difference():
    """(l(x) - l(x + e n))^2 / e^2 has the mean ||grad l||^2 over n."""
    slope, x = jnp.asarray([[1.0, -2.0, 0.5]]), jnp.asarray([[0.1, 0.2, 0.3]])
    noise = 0.01 * jax.random.normal(jax.random.key(0), (20_000, 3))
    differences = losses.approximate_r1(
        jnp.broadcast_to(x @ slope.T, (20_000, 1)), (x + noise) @ slope.T
    )
    np.testing.assert_allclose(differences.mean() / 0.01**2, losses.r1(slope)[0], rtol=0.03)
