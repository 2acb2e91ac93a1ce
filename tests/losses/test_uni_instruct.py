import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses

X = jnp.asarray([[1.0, 2.0], [0.0, -1.0]])
D_TEACHER = jnp.asarray([[0.5, 3.0], [1.0, 1.0]])
D_FAKE = jnp.asarray([[0.0, 1.0], [2.0, 1.0]])
LOG_RATIO = jnp.log(jnp.asarray([3.0, 0.5]))
# By hand: delta . (fake - x) = [-2.5, -2], ||delta||^2 = [4.25, 1].
FIRST, SECOND = np.asarray([-2.5, -2.0]), np.asarray([4.25, 1.0])
RATIO = np.asarray([3.0, 0.5])


def uni_instruct(divergence, **settings):
    return losses.uni_instruct(
        X, D_TEACHER, D_FAKE, LOG_RATIO, 0.5, divergence=divergence, **{"weight": 1.0} | settings
    )


@pytest.mark.parametrize(
    ("divergence", "h", "rest"),  # h(r) and h - r h'
    [
        ("reverse_kl", 1, 1),
        ("forward_kl", RATIO, 0),
        ("jensen_shannon", RATIO / (1 + RATIO), (RATIO / (1 + RATIO)) ** 2),
        ("jeffreys", 1 + RATIO, 1),
        ("squared_hellinger", RATIO**0.5 / 4, RATIO**0.5 / 8),
        ("neyman", 1 / RATIO, 2 / RATIO),
    ],
)
def test_hand_computed(divergence, h, rest):
    expected = h * FIRST + rest * SECOND / 2
    np.testing.assert_allclose(uni_instruct(divergence), expected, rtol=1e-6)
    published = expected / np.asarray([0.75, 1.5])
    np.testing.assert_allclose(uni_instruct(divergence, weight=None), published, rtol=1e-6)


def test_the_ratio_moves_with_x():
    """d log r / dx = delta / sigma^2: at sigma 1/2, 4 delta times the value's slope in log r."""

    def of_x(x):
        return losses.uni_instruct(
            x, D_TEACHER, D_FAKE, LOG_RATIO, 0.5, divergence="forward_kl", weight=1.0
        ).sum()

    delta = np.asarray(D_TEACHER - D_FAKE)
    slope = 4 * delta * (RATIO * FIRST)[:, None] - RATIO[:, None] * delta
    np.testing.assert_allclose(jax.grad(of_x)(X), slope, rtol=1e-6)


@pytest.mark.parametrize(
    ("divergence", "h", "rest"),
    [("forward_kl", RATIO, 0), ("jensen_shannon", RATIO / (1 + RATIO), (RATIO / (1 + RATIO)) ** 2)],
)
def test_a_stopped_ratio_is_a_constant_weight(divergence, h, rest):
    def of_x(x, through_ratio=False):
        return losses.uni_instruct(
            x,
            D_TEACHER + x,
            D_FAKE,
            LOG_RATIO,
            0.5,
            divergence=divergence,
            through_ratio=through_ratio,
            weight=1.0,
        ).sum()

    def by_hand(x):
        delta = D_TEACHER + x - D_FAKE
        first, second = (delta * (D_FAKE - x)).sum(1), jnp.square(delta).sum(1)
        return (h * first + rest * second / 2).sum()

    np.testing.assert_allclose(of_x(X), by_hand(X), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(of_x)(X), jax.grad(by_hand)(X), rtol=1e-5)
    assert np.abs(jax.grad(of_x)(X, True) - jax.grad(of_x)(X)).max() > 1


def test_reverse_kl_is_sid_at_one_half():
    expected = losses.sid(X, D_TEACHER, D_FAKE, alpha=0.5, weight=1.0)
    np.testing.assert_allclose(uni_instruct("reverse_kl"), expected, rtol=1e-6)


def test_the_released_formula_by_hand():
    """Logits 0 in all places, weights 8 and 4: l = 2 elements * weight * log 2."""
    logits, weight = jnp.zeros((2, 1)), jnp.asarray([8.0, 4.0])
    adversarial = 2 * np.asarray(weight) * np.log(2)
    ratio = -adversarial / (1 - adversarial)
    score = np.asarray(weight) * FIRST

    def released(**settings):
        return losses.uni_instruct_released(X, D_TEACHER, D_FAKE, logits, weight=weight, **settings)

    np.testing.assert_allclose(released(gan_scale=0.0), ratio * score, rtol=1e-5)
    expected = (0.4 * ratio + 0.6) * score + 0.01 * adversarial
    np.testing.assert_allclose(
        released(forward=0.4, reverse=0.6, gan_scale=0.01), expected, rtol=1e-5
    )
    expected = ratio / ratio.sum() * score
    np.testing.assert_allclose(released(gan_scale=0.0, reduce_variance=True), expected, rtol=1e-5)


def test_ratios_of_other_shapes_are_refused():
    for shape in [(2, 1), (3,)]:
        with pytest.raises(AssertionError):
            losses.uni_instruct(
                X, D_TEACHER, D_FAKE, jnp.zeros(shape), 0.5, divergence="reverse_kl"
            )


@pytest.mark.parametrize("divergence", ["jensen_shannon", "soft_reverse_kl"])
def test_a_bounded_weight_has_its_limit_where_the_ratios_square_overflows(divergence):
    def of_x(x):
        ratios = jnp.asarray([60.0, -60.0])
        return losses.uni_instruct(
            x, D_TEACHER, D_FAKE, ratios, 0.5, divergence=divergence, weight=1.0
        )

    h = np.asarray([1, 0] if divergence == "jensen_shannon" else [0, 1])
    np.testing.assert_allclose(of_x(X), h * (FIRST + SECOND / 2), atol=1e-6)  # h' is 0
    gradient = jax.grad(lambda x: of_x(x).sum())(X)
    np.testing.assert_allclose(gradient, h[:, None] * (D_FAKE - D_TEACHER), atol=1e-6)
