"""What the family's gradients mean, exact on Gaussians in one and two dimensions.

The generator is x = m + R z, the data N(mu, T T'). Diffused, both are Gaussian, so that denoisers,
density ratios and divergences have closed forms. Weights are 1 or depend on the noise level, and no
adversarial term is added. Expectations over the noised y are by Gauss-Hermite quadrature in
float64; given y, x is Gaussian and losses and gradients are polynomials of x, which few nodes
integrate exactly. Divergences are integrated apart, over y alone, and differentiated as they stand.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses

SIGMAS = (0.3, 1.0, 3.0)
TOLERANCE = 1e-6


class Gaussian(NamedTuple):
    mean: jax.Array  # [D]
    root: jax.Array  # [D, D]; the covariance is root root'


class Pair(NamedTuple):
    generator: Gaussian
    data: Gaussian
    nodes: int  # for each dimension of y


PAIRS = {
    "1d, too narrow": Pair(([0.7], [[0.5]]), ([0.3], [[0.6]]), 40),
    "1d, too wide": Pair(([-0.2], [[0.8]]), ([0.1], [[0.7]]), 40),
    "2d": Pair(([0.3, -0.2], [[0.7, 0.0], [0.2, 0.5]]), ([0.1, 0.1], [[0.6, 0.2], [0.0, 0.6]]), 18),
}


@pytest.fixture(params=PAIRS, ids=str)
def pair(request):
    with jax.enable_x64(True):
        generator, data, nodes = PAIRS[request.param]
        arrays = [Gaussian(*map(jnp.asarray, each)) for each in (generator, data)]
        yield Pair(*arrays, nodes)


def covariance(gaussian, sigma):
    return gaussian.root @ gaussian.root.T + sigma**2 * jnp.eye(gaussian.mean.size)


def denoise(gaussian, y, sigma):
    """E[x | x + sigma n = y]."""
    gain = gaussian.root @ gaussian.root.T @ jnp.linalg.inv(covariance(gaussian, sigma))
    return gaussian.mean + (y - gaussian.mean) @ gain.T


def log_density(gaussian, y, sigma):
    """Of the diffused Gaussian, without the constant that all share."""
    root = jnp.linalg.cholesky(covariance(gaussian, sigma))
    white = jax.scipy.linalg.solve_triangular(root, (y - gaussian.mean).T, lower=True).T
    return -jnp.square(white).sum(-1) / 2 - jnp.log(jnp.diag(root)).sum()


def log_ratio(pair, y, sigma):
    """log q/p, data over generator."""
    return log_density(pair.data, y, sigma) - log_density(pair.generator, y, sigma)


def hermite(count, dimensions):
    """Nodes [N, D] and weights [N] of a standard normal."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    nodes = np.stack(np.meshgrid(*[points] * dimensions), -1).reshape(-1, dimensions)
    grid = functools.reduce(np.multiply.outer, [weights / weights.sum()] * dimensions)
    return jnp.asarray(nodes), jnp.asarray(grid.ravel())


def over_y(pair, value, sampler=None):
    """Sum over noise levels of E value(y, sigma), y from a diffused Gaussian, the generator's."""
    sampler = pair.generator if sampler is None else sampler
    u, weights = hermite(pair.nodes, sampler.mean.size)

    def at(sigma):
        y = sampler.mean + u @ jnp.linalg.cholesky(covariance(sampler, sigma)).T
        return weights @ value(y, sigma)

    return jax.vmap(at)(jnp.asarray(SIGMAS)).sum()


