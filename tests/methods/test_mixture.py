"""Methods with a fake score: a generator that starts in one place learns every mode of a mixture.

The teacher is exact. Generator and fake score are small networks, trained by the package's own
draws, update and optimiser, so this fails where any of them pulls the wrong way.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import methods
from diffjax.diffusion.preconditioning import EDM
from diffjax.methods.draws import Batch, Dataset
from diffjax.methods.score_distillation import ScoreDistillation
from diffjax.models import discriminator
from diffjax.models.discriminator import Headed
from diffjax.models.generator import DenoiserGenerator
from diffjax.training import optimizer, state
from diffjax.training.draws import told
from diffjax.training.ema import Averages
from diffjax.training.update import Update
from tests.support import compiling

MODES = 8
RADIUS = 0.7
STD = 0.08  # of a mode
UPDATES, FEWER = 6000, 2500  # the latter where the fake score has several in each
BATCH = 256
WIDTH = {"teacher": 5, "fake_score": 64}  # of features
# Phases that are over, so that a discriminator counts from the start.
SETTINGS = {
    "sida": {"gan_from_kimg": 0.0},
    # With the slope of the ratio it reaches no mode.
    "uni_instruct": {"gan_from_kimg": 0.0, "divergence": "jensen_shannon"},
}
METHODS = [name for name in methods.names() if issubclass(methods.get(name), ScoreDistillation)]


def mode_centers():
    angle = 2 * np.pi * np.arange(MODES) / MODES
    return jnp.asarray(RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1), jnp.float32)


def exact_teacher(centers, x, sigma, *, labels=None, augment_labels=None, train=False, rng=None):
    """E[x0 | x]: each mode's posterior mean, by the mode's probability given x."""
    variance = (STD**2 + sigma**2)[:, None]
    squared_distance = jnp.square(x[:, None] - centers).sum(axis=2)
    center = jax.nn.softmax(-squared_distance / (2 * variance)) @ centers
    return (STD**2 * x + sigma[:, None] ** 2 * center) / variance


def features_of_teacher(centers, x, sigma, **options):
    """What the teacher says, and what a discriminator may judge by: x, σ and that."""
    d = exact_teacher(centers, x, sigma, **options)
    scale = jnp.sqrt(EDM().sigma_data ** 2 + sigma**2)[:, None]
    return d, (jnp.concatenate([x / scale, jnp.log(sigma)[:, None] / 4, d], axis=1),)


def mixture(count=20_000):
    """Real points."""
    mode_key, key = jax.random.split(jax.random.key(11))
    mode = jax.random.randint(mode_key, (count,), 0, MODES)
    x = mode_centers()[mode] + STD * jax.random.normal(key, (count, 2))
    return Dataset(images=x, classes=mode)


class MLP(nn.Module):
    """A raw network F(c_in x, c_noise) on points, and its last hidden layer."""

    @nn.compact
    def __call__(self, x, noise_label):
        phase = noise_label[:, None] * jnp.arange(1.0, 5.0)
        h = jnp.concatenate([x, noise_label[:, None], jnp.cos(phase), jnp.sin(phase)], axis=1)
        for _ in range(3):
            h = nn.silu(nn.Dense(64)(h))
        return nn.Dense(2, name="last")(h), h


class Judge(nn.Module):
    """A discriminator's head on one vector of features an example."""

    @nn.compact
    def __call__(self, features):
        h = nn.silu(nn.Dense(64)(features[-1]))
        return nn.Dense(1)(h)


class MLPDenoiser:
    network = MLP()
    preconditioning = EDM()

    def init(self, key):
        return self.network.init(key, jnp.zeros((1, 2)), jnp.zeros(1))

    def __call__(self, params, x, sigma, **options):
        return self.features(params, x, sigma, **options)[0]

    def features(
        self, params, x, sigma, *, labels=None, augment_labels=None, train=False, rng=None
    ):
        scalings = self.preconditioning(sigma, {})
        c_skip, c_out, c_in = (c[:, None] for c in scalings[:3])
        raw, hidden = self.network.apply(params, c_in * x, scalings.c_noise)
        return c_skip * x + c_out * raw, (hidden,)


