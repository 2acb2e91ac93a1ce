"""SDS is Diff-Instruct of points: its gradient is DreamFusion's, and a run moves a table."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import methods, models
from diffjax.distributed import sharding
from diffjax.methods.draws import Batch, Draws
from diffjax.methods.sds import WEIGHTS
from diffjax.models.denoiser import NetworkDenoiser
from diffjax.runs import building, config_file, networks
from diffjax.runs.train import train
from tests.support import arrays

CONFIG = Path(__file__).parents[2] / "configs" / "sds_digits.py"
CLASSES, POINTS, MODES, DIMENSION, BATCH = 3, 4, 2, 5, 32
SCALE = 2.5  # of guidance


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def mixtures():
    """Of each class, and of none, the centres [MODES, D] and covariances of a mixture."""
    random = np.random.RandomState(3)
    root = random.standard_normal((CLASSES + 1, MODES, DIMENSION, DIMENSION)) / 2
    return {
        "centres": jnp.asarray(random.standard_normal((CLASSES + 1, MODES, DIMENSION))),
        "covariances": jnp.asarray(root @ root.swapaxes(-1, -2) + 0.1 * np.eye(DIMENSION)),
    }


def log_density(params, which, x, scale, noise):
    """log of the density of scale x0 + noise n, x [D]: DreamFusion's z_t at (a(t), s(t))."""
    centres, covariances = params["centres"][which], params["covariances"][which]
    covariance = scale**2 * covariances + noise**2 * jnp.eye(DIMENSION)
    each = jax.vmap(jax.scipy.stats.multivariate_normal.logpdf, (None, 0, 0))
    return jax.nn.logsumexp(each(x, scale * centres, covariance))


def denoise(params, y, sigma, cond):
    """D = y + sigma^2 score; a condition of zeros is none."""
    which = jnp.where(cond.sum(axis=1) > 0, cond.argmax(axis=1), CLASSES)

    def one(which, y, sigma):
        return y + sigma**2 * jax.grad(log_density, 2)(params, which, y, 1.0, sigma)

    return jax.vmap(one)(which, y, sigma)


def teacher():
    return models.Teacher(
        denoise, mixtures(), (DIMENSION,), 0.5, 0.002, 80.0, cond=models.one_hot(CLASSES)
    )


def render(params, z, *, labels, **_):
    """DreamFusion's g(theta): a differentiable renderer of a point of each index and class."""
    point = params["points"][labels.argmax(axis=1), z]
    return jnp.tanh(point @ params["lens"]) + 0.1 * point


def theta():
    return {
        "points": arrays.normal((CLASSES, POINTS, DIMENSION), 1)[0].astype(jnp.float64),
        "lens": arrays.normal((DIMENSION, DIMENSION), 2)[1].astype(jnp.float64),
    }


def draws():
    random = np.random.RandomState(5)
    return Draws(
        z=jnp.asarray(random.randint(POINTS, size=BATCH)),
        sigma=jnp.asarray(np.exp(random.uniform(-3, 3, BATCH))),
        noise=jnp.asarray(random.standard_normal((BATCH, DIMENSION))),
        labels=jnp.eye(CLASSES)[random.randint(CLASSES, size=BATCH)],
        dropout=jax.random.key(0),
    )


def dreamfusion(params, drawn, w):
    """E[w(t) (eps_hat(z_t; y, t) - eps) dx/dtheta], equation 3, eps_hat with guidance.

    z_t = a(t) x + s(t) eps with a^2 + s^2 = 1, and eps_hat = -s(t) grad log p(z_t).
    """
    x, backward = jax.vjp(lambda p: render(p, drawn.z, labels=drawn.labels), params)
    a = 1 / jnp.sqrt(1 + drawn.sigma**2)
    s = drawn.sigma * a

    def noise_predicted(which, z_t, a, s):
        return -s * jax.grad(log_density, 2)(mixtures(), which, z_t, a, s)

    z_t = a[:, None] * x + s[:, None] * drawn.noise
    given = jax.vmap(noise_predicted)(drawn.labels.argmax(axis=1), z_t, a, s)
    without = jax.vmap(noise_predicted)(jnp.full(BATCH, CLASSES), z_t, a, s)
    guided = without + SCALE * (given - without)
    (gradient,) = backward(w(s)[:, None] * (guided - drawn.noise) / BATCH)
    return gradient


