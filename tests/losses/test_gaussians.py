"""What the losses' gradients mean, exact on one-dimensional Gaussians.

The generator is x = m + s z, the data N(mu, tau^2). Diffused to a noise level, both are Gaussian,
so both denoisers and every divergence have closed forms, and expectations over z and n of the
polynomials at hand are exact under Gauss-Hermite quadrature.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses

DATA = (0.4, 0.7)  # mu, tau
GENERATORS = [(1.1, 0.3), (-0.5, 1.4), (0.4, 0.05)]
SIGMAS = (0.05, 0.3, 1.0, 4.0)

pytestmark = pytest.mark.parametrize("generator", GENERATORS, ids=str)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def denoise(distribution, y, sigma):
    """E[x | x + sigma n = y] under x ~ N(mean, std^2)."""
    mean, std = distribution
    return mean + std**2 / (std**2 + sigma**2) * (y - mean)


def nodes():
    """z, n [B] and their weights [B], which sum to 1."""
    points, weights = np.polynomial.hermite_e.hermegauss(8)
    z, n = np.meshgrid(points, points)
    total = np.outer(weights, weights) / weights.sum() ** 2
    return jnp.asarray(z.ravel()), jnp.asarray(n.ravel()), jnp.asarray(total.ravel())


def expectation(loss, generator):
    """E over z, n of loss(x, n) [B], summed over noise levels."""
    mean, std = generator
    z, n, weights = nodes()
    return sum(jnp.sum(weights * loss(mean + std * z, n, sigma)) for sigma in SIGMAS)


def gradient(function, generator):
    return np.asarray(jax.grad(function)(jnp.asarray(generator)))


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10 * np.linalg.norm(expected))


def assert_far(actual, expected):
    assert np.linalg.norm(actual - expected) > 0.02 * np.linalg.norm(expected)


# ---- Diff-Instruct -----------------------------------------------------------------------------


def weight(sigma):
    """Any weight on denoisers will do."""
    return 1 / (1 + sigma)


def integral_kl(generator, power):
    """Sum over sigma of w(sigma) sigma^power KL(p_sigma || q_sigma)."""
    (mean, std), (mu, tau) = generator, DATA
    total = 0.0
    for sigma in SIGMAS:
        p, q = std**2 + sigma**2, tau**2 + sigma**2
        kl = 0.5 * (jnp.log(q / p) + (p + (mean - mu) ** 2) / q - 1)
        total += weight(sigma) * sigma**power * kl
    return total


def diff_instruct_gradient(generator):
    def loss(x, n, sigma):
        y = x + sigma * n
        return losses.diff_instruct(
            x, denoise(DATA, y, sigma), denoise(generator, y, sigma), weight=weight(sigma)
        )

    return gradient(lambda parameters: expectation(loss, parameters), generator)


def test_diff_instruct_descends_the_integral_kl(generator):
    actual = diff_instruct_gradient(generator)
    assert_close(actual, gradient(lambda p: integral_kl(p, power=2), generator))
    # The weight is on denoisers, which is sigma^2 on scores: without it the claim fails.
    assert_far(actual, gradient(lambda p: integral_kl(p, power=0), generator))


# ---- SiD ---------------------------------------------------------------------------------------


def fisher(generator, *, frozen_measure=False):
    """Sum over sigma of E ||D_teacher - D_fake||^2 over p_sigma, D_fake following the generator."""
    measure = jax.lax.stop_gradient(generator) if frozen_measure else generator

    def squared(x, n, sigma):
        y = x + sigma * n
        return jnp.square(denoise(DATA, y, sigma) - denoise(generator, y, sigma))

    return expectation(squared, measure)


def sid_gradient(generator, *, alpha, weight=1.0, through_denoisers=True):
    """The fake score is exact, and its parameters constant, as in an update of the generator."""

    def loss(x, n, sigma):
        y = x + sigma * n
        if not through_denoisers:
            y = jax.lax.stop_gradient(y)
        d_teacher, d_fake = denoise(DATA, y, sigma), denoise(generator, y, sigma)
        return losses.sid(x, d_teacher, d_fake, alpha=alpha, weight=weight)

    return gradient(lambda parameters: expectation(loss, parameters), generator)


def test_sid_at_one_half_descends_the_fisher_divergence(generator):
    expected = gradient(fisher, generator) / 2
    assert_close(sid_gradient(generator, alpha=0.5), expected)
    assert_far(sid_gradient(generator, alpha=1.0), expected)
    assert_far(sid_gradient(generator, alpha=0.5, weight=None), expected)


def test_sid_at_one_descends_it_with_the_sampling_measure_frozen(generator):
    expected = gradient(lambda p: fisher(p, frozen_measure=True), generator) / 2
    assert_close(sid_gradient(generator, alpha=1.0), expected)
    assert_far(sid_gradient(generator, alpha=0.5), expected)
    assert_far(sid_gradient(generator, alpha=1.0, weight=None), expected)


@pytest.mark.parametrize("frozen_measure", [False, True])
def test_the_published_alpha_descends_neither(generator, frozen_measure):
    expected = gradient(lambda p: fisher(p, frozen_measure=frozen_measure), generator) / 2
    assert_far(sid_gradient(generator, alpha=1.2), expected)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_sid_needs_the_gradient_through_the_denoisers(generator, alpha):
    expected = gradient(lambda p: fisher(p, frozen_measure=alpha == 1.0), generator) / 2
    assert_far(sid_gradient(generator, alpha=alpha, through_denoisers=False), expected)
