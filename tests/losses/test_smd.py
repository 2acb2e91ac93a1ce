import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses

X = jnp.asarray([[1.0, 2.0], [0.0, -1.0]])
D_TEACHER = jnp.asarray([[0.5, 3.0], [1.0, 1.0]])
D_FAKE = jnp.asarray([[0.0, 1.0], [2.0, 1.0]])
DIFFERENCE = np.asarray([[-0.5, -2.0], [1.0, 0.0]])
# Means over two heads are log 3 and -log 2, so that r = 3 and 1/2.
LOGITS = jnp.asarray([[0.0, 2 * np.log(3)], [-np.log(2), -np.log(2)]])


def gradient(skew, **settings):
    return jax.grad(
        lambda x: losses.smd(x, D_TEACHER, D_FAKE, LOGITS, skew=skew, **settings).sum()
    )(X)


@pytest.mark.parametrize(
    ("skew", "scale"),
    [
        (0.0, [3.0, 0.5]),  # r
        (0.5, [1.5, 2 / 3]),  # 2r/(1 + r)
        (0.25, [2.0, 4 / 7]),  # r/(r/4 + 3/4)
        (1.0, [1.0, 1.0]),
        (jnp.asarray([0.5, 0.25]), [1.5, 4 / 7]),
    ],
    ids=str,
)
def test_hand_computed(skew, scale):
    scale = np.asarray(scale)[:, None]
    np.testing.assert_allclose(gradient(skew, weight=1.0), scale * DIFFERENCE, rtol=1e-6)
    published = scale * DIFFERENCE / np.asarray([[0.75], [1.5]])
    np.testing.assert_allclose(gradient(skew), published, rtol=1e-6)


@pytest.mark.parametrize("logit", [-300.0, 300.0])
@pytest.mark.parametrize("skew", [1e-3, 0.5, 1.0])
def test_extreme_logits(skew, logit):
    logits = jnp.full((2,), logit)
    values = losses.smd(X, D_TEACHER, D_FAKE, logits, skew=skew, weight=1.0)
    scale = 1 if skew == 1 else 1 / skew if logit > 0 else 0
    np.testing.assert_allclose(values, scale**2 * 0.5 * (DIFFERENCE**2).sum(1), rtol=1e-4)


def test_the_critic_by_hand():
    """r = 3 and 1/2, so that D_1/4 = 1/2 and 1/7; ||teacher - fake||^2 = 4.25 and 1."""

    def critic(real, **settings):
        return losses.smd_critic(D_TEACHER, D_FAKE, LOGITS, skew=0.25, real=real, **settings)

    np.testing.assert_allclose(critic(True), [0.25 * 0.25 * 4.25, 0.25 * (6 / 7) ** 2], rtol=1e-6)
    np.testing.assert_allclose(critic(False), [0.75 * 0.25 * 4.25, 0.75 / 49], rtol=1e-6)
    weight = jnp.asarray([2.0, 3.0])
    np.testing.assert_allclose(critic(True, weight=weight), weight * critic(True), rtol=1e-6)


@pytest.mark.parametrize("skew", [0.0, 1.0])
@pytest.mark.parametrize("real", [False, True])
def test_the_critic_learns_nothing_at_the_ends(skew, real):
    value, slope = jax.value_and_grad(
        lambda logits: losses.smd_critic(D_TEACHER, D_FAKE, logits, skew=skew, real=real).sum()
    )(LOGITS)
    assert value == 0
    np.testing.assert_array_equal(slope, jnp.zeros_like(LOGITS))


def test_skewed_logits():
    logits = losses.skewed_logits(LOGITS, jnp.asarray([0.25, 1.0]))
    np.testing.assert_allclose(logits[0], LOGITS[0] - np.log(3), rtol=1e-6, atol=1e-6)
    assert np.isposinf(logits[1]).all()
    assert np.isneginf(losses.skewed_logits(LOGITS, 0.0)).all()
    slope = jax.grad(lambda x: losses.gan_generator(losses.skewed_logits(x, 1.0)).sum())(LOGITS)
    np.testing.assert_array_equal(slope, jnp.zeros_like(LOGITS))  # not NaN
