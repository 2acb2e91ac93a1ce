import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses
from tests.support import arrays

X = jnp.asarray([[1.0, 2.0], [0.0, -1.0]])
D_FAKE = jnp.asarray([[0.0, 4.0], [0.5, -1.0]])


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_hand_computed(transform):
    # squared errors: 1 + 4 and 0.25 + 0
    loss = transform(losses.denoising)
    np.testing.assert_allclose(loss(X, D_FAKE, weight=1.0), [5.0, 0.25])
    np.testing.assert_allclose(loss(X, D_FAKE, weight=jnp.asarray([2.0, 4.0])), [10.0, 1.0])


@pytest.mark.parametrize("shape", arrays.SHAPES)
def test_sums_over_any_trailing_shape(shape):
    x, d_fake = arrays.normal(shape, 2)
    weight = jnp.arange(1.0, shape[0] + 1)
    values = losses.denoising(x, d_fake, weight=weight)
    chex.assert_shape(values, (shape[0],))
    for i in range(shape[0]):
        expected = (i + 1) * np.sum((np.asarray(d_fake[i]) - np.asarray(x[i])) ** 2)
        np.testing.assert_allclose(values[i], expected, rtol=1e-5)


def test_gradient_flows_into_the_denoiser_alone():
    weight = jnp.asarray([2.0, 4.0])

    def loss(x, d_fake):
        return losses.denoising(x, d_fake, weight=weight).sum()

    grad_x, grad_fake = jax.grad(loss, argnums=(0, 1))(X, D_FAKE)
    np.testing.assert_array_equal(grad_x, jnp.zeros_like(X))
    np.testing.assert_allclose(grad_fake, 2 * weight[:, None] * (D_FAKE - X))


def test_vmap_over_a_stack_of_batches():
    x, d_fake = arrays.normal((3, 4, 2), 2)
    stacked = jax.vmap(lambda *args: losses.denoising(*args, weight=1.5))(x, d_fake)
    np.testing.assert_allclose(stacked[1], losses.denoising(x[1], d_fake[1], weight=1.5))


@pytest.mark.parametrize("bad", arrays.BAD_WEIGHTS, ids=str)
def test_bad_weight(bad):
    with pytest.raises(AssertionError):
        losses.denoising(X, D_FAKE, weight=jnp.ones(bad))


def test_unequal_shapes():
    with pytest.raises(AssertionError):
        losses.denoising(X, D_FAKE[:, :1], weight=1.0)  # it would broadcast
    with pytest.raises(ValueError, match="leading batch axis"):
        losses.denoising(jnp.float32(1), jnp.float32(2), weight=1.0)
