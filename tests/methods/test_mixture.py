"""Methods with a fake score: a generator that starts in one place learns every mode of a mixture.

The teacher is exact. Generator and fake score are small networks, trained by the package's own
draws, update and optimiser, so this fails where any of them pulls the wrong way.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import methods
from diffjax.diffusion.preconditioning import EDM
from diffjax.methods.score_distillation import ScoreDistillation
from diffjax.models.generator import DenoiserGenerator
from diffjax.training import optimizer
from tests.support import compiling, distilling

MODES = 8
RADIUS = 0.7
STD = 0.08  # of a mode
UPDATES = 6000
BATCH = 256
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


class MLP(nn.Module):
    """A raw network F(c_in x, c_noise) on points."""

    @nn.compact
    def __call__(self, x, noise_label):
        phase = noise_label[:, None] * jnp.arange(1.0, 5.0)
        h = jnp.concatenate([x, noise_label[:, None], jnp.cos(phase), jnp.sin(phase)], axis=1)
        for _ in range(3):
            h = nn.silu(nn.Dense(64)(h))
        return nn.Dense(2, name="last")(h)


class MLPDenoiser:
    network = MLP()
    preconditioning = EDM()

    def init(self, key):
        return self.network.init(key, jnp.zeros((1, 2)), jnp.zeros(1))

    def __call__(
        self, params, x, sigma, *, labels=None, augment_labels=None, train=False, rng=None
    ):
        scalings = self.preconditioning(sigma, {})
        c_skip, c_out, c_in = (c[:, None] for c in scalings[:3])
        return c_skip * x + c_out * self.network.apply(params, c_in * x, scalings.c_noise)


def at_the_first_mode(params):
    """A generator's parameters with which all its samples lie around one mode."""
    last = params["params"]["last"]
    bias = mode_centers()[0] / EDM().sigma_data  # c_out is about sigma_data
    last = {"kernel": 0.1 * last["kernel"], "bias": bias}
    return {"params": {**params["params"], "last": last}}


def setup_for(method):
    model = MLPDenoiser()
    return distilling.build(
        method,
        teacher=exact_teacher,
        fake_score=model,
        generator=DenoiserGenerator(model, init_sigma=2.5),
        fake_score_optimizer=optimizer.adam(2e-3),
        generator_optimizer=optimizer.adam(5e-4),
        batch_size=BATCH,
        shape=(2,),
        ema_halflife=50 * BATCH,
    )


@functools.partial(jax.jit, static_argnums=0, compiler_options=compiling.AS_USERS)
def train(method, start, key):
    setup = setup_for(method)

    def one_update(current, _):
        draw = setup.method.draw(jax.random.fold_in(key, current.step))
        return setup(current, {"teacher": mode_centers()}, draw)

    return jax.lax.scan(one_update, start, length=UPDATES)[0]


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
    start = distilling.start(
        setup, at_the_first_mode(model.init(generator_key)), model.init(fake_key)
    )
    mode, _ = sample(setup, start.params["generator"])
    assert np.mean(mode == 0) > 0.95

    trained = train(method, start, train_key)
    assert trained.step == UPDATES
    mode, distance = sample(setup, trained.averages["generator"])
    inside = distance < 3.5 * STD  # of the mixture itself, 99.8 % are
    assert inside.mean() > 0.8
    shares = np.bincount(mode[inside], minlength=MODES) / mode.size
    assert shares.min() > 0.5 / MODES, shares
    # Modes have a width: E r^2 = 2 std^2 in two dimensions.
    for i in range(MODES):
        assert np.sqrt(np.mean(distance[mode == i] ** 2) / 2) > 0.5 * STD
