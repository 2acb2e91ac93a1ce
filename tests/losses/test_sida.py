import jax
import jax.numpy as jnp
import numpy as np

from diffjax import losses

X, D_TEACHER, D_FAKE = jax.random.normal(jax.random.key(0), (3, 2, 3))
LOG3 = np.log(3)
LOGITS = jnp.asarray([[[LOG3, LOG3]], [[0.0, -LOG3]]])
# By hand, one mean over all four: (2 log 4/3 + log 2 + log 4) / 4.
MEAN = (2 * np.log(4 / 3) + np.log(2) + np.log(4)) / 4


def test_adversarial_term_of_the_generator_by_hand():
    weight = jnp.asarray([2.0, 0.5])
    found = losses.sida_gan_generator(LOGITS, weight=weight)
    np.testing.assert_allclose(found, MEAN * np.asarray([2, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(losses.sida_gan_generator(LOGITS, weight=3.0), [3 * MEAN] * 2)


def test_logits_beyond_ten_have_no_gradient():
    logits = jnp.asarray([[-11.0, -9.0], [11.0, 9.0]])
    slope = jax.grad(lambda x: losses.sida_gan_generator(x, weight=1.0).sum())(logits)
    np.testing.assert_array_equal(slope == 0, [[True, False], [True, False]])
    wide = jax.grad(lambda x: losses.sida_gan_generator(x, weight=1.0, max_logit=20.0).sum())
    assert (wide(logits) != 0).all()
    slope = jax.grad(lambda x: losses.sida_gan_discriminator(x, x, weight=1.0).sum())(logits)
    assert (slope != 0).all()


def test_adversarial_term_of_the_fake_score_by_hand():
    weight = jnp.asarray([2.0, 0.5])
    found = losses.sida_gan_discriminator(-LOGITS, LOGITS, weight=weight)
    fake = (2 * np.log(4) + np.log(2) + np.log(4 / 3)) / 4  # softplus(l) of both
    np.testing.assert_allclose(found, weight * fake, rtol=1e-6)


def test_total_is_half_of_each():
    weight = losses.normalizing_weight(X, D_TEACHER)
    score = losses.sid(X, D_TEACHER, D_FAKE, alpha=1.0)
    expected = 0.5 * score + 0.5 * 0.01 / 100 * 3 * weight * MEAN  # three elements an example
    found = losses.sida(X, D_TEACHER, D_FAKE, LOGITS)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    without = losses.sida(X, D_TEACHER, D_FAKE, LOGITS, alpha=1.2, weight=2.0, gan_scale=0.0)
    expected = losses.sid(X, D_TEACHER, D_FAKE, alpha=1.2, weight=2.0) / 2
    np.testing.assert_allclose(without, expected, rtol=1e-6)
