"""The toys themselves, since other tests take them for the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import toys


def log_density(y, sigma, centres, sd, weights):
    """Of the mixture with noise added, up to a constant."""
    total = sd**2 + sigma**2
    squared = jnp.sum((y - centres).reshape(len(centres), -1) ** 2, axis=1)
    dim = y.size
    terms = jnp.log(weights) - dim / 2 * jnp.log(total) - squared / (2 * total)
    return jax.nn.logsumexp(terms)


@pytest.mark.parametrize("shape", [(2,), (5,), (3, 2, 1)])
def test_the_denoiser_is_y_plus_the_score(shape):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        centres = rng.standard_normal((4, *shape))
        sd, weights = np.array([0.1, 0.3, 0.2, 1.0]), np.array([0.1, 0.2, 0.3, 0.4])
        denoise = toys.mixture_denoiser(centres, sd, weights=weights)
        for sigma in (0.01, 0.3, 2.0, 80.0):
            y = jnp.asarray(toys.mixture(6, centres, sd)) + sigma * rng.standard_normal((6, *shape))
            score = jax.vmap(
                lambda one, s=sigma: jax.grad(log_density)(one, s, centres, sd, weights)
            )
            result = denoise(y, jnp.full(6, sigma))
            assert result.dtype == y.dtype == jnp.float64
            np.testing.assert_allclose(result, y + sigma**2 * score(y), rtol=1e-9, atol=1e-10)


def test_the_denoiser_is_exact_in_float32_at_every_noise_level():
    centres = toys.eight_gaussians_centres()
    rng = np.random.default_rng(0)
    denoise = toys.mixture_denoiser(centres, 0.1)
    for sigma in (0.002, 0.1, 1.0, 80.0):
        y = toys.eight_gaussians(64) + sigma * rng.standard_normal((64, 2))
        y = y.astype(np.float32)
        single = denoise(jnp.asarray(y), jnp.full(64, sigma, jnp.float32))
        with jax.enable_x64(True):
            exact = denoise(
                jnp.asarray(y, jnp.float64), jnp.full(64, np.float32(sigma), jnp.float64)
            )
            np.testing.assert_allclose(single, exact, atol=5e-5)


def test_eight_gaussians():
    x = toys.eight_gaussians(40000)
    assert x.shape == (40000, 2)
    assert x.dtype == np.float32
    assert np.array_equal(x, toys.eight_gaussians(40000))
    assert not np.array_equal(x, toys.eight_gaussians(40000, seed=1))
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(x.var(axis=0), 2 + 0.01, rtol=0.02)


def test_two_moons():
    x = toys.two_moons(20000, noise=0.0)
    upper = np.isclose(np.linalg.norm(x, axis=1), 1, atol=1e-5) & (x[:, 1] >= 0)
    lower = np.isclose(np.linalg.norm(x - [1, 0.5], axis=1), 1, atol=1e-5) & (x[:, 1] <= 0.5)
    assert (upper | lower).all()
    assert upper.mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(x.mean(axis=0), [0.5, 0.25], atol=0.02)
    noisy = toys.two_moons(20000, noise=0.1)
    np.testing.assert_allclose(noisy.var(axis=0) - x.var(axis=0), 0.01, atol=3e-3)