def samples(pair, sigma):
    """z, n [N, D] of generated samples and their weights [N]: y, then x given y."""
    generator, size = pair.generator, pair.generator.mean.size
    u, weights_u = hermite(pair.nodes, size)
    v, weights_v = hermite(4, size)
    y = generator.mean + u @ jnp.linalg.cholesky(covariance(generator, sigma)).T
    posterior = jnp.linalg.inv(
        jnp.linalg.inv(generator.root @ generator.root.T) + jnp.eye(size) / sigma**2
    )
    x = denoise(generator, y, sigma)[:, None] + v @ jnp.linalg.cholesky(posterior).T
    z = (x - generator.mean) @ jnp.linalg.inv(generator.root).T
    n = (y[:, None] - x) / sigma
    weights = weights_u[:, None] * weights_v
    return z.reshape(-1, size), n.reshape(-1, size), weights.ravel()


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def loss_gradient(pair, loss):
    """Gradient of E loss(x, y, sigma) in the generator, networks being constant."""

    def expected(generator):
        def at(sigma):
            z, n, weights = samples(pair, sigma)
            x = generator.mean + z @ generator.root.T
            return weights @ loss(x, x + sigma * n, sigma)

        return jax.vmap(at)(jnp.asarray(SIGMAS)).sum()

    return flat(jax.grad(expected)(pair.generator))


def divergence_gradient(pair, value, *, frozen_measure=False):
    """Gradient of the sum over noise levels of E value(pair, y, sigma), y and value following."""

    def expected(generator):
        now = pair._replace(generator=generator)
        sampler = pair.generator if frozen_measure else generator
        return over_y(pair, lambda y, sigma: value(now, y, sigma), sampler)

    return flat(jax.grad(expected)(pair.generator))


def assert_close(actual, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.linalg.norm(expected))


def assert_far(actual, expected):
    assert np.linalg.norm(actual - expected) > 0.01 * np.linalg.norm(expected)


def denoisers(pair, y, sigma):
    return denoise(pair.data, y, sigma), denoise(pair.generator, y, sigma)


# ---- KL and other f-divergences of the diffused distributions ----------------------------------

# f of D_f(q || p) = E_p f(q/p), q being the data.
F = {
    "reverse_kl": lambda r: -jnp.log(r),
    "soft_reverse_kl": lambda r: (r + 1) * jnp.log(0.5 + 0.5 / r),
    "jensen_shannon": lambda r: r * jnp.log(r) - (r + 1) * jnp.log((r + 1) / 2),
    "squared_hellinger": lambda r: 1 - jnp.sqrt(r),
    "forward_kl": lambda r: r * jnp.log(r),
    "jeffreys": lambda r: (r - 1) * jnp.log(r),
    "neyman": lambda r: (1 / r - 1) / 2,
}


def weight(sigma):
    """Any weight on denoisers will do."""
    return 1 / (1 + sigma)


def f_divergence(f):
    """Value at y of w sigma^2 D_f, the weight being on denoisers."""

    def value(pair, y, sigma):
        return weight(sigma) * sigma**2 * f(jnp.exp(log_ratio(pair, y, sigma)))

    return value


@pytest.mark.parametrize("divergence", F)
def test_weights_are_second_derivatives(divergence):
    with jax.enable_x64(True):
        r = jnp.asarray([0.03, 0.5, 1.0, 2.0, 30.0])
        second = jax.vmap(jax.grad(jax.grad(F[divergence])))(r)
        h = losses.f_divergence_weight(r, divergence)
        np.testing.assert_allclose(h, second * r**2, rtol=1e-8)


@pytest.mark.parametrize("name", ["dmd", "diff_instruct"])
def test_distribution_matching_descends_the_integral_kl(pair, name):
    def loss(x, y, sigma, **settings):
        return getattr(losses, name)(x, *denoisers(pair, y, sigma), **settings)

    actual = loss_gradient(pair, lambda x, y, s: loss(x, y, s, weight=weight(s)))
    assert_close(actual, divergence_gradient(pair, f_divergence(F["reverse_kl"])))
    if name == "dmd":  # the published weight depends on the sample
        scaled = loss_gradient(pair, loss)
        scaled *= np.linalg.norm(actual) / np.linalg.norm(scaled)
        assert_far(scaled, actual)