# w(t) of DreamFusion that a weight on denoisers stands for; a is sqrt(1 - s^2).
W = {
    "denoisers": lambda s: s / jnp.sqrt(1 - s**2),
    "noises": jnp.ones_like,
    "dreamfusion": jnp.square,
}


def assert_close(actual, expected):
    for name, value in expected.items():
        norm = np.linalg.norm(value)
        assert norm > 0.1, name
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=1e-10 * norm)


def sds(weight):
    guided = models.guided(teacher(), SCALE, jnp.zeros(CLASSES))

    def denoiser(params, y, sigma, labels):
        return guided.denoise(params, y, sigma, labels)

    return methods.get("sds")(
        networks={"generator": render, "teacher": denoiser},
        batch=Batch((DIMENSION,), BATCH),
        weight=weight,
    )


def gradient_of(method, params, drawn, **others):
    def loss(theta):
        every = {"generator": theta, "teacher": mixtures(), **others}
        (turn,) = (each for each in method.turns() if each.learner == "generator")
        return turn.loss(every, turn.samples(every, drawn), drawn)[0].mean()

    return jax.grad(loss)(params)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_gradient_is_dreamfusions(weight, float64):
    actual = gradient_of(sds(weight), theta(), draws())
    assert_close(actual, dreamfusion(theta(), draws(), W[weight]))
    for other in WEIGHTS.keys() - {weight}:
        wrong = dreamfusion(theta(), draws(), W[other])["points"]
        assert np.linalg.norm(actual["points"] - wrong) > 0.02 * np.linalg.norm(wrong)


def test_the_gradient_is_diff_instructs_with_the_fake_score_in_closed_form(float64):
    """Diff-Instruct gets as its network the denoiser of N(x, width^2 I); of a point width is 0."""
    drawn = draws()
    point = render(theta(), drawn.z, labels=drawn.labels)
    of_sds = sds("denoisers")

    def fake_score(params, y, sigma, labels, train, rng):
        squared = jnp.square(params["width"])
        return point + (squared / (squared + sigma**2))[:, None] * (y - point)

    def denoiser(params, y, sigma, labels, train, rng):
        return of_sds.networks["teacher"](params, y, sigma, labels)

    method = methods.get("diff_instruct")(
        networks={"generator": render, "teacher": denoiser, "fake_score": fake_score},
        batch=Batch((DIMENSION,), BATCH),
    )
    actual = gradient_of(method, theta(), drawn, fake_score={"width": 0.0})
    assert_close(actual, gradient_of(of_sds, theta(), drawn))
    wider = gradient_of(method, theta(), drawn, fake_score={"width": 0.3})["points"]
    assert np.linalg.norm(wider - actual["points"]) > 0.01 * np.linalg.norm(actual["points"])


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
def test_it_descends_the_kl_of_one_point(sigma, float64):
    """The gradient of w(t) sigma KL(N(x, sigma^2) || q_sigma), as DreamFusion's appendix has it."""
    mean, tau, x = 0.4, 0.7, jnp.array([[1.3]])
    nodes, shares = np.polynomial.hermite_e.hermegauss(4)  # exact: the loss is linear in n

    def gaussian(params, y, sigma, labels):
        return y + sigma[:, None] ** 2 * (mean - y) / (tau**2 + sigma[:, None] ** 2)

    method = dataclasses.replace(sds("noises"), networks={"teacher": gaussian})  # w(t) = 1
    drawn = dataclasses.replace(
        draws(), sigma=jnp.full(4, sigma), noise=jnp.asarray(nodes)[:, None]
    )

    def loss(x):
        each, _ = method.generator_loss({"teacher": {}}, jnp.tile(x, (4, 1)), drawn)
        return jnp.sum(each * shares / shares.sum())

    kl = jax.grad(lambda x: jnp.sum((x - mean) ** 2) / (2 * (tau**2 + sigma**2)))
    np.testing.assert_allclose(jax.grad(loss)(x), sigma * kl(x), rtol=1e-12)


