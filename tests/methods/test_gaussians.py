"""What the turns of the methods descend, exact on Gaussians, denoisers being exact.

As `tests/losses/test_divergences.py` has it for the losses alone: here the methods call the
networks, weigh and diffuse. Normalising weights, where there are any, are set to 1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses, methods
from diffjax.methods.draws import Batch, Draws
from tests.losses import test_divergences as exact

pair = exact.pair  # a fixture


def gradient(pair, name, auxiliary=None, **settings):
    """Expected gradient of the generator's turn in mean and root of the generator."""

    def denoiser(gaussian, y, sigma, *, labels=None, train=False, rng=None):
        return exact.denoise(gaussian, y, sigma[0])

    def halfway(gaussian, y, sigma, **options):
        return (denoiser(gaussian, y, sigma) + denoiser(pair.data, y, sigma)) / 2

    method = methods.get(name)(
        networks={
            "teacher": denoiser,
            "fake_score": halfway if auxiliary else denoiser,
            "generator": None,
        },
        batch=Batch((pair.data.mean.size,), 1),
        **settings,
    )
    (turn,) = [turn for turn in method.turns() if turn.learner == "generator"]
    params = {"teacher": pair.data, "fake_score": pair.generator}

    def loss(x, y, sigma):
        draws = Draws(
            z=None,
            sigma=jnp.full(len(x), sigma),
            noise=(y - x) / sigma,
            labels=None,
            dropout=jax.random.key(0),
        )
        return turn.loss(params, x, draws)[0]

    return exact.loss_gradient(pair, loss)


@pytest.fixture
def no_weights(monkeypatch):
    """Losses whose weight depends on the sample, without it."""
    for name in ("sid", "dmd"):
        monkeypatch.setattr(losses, name, functools.partial(getattr(losses, name), weight=1.0))


def integral_kl(pair, y, sigma):
    return -(sigma**2) * exact.log_ratio(pair, y, sigma)


def fisher(pair, y, sigma):
    d_teacher, d_fake = exact.denoisers(pair, y, sigma)
    return jnp.square(d_teacher - d_fake).sum(-1)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("name", "factor"), [("diff_instruct", 1), ("dmd", 1), ("moment_matching", 0.5)]
)
def test_what_holds_scores_constant_descends_the_integral_kl(pair, name, factor):
    actual = gradient(pair, name, auxiliary=name == "moment_matching")
    exact.assert_close(actual, factor * exact.divergence_gradient(pair, integral_kl))


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(("alpha", "frozen"), [(0.5, False), (1.0, True), (1.2, None)])
def test_sid_descends_half_of_the_fisher_divergence_but_at_the_published_alpha(pair, alpha, frozen):
    actual = gradient(pair, "sid", alpha=alpha)
    for measure in (False, True):
        half = exact.divergence_gradient(pair, fisher, frozen_measure=measure) / 2
        (exact.assert_close if measure is frozen else exact.assert_far)(actual, half)


def test_fgm_descends_the_distance_of_velocities(pair):
    def velocities(pair, y, sigma):
        return fisher(pair, y, sigma) * ((1 + sigma) / sigma) ** 2

    expected = exact.divergence_gradient(pair, velocities)
    exact.assert_close(gradient(pair, "fgm"), expected)


@pytest.mark.parametrize("distance", ["pseudo_huber", "squared"])
@pytest.mark.parametrize("distance_of", ["denoisers", "scores"])
def test_sim_descends_its_distance_with_the_sampling_measure_frozen(pair, distance, distance_of):
    def value(pair, y, sigma):
        power = 4 if distance_of == "scores" else 0
        squared = fisher(pair, y, sigma) / sigma**power
        return squared if distance == "squared" else jnp.sqrt(squared + 0.7**2) - 0.7

    actual = gradient(pair, "sim", distance=distance, distance_of=distance_of, c=0.7)
    exact.assert_close(actual, exact.divergence_gradient(pair, value, frozen_measure=True))
    exact.assert_far(actual, exact.divergence_gradient(pair, value))


def test_sim_of_squares_with_sids_weight_is_sid(pair):
    """Twice its gradient at α = 1, and at no other α."""
    sim = gradient(pair, "sim", distance="squared", weight="normalizing")
    np.testing.assert_allclose(sim, 2 * gradient(pair, "sid", alpha=1.0), rtol=1e-10)
    exact.assert_far(sim, 2 * gradient(pair, "sid", alpha=1.2))


def test_units_of_the_data_change_nothing(pair):
    """Of data twice as large, SIM's loss is as many times the loss as its distance has units."""
    double = pair._replace(
        generator=exact.Gaussian(2 * pair.generator.mean, 2 * pair.generator.root),
        data=exact.Gaussian(2 * pair.data.mean, 2 * pair.data.root),
    )
    sigmas = [2 * sigma for sigma in exact.SIGMAS]
    for name, power, settings in (("sim", 1, {}), ("fgm", 2, {})):
        once = gradient(pair, name, **settings)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exact, "SIGMAS", sigmas)
            twice = gradient(double, name, sigma_data=1.0, **settings)
        # A gradient in twice the parameter is half as large.
        np.testing.assert_allclose(twice, 2 ** (power - 1) * once, rtol=1e-9)