def at_the_first_mode(params):
    """A generator's parameters with which all its samples lie around one mode."""
    last = params["params"]["last"]
    bias = mode_centers()[0] / EDM().sigma_data  # c_out is about sigma_data
    last = {"kernel": 0.1 * last["kernel"], "bias": bias}
    return {"params": {**params["params"], "last": last}}


def setup_for(method):
    cls, model = methods.get(method), MLPDenoiser()
    networks = {
        "teacher": exact_teacher,
        "fake_score": model,
        "generator": DenoiserGenerator(model, init_sigma=2.5),
    }
    if cls.judged_by:
        headed = Headed(model, Judge(), None)
        has_head = any(learner.has_head for learner in cls.learners)
        networks["fake_score"] = headed if has_head else model
        networks["head"] = headed.logits if has_head else discriminator.channel_mean
        of_teacher = cls.judged_by == "teacher"
        networks["features"] = (
            features_of_teacher if of_teacher else networks["fake_score"].features
        )
    rates = {"fake_score": optimizer.adam(2e-3), "generator": optimizer.adam(5e-4)}
    return Update(
        method=cls(
            networks=networks,
            batch=Batch((2,), BATCH),
            **{"generator_loss_scale": 1.0, **SETTINGS.get(method, {})},
        ),
        optimizers={each.name: rates.get(each.name, optax.sgd(1.0)) for each in cls.learners},
        averages=Averages(50 * BATCH, 0.05),
    )


def updates(setup):
    return UPDATES if setup.method.fake_score_updates == 1 else FEWER


def start_of(setup, generator, fake_score, head_key):
    """The state before the first update."""
    params = {"generator": generator, "fake_score": fake_score}
    if isinstance(setup.method.networks["fake_score"], Headed):
        features = (jnp.zeros((1, WIDTH[setup.method.judged_by])),)
        head = Judge().init(head_key, features)["params"]
        params["fake_score"] = {"network": fake_score, "head": head}
    others = [each for each in setup.method.learners if not each.is_network]
    params |= {each.name: each.starts_as() for each in others}
    return state.create(params, setup.optimizers, setup.averaged)


@functools.partial(jax.jit, static_argnums=0, compiler_options=compiling.AS_USERS)
def train(method, start, key, data):
    setup = setup_for(method)

    def one_update(current, _):
        draws = setup.method.draw(jax.random.fold_in(key, current.step), data)
        if setup.method.has_phases:
            draws = {name: told(each, current.images) for name, each in draws.items()}
        return setup(current, {"teacher": mode_centers()}, draws)

    return jax.lax.scan(one_update, start, length=updates(setup))[0]


def sample(setup, params):
    """Points, the mode nearest to each, and the distance to it."""
    x = setup.method.networks["generator"](params, jax.random.normal(jax.random.key(7), (8192, 2)))
    distance = jnp.linalg.norm(x[:, None] - mode_centers(), axis=2)
    return np.asarray(distance.argmin(axis=1)), np.asarray(distance.min(axis=1))


@pytest.mark.parametrize("method", METHODS)
def test_every_mode_is_learnt(method):
    setup = setup_for(method)
    generator_key, fake_key, train_key = jax.random.split(jax.random.key(0), 3)
    model = MLPDenoiser()
    generator = at_the_first_mode(model.init(generator_key))
    start = start_of(setup, generator, model.init(fake_key), jax.random.fold_in(fake_key, 1))
    mode, _ = sample(setup, start.params["generator"])
    assert np.mean(mode == 0) > 0.95

    trained = train(method, start, train_key, mixture())
    assert trained.step == updates(setup)
    mode, distance = sample(setup, trained.averages["generator"])
    inside = distance < 3.5 * STD  # of the mixture itself, 99.8 % are
    assert inside.mean() > 0.8
    shares = np.bincount(mode[inside], minlength=MODES) / mode.size
    assert shares.min() > 0.5 / MODES, shares
    # Modes have a width: E r^2 = 2 std^2 in two dimensions.
    for i in range(MODES):
        assert np.sqrt(np.mean(distance[mode == i] ** 2) / 2) > 0.5 * STD
