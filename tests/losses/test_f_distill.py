import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses

# At r = 4, by hand.
AT_FOUR = {
    "reverse_kl": 1.0,
    "soft_reverse_kl": 0.2,
    "jensen_shannon": 0.8,
    "squared_hellinger": 0.5,
    "forward_kl": 4.0,
    "jeffreys": 5.0,
    "neyman": 0.25,
}


def test_hand_computed():
    assert set(AT_FOUR) == set(losses.F_DIVERGENCES)
    for divergence, expected in AT_FOUR.items():
        np.testing.assert_allclose(losses.f_divergence_weight(4.0, divergence), expected)
        ratio = jnp.full((2, 3), 4, jnp.float16)  # any shape, any type
        found = losses.f_divergence_weight(ratio, divergence)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, jnp.full((2, 3), expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("rkl", "reverse_kl"),
        ("kl", "forward_kl"),
        ("fkl", "forward_kl"),
        ("sf", "soft_reverse_kl"),
        ("js", "jensen_shannon"),
        ("sh", "squared_hellinger"),
        ("jf", "jeffreys"),
    ],
)
def test_short_names(short, name):
    assert losses.f_divergence_weight(4.0, short) == losses.f_divergence_weight(4.0, name)


@pytest.mark.parametrize("divergence", AT_FOUR)
def test_loss_is_dmd_times_the_weight(divergence):
    x, d_teacher, d_fake = jax.random.normal(jax.random.key(0), (3, 4, 2))
    ratio = jnp.asarray([0.1, 1.0, 4.0, 20.0])
    h = losses.f_divergence_weight(ratio, divergence)

    def gradient(loss, **settings):
        return jax.grad(lambda x: loss(x, d_teacher, d_fake, **settings).sum())(x)

    found = gradient(losses.f_distill, ratio=ratio, divergence=divergence)
    expected = h[:, None] * gradient(losses.dmd, epsilon=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def normalized(logits, sigma, bins, **settings):
    settings = {"divergence": "forward_kl", "decay": 0.0} | settings
    return losses.normalized_f_divergence_weight(
        jnp.asarray(logits), jnp.asarray(sigma), jnp.asarray(bins), **settings
    )


def test_normalization_by_hand():
    """Two heads; ratios 1, 2, 20 (of e^10, clamped) and 0.1; the first two share a bin."""
    logits = np.asarray([[1.0, -1.0], [np.log(2), np.log(2)], [30.0, 30.0], [-5.0, -9.0]])
    sigma = [1.0, 7.0, 79.0, 40.0]
    h, bins = normalized(logits, sigma, np.ones(10))
    expected_bins = np.ones(10)
    expected_bins[[0, 9, 4]] = [1.5, 20.0, 0.1]  # 40 lies in the fifth bin, 32.0012 to 40.001
    np.testing.assert_allclose(bins, expected_bins, rtol=1e-5)
    ratios = np.asarray([1 / 1.5, 2 / 1.5, 1.0, 1.0])
    np.testing.assert_allclose(h, ratios / ratios.mean(), rtol=2e-5)

    h, bins = normalized(logits, sigma, np.ones(10), decay=0.5)
    np.testing.assert_allclose(bins, (1 + expected_bins) / 2, rtol=1e-5)

    h, bins = normalized(logits, sigma, np.full(10, 7.0), normalize_ratio=False)
    ratios = np.asarray([1.0, 2.0, 20.0, 0.1])
    np.testing.assert_allclose(h, ratios / ratios.mean(), rtol=1e-5)
    np.testing.assert_array_equal(bins, np.full(10, 7.0))


def test_noise_levels_outside_fall_into_the_last_bins():
    _, bins = normalized([[0.0], [1.0]], [1e-4, 90.0], np.full(3, 5.0))
    np.testing.assert_allclose(bins, [1, 5, np.e], rtol=1e-5)


def test_no_gradient_and_one_compilation():
    def weight(logits):
        return normalized(logits, jnp.ones(2), jnp.ones(4), divergence="js")[0]

    logits = jnp.asarray([[0.5], [1.0]])
    np.testing.assert_allclose(jax.jit(weight)(logits), weight(logits), rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda x: weight(x)[0])(logits), jnp.zeros((2, 1)))


def test_other_shapes_are_refused():
    with pytest.raises(AssertionError):
        normalized(np.zeros((3, 2)), np.ones(2), np.ones(10))
    with pytest.raises(AssertionError):
        normalized(np.zeros((3, 2)), np.ones(3), np.ones((10, 1)))
    with pytest.raises(AssertionError):
        losses.f_distill(*jnp.ones((3, 4, 2)), jnp.ones((4, 1)), divergence="js")


def test_the_squared_hellinger_distance_is_normalized_without_its_quarter():
    """Which shows in the 1e-6 that is added to the mean, nowhere else."""
    logits, sigma, bins = np.full((4, 1), -9.0), np.ones(4), np.ones(10)
    h, _ = normalized(logits, sigma, bins, divergence="squared_hellinger", normalize_ratio=False)
    np.testing.assert_allclose(h, 1 - 1e-6 / np.sqrt(0.1), rtol=1e-6)
