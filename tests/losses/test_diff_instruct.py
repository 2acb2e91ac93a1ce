import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses
from tests.support import arrays

X = jnp.asarray([[1.0, 2.0], [3.0, -1.0]])
D_TEACHER = jnp.asarray([[0.5, 0.0], [1.0, 1.0]])
D_FAKE = jnp.asarray([[1.0, 1.0], [1.0, 3.0]])
DIRECTION = [[0.5, 1.0], [0.0, 2.0]]  # fake - teacher


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_hand_computed(transform):
    # 0.5 * 1 + 1 * 2 and 0 * 3 + 2 * -1
    loss = transform(losses.diff_instruct)
    np.testing.assert_allclose(loss(X, D_TEACHER, D_FAKE), [2.5, -2.0])
    np.testing.assert_allclose(loss(X, D_TEACHER, D_FAKE, weight=3.0), [7.5, -6.0])
    weight = jnp.asarray([2.0, 0.5])
    np.testing.assert_allclose(loss(X, D_TEACHER, D_FAKE, weight=weight), [5.0, -1.0])


@pytest.mark.parametrize("shape", arrays.SHAPES)
def test_sums_over_any_trailing_shape(shape):
    x, d_teacher, d_fake = arrays.normal(shape, 3)
    values = losses.diff_instruct(x, d_teacher, d_fake)
    chex.assert_shape(values, (shape[0],))
    for i in range(shape[0]):
        expected = np.sum((np.asarray(d_fake[i]) - np.asarray(d_teacher[i])) * np.asarray(x[i]))
        np.testing.assert_allclose(values[i], expected, rtol=1e-5, atol=1e-6)


def test_gradient_is_the_difference_of_denoisers_and_stops_everywhere_else():
    def loss(x, d_teacher, d_fake, weight):
        return losses.diff_instruct(x, d_teacher, d_fake, weight=weight).sum()

    weight = jnp.asarray([2.0, 3.0])
    grads = jax.grad(loss, argnums=(0, 1, 2, 3))(X, D_TEACHER, D_FAKE, weight)
    np.testing.assert_allclose(grads[0], weight[:, None] * jnp.asarray(DIRECTION))
    for grad in grads[1:]:
        np.testing.assert_array_equal(grad, jnp.zeros_like(grad))


def test_denoisers_of_x_give_no_gradient_of_their_own():
    grad = jax.grad(lambda x: losses.diff_instruct(x, 5 * x, 7 * x).sum())(X)
    np.testing.assert_allclose(grad, 2 * X)


def test_vmap_over_a_stack_of_batches():
    stack = arrays.normal((3, 4, 2), 3)
    values = jax.vmap(losses.diff_instruct)(*stack)
    np.testing.assert_allclose(values[2], losses.diff_instruct(*stack[:, 2]), rtol=1e-6)


@pytest.mark.parametrize("bad", arrays.BAD_WEIGHTS, ids=str)
def test_bad_weight(bad):
    with pytest.raises(AssertionError):
        losses.diff_instruct(X, D_TEACHER, D_FAKE, weight=jnp.ones(bad))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_unequal_shapes(which):
    inputs = [X, D_TEACHER, D_FAKE]
    inputs[which] = inputs[which][:1]  # it would broadcast
    with pytest.raises(AssertionError):
        losses.diff_instruct(*inputs)


def test_of_one_fixed_point_is_score_distillation_sampling():
    """DreamFusion's SDS: the marginal of one image is a Gaussian, whose denoiser is the image.

    In noise predictions, eps = (y - D) / sigma, the gradient is w (eps_teacher - n) with weights
    w / sigma on denoisers (Poole et al. 2022, arXiv:2209.14988, equation 3).
    """
    image = jnp.asarray([0.3, -0.8, 0.1])
    sigma = jnp.asarray([0.1, 0.5, 2.0, 20.0])
    noise = arrays.normal((4, 3), 1)[0]
    y = image + sigma[:, None] * noise
    d_teacher = jnp.tanh(y) - 0.2  # any teacher

    def loss(image, weight):
        x = jnp.broadcast_to(image, (4, 3))
        return losses.diff_instruct(x, d_teacher, d_fake=x, weight=weight).sum()

    expected = (image - d_teacher).sum(axis=0)
    np.testing.assert_allclose(jax.grad(loss)(image, 1.0), expected, rtol=1e-6)

    noise_prediction = (y - d_teacher) / sigma[:, None]
    expected = (noise_prediction - noise).sum(axis=0)
    np.testing.assert_allclose(jax.grad(loss)(image, 1 / sigma), expected, rtol=1e-5)