@pytest.mark.parametrize("divergence", F)
def test_f_distill_descends_its_divergence(pair, divergence):
    def loss(x, y, sigma):
        ratio = jnp.exp(log_ratio(pair, y, sigma))
        return losses.f_distill(
            x, *denoisers(pair, y, sigma), ratio, divergence=divergence, weight=weight(sigma)
        )

    actual = loss_gradient(pair, loss)
    assert_close(actual, divergence_gradient(pair, f_divergence(F[divergence])))
    if divergence != "reverse_kl":
        assert_far(actual, divergence_gradient(pair, f_divergence(F["reverse_kl"])))


@pytest.mark.parametrize("skew", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_smd_descends_the_skewed_jensen_shannon_divergence(pair, skew):
    def loss(x, y, sigma):
        logits = log_ratio(pair, y, sigma)
        return losses.smd(x, *denoisers(pair, y, sigma), logits, skew=skew, weight=weight(sigma))

    def skewed(r):
        """KL(q || m)/(1 - a) + KL(p || m)/a, m = a q + (1 - a) p, as E_p."""
        mixture = skew * r + 1 - skew
        return r * jnp.log(r / mixture) / (1 - skew) - jnp.log(mixture) / skew

    f = {0.0: F["forward_kl"], 1.0: F["reverse_kl"]}.get(skew, skewed)
    assert_close(loss_gradient(pair, loss), divergence_gradient(pair, f_divergence(f)))


def test_moment_matching_descends_half_of_the_integral_kl(pair):
    def loss(x, y, sigma):
        d_teacher, d_fake = denoisers(pair, y, sigma)
        auxiliary = (d_teacher + d_fake) / 2
        return losses.moment_matching(x, d_teacher, auxiliary, weight=weight(sigma))

    expected = divergence_gradient(pair, f_divergence(F["reverse_kl"])) / 2
    assert_close(loss_gradient(pair, loss), expected)


def test_moment_matchings_auxiliary_network_ends_half_way(pair):
    """At E[x|y], shared half and half, no direction of the auxiliary network has a slope."""
    for sigma in SIGMAS:
        z, n, weights = samples(pair, sigma)
        x = pair.generator.mean + z @ pair.generator.root.T
        y = x + sigma * n
        d_teacher, d_fake = denoisers(pair, y, sigma)

        def slopes(share, x=x, y=y, weights=weights, d_teacher=d_teacher, d_fake=d_fake):
            auxiliary = share * d_teacher + (1 - share) * d_fake
            gradient = jax.grad(
                lambda d: weights @ losses.moment_matching_auxiliary(x, d_teacher, d)
            )(auxiliary)
            return np.asarray([(gradient * field).sum() for field in (1, y, y**2, d_teacher)])

        assert np.abs(slopes(0.5)).max() < 1e-10
        assert np.abs(slopes(0.0)).max() > 1e-3


# ---- Distances of scores -----------------------------------------------------------------------


def fisher(pair, y, sigma):
    d_teacher, d_fake = denoisers(pair, y, sigma)
    return weight(sigma) * jnp.square(d_teacher - d_fake).sum(-1)


def test_fgm_descends_the_fisher_divergence(pair):
    actual = loss_gradient(
        pair,
        lambda x, y, s: losses.fgm(x, *denoisers(pair, y, s), weight=weight(s)),
    )
    assert_close(actual, divergence_gradient(pair, fisher))
    assert_far(actual, divergence_gradient(pair, fisher, frozen_measure=True))


def test_fgm_on_velocities_descends_the_distance_of_velocities(pair):
    """At y' = (1 - t) x + t n, which is y (1 - t), u = (y' - D)/t and the target is n - x."""

    def loss(x, y, sigma):
        t = sigma / (1 + sigma)
        d_teacher, d_fake = denoisers(pair, y, sigma)
        y = (1 - t) * y
        return losses.fgm((y - x) / t, (y - d_teacher) / t, (y - d_fake) / t)

    def velocities(pair, y, sigma):
        d_teacher, d_fake = denoisers(pair, y, sigma)
        return jnp.square(d_teacher - d_fake).sum(-1) * ((1 + sigma) / sigma) ** 2

    assert_close(loss_gradient(pair, loss), divergence_gradient(pair, velocities))


@pytest.mark.parametrize(("alpha", "frozen_measure"), [(0.5, False), (1.0, True)])
def test_sid_descends_half_of_the_fisher_divergence(pair, alpha, frozen_measure):
    actual = loss_gradient(
        pair,
        lambda x, y, s: losses.sid(x, *denoisers(pair, y, s), alpha=alpha, weight=weight(s)),
    )
    assert_close(actual, divergence_gradient(pair, fisher, frozen_measure=frozen_measure) / 2)


@pytest.mark.parametrize("frozen_measure", [False, True])
def test_sid_at_the_published_alpha_descends_neither(pair, frozen_measure):
    actual = loss_gradient(
        pair,
        lambda x, y, s: losses.sid(x, *denoisers(pair, y, s), alpha=1.2, weight=weight(s)),
    )
    assert_far(actual, divergence_gradient(pair, fisher, frozen_measure=frozen_measure) / 2)


DISTANCES = {
    "squared": lambda y: jnp.square(y).sum(-1),
    "pseudo_huber": lambda y: jnp.sqrt(jnp.square(y).sum(-1) + 0.7**2) - 0.7,
    "fourth powers": lambda y: (y**4).sum(-1),
    "1.5th power of a norm": lambda y: (jnp.square(y).sum(-1) + 1) ** 0.75,
}


@pytest.mark.parametrize("distance", DISTANCES)
def test_sim_descends_the_distance_with_the_sampling_measure_frozen(pair, distance):
    known = distance in ("squared", "pseudo_huber")

    def loss(x, y, sigma, stop=lambda y: y):
        return losses.sim(
            x,
            *denoisers(pair, stop(y), sigma),
            sigma,
            distance=distance if known else DISTANCES[distance],
            c=0.7,
            weight=weight(sigma),
        )

    def value(pair, y, sigma):
        d_teacher, d_fake = denoisers(pair, y, sigma)
        return weight(sigma) * DISTANCES[distance]((d_fake - d_teacher) / sigma**2)

    expected = divergence_gradient(pair, value, frozen_measure=True)
    assert_close(loss_gradient(pair, loss), expected)
    assert_far(loss_gradient(pair, functools.partial(loss, stop=jax.lax.stop_gradient)), expected)
    assert_far(divergence_gradient(pair, value), expected)


def test_sims_squared_distance_is_sid(pair):
    x, y, sigma = (
        jnp.asarray([[0.3] * pair.data.mean.size]),
        jnp.ones((1, pair.data.mean.size)),
        0.4,
    )
    both = denoisers(pair, y, sigma)
    expected = 2 / sigma**4 * losses.sid(x, *both, alpha=1.0, weight=1.0)
    np.testing.assert_allclose(losses.sim(x, *both, sigma, distance="squared"), expected)


# ---- Uni-Instruct ------------------------------------------------------------------------------


def expanded(divergence):
    """Value at y of w h(r) ||Delta||^2."""

    def value(pair, y, sigma):
        h = losses.f_divergence_weight(jnp.exp(log_ratio(pair, y, sigma)), divergence)
        return h * fisher(pair, y, sigma)

    return value


@pytest.mark.parametrize("divergence", F)
def test_uni_instruct_descends_its_expanded_divergence(pair, divergence):
    def loss(x, y, sigma):
        logits = log_ratio(pair, y, sigma)
        return losses.uni_instruct(
            x,
            *denoisers(pair, y, sigma),
            logits,
            sigma,
            divergence=divergence,
            weight=weight(sigma),
        )

    expected = divergence_gradient(pair, expanded(divergence)) / 2
    assert_close(loss_gradient(pair, loss), expected)
    assert_far(divergence_gradient(pair, expanded(divergence), frozen_measure=True) / 2, expected)


@pytest.mark.parametrize("divergence", ["reverse_kl", "jensen_shannon", "neyman"])
def test_the_expansion_is_the_divergences_slope_along_the_diffusion(pair, divergence):
    """d D_f / d sigma^2 = -1/2 E h ||s_teacher - s_fake||^2."""

    def divergence_at(variance):
        sigma = jnp.sqrt(variance)
        u, weights = hermite(pair.nodes, pair.data.mean.size)
        root = jnp.linalg.cholesky(covariance(pair.generator, sigma))
        y = pair.generator.mean + u @ root.T
        return weights @ F[divergence](jnp.exp(log_ratio(pair, y, sigma)))

    slope = sum(jax.grad(divergence_at)(sigma**2) * sigma**4 * weight(sigma) for sigma in SIGMAS)
    integrand = over_y(pair, lambda y, sigma: expanded(divergence)(pair, y, sigma))
    np.testing.assert_allclose(slope, -integrand / 2, rtol=1e-6)


@pytest.mark.parametrize("divergence", F)
def test_uni_instruct_with_a_stopped_ratio_descends_the_reverse_kl_alone(pair, divergence):
    """As the released code has it: the slope of the ratio is missing."""

    def loss(x, y, sigma):
        return losses.uni_instruct(
            x,
            *denoisers(pair, y, sigma),
            log_ratio(pair, y, sigma),
            sigma,
            divergence=divergence,
            through_ratio=False,
            weight=weight(sigma),
        )

    told = assert_close if divergence == "reverse_kl" else assert_far
    told(loss_gradient(pair, loss), divergence_gradient(pair, expanded(divergence)) / 2)


def test_uni_instructs_released_ratio_descends_none(pair):
    """It is nearly 1 whatever the logits are, so that SiD at α = 1 remains."""
    large = 1e4  # the adversarial value of an image is in the thousands

    def loss(x, y, sigma):
        logits = log_ratio(pair, y, sigma)[:, None]
        return losses.uni_instruct_released(
            x, *denoisers(pair, y, sigma), logits, gan_scale=0.0, weight=large * weight(sigma)
        )

    def plain(x, y, sigma):
        return losses.sid(x, *denoisers(pair, y, sigma), alpha=1.0, weight=weight(sigma))

    actual = loss_gradient(pair, loss) / large
    assert_close(actual, loss_gradient(pair, plain), tolerance=1e-2)
    for divergence in F:
        assert_far(actual, divergence_gradient(pair, expanded(divergence)) / 2)
        if divergence != "reverse_kl":  # whose frozen form SiD at α = 1 is
            frozen = divergence_gradient(pair, expanded(divergence), frozen_measure=True)
            assert_far(actual, frozen / 2)


# ---- Discriminators ----------------------------------------------------------------------------


def logit_slopes(pair, loss, offset):
    """Slopes of a loss on data and samples along some changes of the logit, near the exact one."""
    found = []
    for field in (lambda y: 1.0 + 0 * y[:, 0], lambda y: y[:, 0], lambda y: jnp.square(y[:, -1])):

        def along(step, real, field=field):
            def value(y, sigma):
                logits = log_ratio(pair, y, sigma) + offset + step * field(y)
                return loss(y, sigma, logits, real)

            return over_y(pair, value, pair.data if real else pair.generator)

        found.append(jax.grad(along)(0.0, True) + jax.grad(along)(0.0, False))
    return np.abs(np.asarray(found)).max()


@pytest.mark.parametrize("skew", [0.2, 0.5, 0.9])
def test_smds_critic_learns_the_log_ratio(pair, skew):
    def loss(y, sigma, logits, real):
        both = denoisers(pair, y, sigma)
        return losses.smd_critic(*both, logits, skew=skew, real=real)

    assert logit_slopes(pair, loss, 0.0) < 1e-7
    assert logit_slopes(pair, loss, 0.3) > 1e-4


def test_a_discriminator_learns_the_log_ratio(pair):
    def loss(y, sigma, logits, real):
        nothing = jnp.full_like(logits, jnp.inf)
        halves = (logits, -nothing) if real else (nothing, logits)
        return losses.gan_discriminator(*halves)

    assert logit_slopes(pair, loss, 0.0) < 1e-7
    assert logit_slopes(pair, loss, 0.3) > 1e-2