def test_published_noise_levels_and_weights_are_for_data_of_one_half():
    method = dataclasses.replace(sds("dreamfusion"), sigma_data=2.0)
    sigma = method.generator_sigma()(jax.random.key(0), (4000,))
    assert np.log(sigma).mean() == pytest.approx(-1.2 + np.log(4), abs=0.1)
    assert np.log(sigma).std() == pytest.approx(1.2, abs=0.1)
    narrow = dataclasses.replace(method, sigma_min=1.0, sigma_max=2.0)
    sigma = narrow.generator_sigma()(jax.random.key(0), (400,))
    assert (float(sigma.min()), float(sigma.max())) == (1.0, 2.0)
    # All in units four times as large: the gradient is that of the same picture.
    one = dataclasses.replace(sds("dreamfusion"), networks=CONSTANT, sigma_data=0.5)
    four = dataclasses.replace(one, sigma_data=2.0)
    drawn = dataclasses.replace(draws(), sigma=jnp.full(BATCH, 0.7))
    scaled = dataclasses.replace(drawn, sigma=4 * drawn.sigma)
    (small, _), (large, _) = (
        one.generator_loss({"teacher": 1.0}, X, drawn),
        four.generator_loss({"teacher": 4.0}, 4 * X, scaled),
    )
    np.testing.assert_allclose(large, 16 * small, rtol=1e-5)  # each difference and x, by 4


X = jnp.full((BATCH, DIMENSION), 0.3)
CONSTANT = {
    "generator": render,
    "teacher": lambda params, y, sigma, labels: jnp.full_like(y, params),
}


def small(tmp_path, updates):
    config = config_file.load(str(CONFIG))
    config.duration_kimg = updates * config.batch_size / 1000
    config.log_kimg = config.checkpoint_kimg = config.batch_size / 1000
    config.grid_kimg = config.evaluate.every_kimg = 0.0
    config.mesh.data = 1
    train(config, str(tmp_path / "run"))
    return config, tmp_path / "run"


def test_a_run_moves_each_point_and_its_network_opens_again(tmp_path):
    config, folder = small(tmp_path, 2)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[1]["delta"] < lines[0]["delta"]
    network = networks.trained(str(folder / "network"), field="config.teacher")
    start = models.points(building.build(config).inputs["teacher"].network.record())
    moved = network.model.generator.params["points"] - start.params["points"]
    assert moved.shape == (10, 10, 8, 8, 1)
    # One of a class and index isn't drawn with a chance of (1 - 1/10)^40 an update.
    assert np.mean(np.abs(np.asarray(moved)).max(axis=(2, 3, 4)) > 1e-3) > 0.95


def test_a_grid_shows_each_point_once():
    config = config_file.load(str(CONFIG))
    exp = building.build(config)
    assert isinstance(exp.denoiser, NetworkDenoiser)
    mesh = sharding.make_mesh(data=1)
    generator = exp.method.networks["generator"]
    params, indices = generator.init(None), jnp.arange(100)
    sample = exp.sampler(seed=config.grid.seed, mesh=mesh)
    shown = np.asarray(sample(params, indices, indices % 10)).reshape(100, -1)
    table = np.asarray(generator.arrays.whole(params)["points"]).reshape(100, -1)
    assert {row.tobytes() for row in shown} == {row.tobytes() for row in table}
    alone = np.asarray(sample(params, indices, jnp.full(100, 3)))[:10].reshape(10, -1)
    assert {row.tobytes() for row in alone} == {row.tobytes() for row in table[30:40]}
