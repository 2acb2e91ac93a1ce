"""Diff-Instruct beside GANs and SDS, on Gaussians: its Corollaries 3.4 and 3.5, with numbers.

A GAN whose discriminator knows log p/q follows the gradient of KL(p || q), which is Diff-Instruct's
at noise level 0 alone. A generator of points makes Diff-Instruct SDS, which seeks modes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import relations
from diffjax import models

SIGMAS = [0.01, 0.02, 0.04]


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=[1, 2], ids=["1-D", "2-D"])
def pair(request, float64):
    return jax.tree.map(lambda x: x.astype(jnp.float64), relations.PAIRS[request.param])


@pytest.fixture
def exact(pair):
    return relations.gan_gradient(pair[0], relations.perfect_logit(*pair))


def test_a_gan_with_a_perfect_discriminator_descends_the_kl(pair, exact):
    assert relations.distance(exact, relations.kl_gradient(*pair)) < 1e-12


def test_a_gan_that_minimises_another_divergence_has_another_gradient(pair, exact):
    """The first GAN's loss E log(1 - D) is the Jensen-Shannon divergence's, not the KL's."""
    logit = relations.perfect_logit(*pair)
    saturating = relations.gan_gradient(pair[0], lambda x: -jax.nn.softplus(-logit(x)))
    assert relations.distance(saturating, exact) > 0.2


def test_diff_instruct_tends_to_the_gan_as_noise_vanishes(pair, exact):
    errors = [
        relations.distance(relations.diff_instruct_gradient(*pair, sigma), exact)
        for sigma in SIGMAS
    ]
    assert errors[0] < 1e-3
    np.testing.assert_allclose(np.diff(np.log2(errors)), 2, atol=0.05)  # O(sigma^2)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_diff_instruct_at_other_noise_levels_is_not_the_gan(pair, exact, sigma):
    assert relations.distance(relations.diff_instruct_gradient(*pair, sigma), exact) > 0.2


def test_a_trained_discriminator_is_nearly_the_perfect_one(pair, exact):
    """Of logistic regression, whose error falls as one over the root of the number of samples."""

    def error(count):
        logits = [relations.fitted_logit(*pair, count, jax.random.key(seed)) for seed in range(4)]
        gradients = [relations.gan_gradient(pair[0], logit) for logit in logits]
        return np.mean([relations.distance(gradient, exact) for gradient in gradients])

    few, many = error(500), error(32_000)
    assert many < 0.04
    assert 3 < few / many < 22  # 8, by chance


def gaussian(std):
    """An unconditional teacher of N((0.7, -0.4), diag(std^2))."""

    def denoise(params, y, sigma, cond=None):
        variance, squared = jnp.square(params["std"]), jnp.square(sigma)[:, None]
        return (variance * y + squared * params["mean"]) / (variance + squared)

    params = {"mean": np.array([0.7, -0.4], np.float32), "std": np.array(std, np.float32)}
    return models.Teacher(denoise, params, (2,), 1.0, 0.01, 100.0)


def test_points_contract_to_the_mean_of_a_gaussian_exponentially():
    """E[x - D] = sigma^2/(tau^2 + sigma^2) (x - mean), so that each step has a factor an axis."""
    sigmas, tau, updates, count, batch = [0.3, 1.0], np.array([0.5, 1.5]), 40, 16, 4096
    teacher = gaussian(tau)
    paths = np.asarray(
        relations.trajectories(teacher, sigmas, updates, count=count, batch=batch), np.float64
    )
    for sigma, path in zip(sigmas, paths, strict=True):
        start, mean = path[0], np.asarray(teacher.params["mean"])
        factor = 1 - 0.5 * sigma**2 / (tau**2 + sigma**2)
        expected = mean + factor ** np.arange(updates + 1)[:, None, None] * (start - mean)
        # Noise of a step: half of tau^2/(tau^2 + sigma^2) sigma n, over a point's share of draws.
        step = 0.5 * sigma * tau**2 / (tau**2 + sigma**2) / np.sqrt(batch / count)
        error = (path - expected) / (step / np.sqrt(1 - factor**2))
        assert np.abs(error).max() < 5.5
        assert np.std(error[-1]) > 0.3  # the bound isn't loose
        # What samples of the teacher would have, points lose.
        assert np.all(path[-1].std(axis=0) < 1.5 * factor**updates * start.std(axis=0) + 0.05)


def test_points_seek_the_modes_of_the_noised_density():
    """Samples would have the modes' width; with much noise, points go where there are no data."""
    sigmas = [0.3, 0.6, 1.5]
    paths = np.asarray(relations.trajectories(relations.MODES, sigmas, 150))[..., 0]
    theory = [relations.resting_place(sigma) for sigma in sigmas]
    np.testing.assert_allclose(theory, [0.998, 0.6475, 0], atol=1e-3)
    for expected, path in zip(theory, paths, strict=True):
        ends = path[-50:].mean(axis=0)
        np.testing.assert_allclose(np.abs(ends), expected, atol=0.06)
    near, _, far = paths[:, -50:].mean(axis=1)
    assert {-1.0, 1.0} == set(np.sign(near))
    for sign in (-1, 1):
        assert near[np.sign(near) == sign].std() < 0.05 * relations.WIDTH
    assert np.abs(far).max() < relations.CENTRE - 4 * relations.WIDTH
