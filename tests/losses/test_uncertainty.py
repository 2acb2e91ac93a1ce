"""The denoising loss with a learnt log-variance (Karras et al. 2024)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses
from tests.support import arrays

X, D = arrays.normal((3, 4, 4, 2), 2)
WEIGHT = jnp.asarray([0.5, 1.0, 8.0])
U = jnp.asarray([-1.0, 0.0, 2.0])


def test_it_is_the_published_sum_over_values():
    found = losses.denoising(X, D, weight=WEIGHT, log_variance=U)
    by_pixel = WEIGHT[:, None, None, None] / jnp.exp(U)[:, None, None, None] * (D - X) ** 2
    by_pixel = by_pixel + U[:, None, None, None]
    np.testing.assert_allclose(found, by_pixel.reshape(3, -1).sum(axis=1), rtol=1e-6)


def test_zero_is_no_weighting():
    plain = losses.denoising(X, D, weight=WEIGHT)
    found = losses.denoising(X, D, weight=WEIGHT, log_variance=jnp.zeros(3))
    np.testing.assert_array_equal(found, plain)


def test_it_is_least_at_the_logarithm_of_the_loss():
    best = jnp.log(losses.denoising(X, D, weight=WEIGHT) / X[0].size)

    def of(u):
        return losses.denoising(X, D, weight=WEIGHT, log_variance=u).sum()

    np.testing.assert_allclose(jax.grad(of)(best), np.zeros(3), atol=1e-4)
    assert of(best) < min(of(best + 0.1), of(best - 0.1))


def test_another_shape_is_refused():
    with pytest.raises(AssertionError):
        losses.denoising(X, D, weight=WEIGHT, log_variance=U[:2])
