import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses
from tests.support import arrays

X = jnp.asarray([[1.0, 2.0], [0.0, -1.0]])
D_TEACHER = jnp.asarray([[0.5, 3.0], [1.0, 1.0]])
D_FAKE = jnp.asarray([[0.0, 1.0], [2.0, 1.0]])
# By hand: delta = [[0.5, 2], [-1, 0]]; teacher - x = [[-0.5, 1], [1, 2]];
# delta . (teacher - x) = [1.75, -1]; delta . delta = [4.25, 1]; mean |x - teacher| = [0.75, 1.5].
ALPHA_VALUES = {0.0: [1.75, -1.0], 0.5: [-0.375, -1.5], 1.0: [-2.5, -2.0], 1.2: [-3.35, -2.2]}


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("alpha", ALPHA_VALUES)
def test_hand_computed(transform, alpha):
    loss = transform(losses.sid)
    expected = np.asarray(ALPHA_VALUES[alpha])
    np.testing.assert_allclose(
        loss(X, D_TEACHER, D_FAKE, alpha=alpha, weight=1.0), expected, rtol=1e-6
    )
    weight = jnp.asarray([2.0, 5.0])
    np.testing.assert_allclose(
        loss(X, D_TEACHER, D_FAKE, alpha=alpha, weight=weight), expected * [2, 5], rtol=1e-6
    )
    np.testing.assert_allclose(
        loss(X, D_TEACHER, D_FAKE, alpha=alpha), expected / [0.75, 1.5], rtol=1e-6
    )


@pytest.mark.parametrize("shape", arrays.SHAPES)
def test_sums_and_weighs_over_any_trailing_shape(shape):
    x, d_teacher, d_fake = arrays.normal(shape, 3)
    values = losses.sid(x, d_teacher, d_fake, alpha=1.2)
    chex.assert_shape(values, (shape[0],))
    for i in range(shape[0]):
        x_i, teacher, fake = (np.asarray(a[i], np.float64) for a in (x, d_teacher, d_fake))
        delta = teacher - fake
        expected = np.sum(delta * (teacher - x_i - 1.2 * delta)) / np.mean(np.abs(x_i - teacher))
        np.testing.assert_allclose(values[i], expected, rtol=1e-4)


def test_floor_of_the_published_weight():
    d_teacher = jnp.zeros((3, 2))
    x = d_teacher + jnp.asarray([[0.0, 0.0], [0.9e-5, -0.9e-5], [2e-5, 2e-5]])
    d_fake = jnp.ones((3, 2))
    weighted = losses.sid(x, d_teacher, d_fake, alpha=1.0)
    plain = losses.sid(x, d_teacher, d_fake, alpha=1.0, weight=1.0)
    np.testing.assert_allclose(weighted / plain, [1e5, 1e5, 0.5e5], rtol=1e-5)


def test_gradients_flow_through_all_three_arrays():
    def loss(x, d_teacher, d_fake):
        return losses.sid(x, d_teacher, d_fake, alpha=1.2, weight=1.0).sum()

    # L = delta (teacher - x) - alpha delta^2, differentiated by hand
    delta = D_TEACHER - D_FAKE
    grad_x, grad_teacher, grad_fake = jax.grad(loss, argnums=(0, 1, 2))(X, D_TEACHER, D_FAKE)
    np.testing.assert_allclose(grad_x, -delta, rtol=1e-6)
    np.testing.assert_allclose(grad_teacher, (D_TEACHER - X) + delta - 2.4 * delta, rtol=1e-5)
    np.testing.assert_allclose(grad_fake, -(D_TEACHER - X) + 2.4 * delta, rtol=1e-5)


def test_no_gradient_through_the_weight():
    def loss(x, d_teacher, d_fake, weight):
        return losses.sid(x, d_teacher, d_fake, alpha=0.7, weight=weight).sum()

    constant = jnp.asarray([1 / 0.75, 1 / 1.5])
    argnums = (0, 1, 2)
    published = jax.grad(loss, argnums)(X, D_TEACHER, D_FAKE, None)
    replaced = jax.grad(loss, argnums)(X, D_TEACHER, D_FAKE, constant)
    chex.assert_trees_all_close(published, replaced, rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(loss, 3)(X, D_TEACHER, D_FAKE, constant), [0, 0])


def test_equal_denoisers_give_nothing_to_x():
    value, grad = jax.value_and_grad(
        lambda x: losses.sid(x, D_TEACHER, D_TEACHER, alpha=1.2).sum()
    )(X)
    assert value == 0
    np.testing.assert_array_equal(grad, jnp.zeros_like(X))


def test_vmap_over_a_stack_of_batches():
    stack = arrays.normal((3, 4, 2), 3)
    values = jax.vmap(lambda *args: losses.sid(*args, alpha=1.2))(*stack)
    np.testing.assert_allclose(values[2], losses.sid(*stack[:, 2], alpha=1.2), rtol=1e-5)


@pytest.mark.parametrize("bad", arrays.BAD_WEIGHTS, ids=str)
def test_bad_weight(bad):
    with pytest.raises(AssertionError):
        losses.sid(X, D_TEACHER, D_FAKE, alpha=1.0, weight=jnp.ones(bad))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_unequal_shapes(which):
    inputs = [X, D_TEACHER, D_FAKE]
    inputs[which] = inputs[which][:1]  # it would broadcast
    with pytest.raises(AssertionError):
        losses.sid(*inputs, alpha=1.0)
