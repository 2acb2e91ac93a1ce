"""The update on networks small enough to work out by hand, and on small real ones."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax.diffusion import noise
from diffjax.models import denoiser
from diffjax.models.generator import DenoiserGenerator
from diffjax.training import optimizer
from tests.support import distilling, given_draws, golden_cases

# ---- By hand: G(z) = theta, D_fake(y) = psi, D_teacher(y) = phi, all points of the plane ---------

THETA, PSI, PHI = jnp.asarray([1.0, 0.0]), jnp.asarray([0.0, 2.0]), jnp.asarray([3.0, 1.0])


def constant_denoiser(params, x, sigma, **_):
    return jnp.broadcast_to(params, x.shape)


def constant_generator(params, z, **_):
    return jnp.broadcast_to(params, z.shape)


def constant_setup(method, **kwargs):
    return distilling.build(
        method,
        teacher=constant_denoiser,
        fake_score=constant_denoiser,
        generator=constant_generator,
        fake_score_optimizer=optax.sgd(0.01),
        generator_optimizer=optax.sgd(0.1),
        batch_size=4,
        **kwargs,
    )


def constant_run(setup, *, rounds=1, fake_score_updates=1):
    """One update at sigma 1, where EDM's weight is 5, with the fake score at `PSI` before it."""
    start = distilling.start(setup, THETA, PSI)
    draw = given_draws.make(np.ones(4), (2,), rounds=rounds, fake_score_updates=fake_score_updates)
    return jax.jit(distilling.step(setup))(start, PHI, draw)


@pytest.mark.parametrize("rounds", [1, 2, 4])
@pytest.mark.parametrize("unroll", [False, True])
def test_diff_instruct_by_hand(rounds, unroll):
    after, metrics = constant_run(constant_setup("diff_instruct", unroll=unroll), rounds=rounds)
    # 5 |psi - theta|^2 = 25, gradient 10 (psi - theta) = (-10, 20); psi = (0, 2) - 0.01 of it
    np.testing.assert_allclose(metrics["fake_loss"], 25, rtol=1e-6)
    np.testing.assert_allclose(metrics["fake_grad_norm"], np.sqrt(500), rtol=1e-6)
    np.testing.assert_allclose(after.params["fake_score"], [0.1, 1.8], rtol=1e-6)
    # With the new psi: gradient psi - phi = (-2.9, 0.8), loss its product with theta
    np.testing.assert_allclose(metrics["generator_loss"], -2.9, rtol=1e-6)
    np.testing.assert_allclose(metrics["generator_grad_norm"], np.hypot(2.9, 0.8), rtol=1e-6)
    np.testing.assert_allclose(metrics["delta"], (2.9 + 0.8) / 2, rtol=1e-6)
    np.testing.assert_allclose(after.params["generator"], [1.29, -0.08], rtol=1e-5)
    assert after.step == 1


@pytest.mark.parametrize("rounds", [1, 2])
def test_sid_by_hand(rounds):
    after, metrics = constant_run(constant_setup("sid"), rounds=rounds)
    # Delta = phi - psi = (2.9, -0.8), phi - theta = (2, 1), weight 1 / 1.5;
    # Delta . (phi - theta) = 5, Delta . Delta = 9.05
    np.testing.assert_allclose(metrics["generator_loss"], (5 - 1.2 * 9.05) / 1.5, rtol=1e-5)
    # These denoisers ignore x, so the gradient in theta is -Delta / 1.5.
    expected = np.asarray([1, 0]) + 0.1 * np.asarray([2.9, -0.8]) / 1.5
    np.testing.assert_allclose(after.params["generator"], expected, rtol=1e-5)


def test_loss_scales_scale_gradients_and_not_the_metrics():
    plain, metrics = constant_run(constant_setup("sid"))
    scaled, scaled_metrics = constant_run(
        constant_setup("sid", fake_score_loss_scale=2.0, generator_loss_scale=100.0)
    )
    np.testing.assert_allclose(
        scaled.params["fake_score"] - PSI, 2 * (plain.params["fake_score"] - PSI), rtol=1e-5
    )
    assert scaled_metrics["fake_loss"] == metrics["fake_loss"]
    np.testing.assert_allclose(
        scaled_metrics["fake_grad_norm"], 2 * metrics["fake_grad_norm"], rtol=1e-6
    )
    # The generator's, with the same fake score: 100 times the step.
    scaled, scaled_metrics = constant_run(constant_setup("sid", generator_loss_scale=100.0))
    np.testing.assert_allclose(
        scaled.params["generator"] - THETA, 100 * (plain.params["generator"] - THETA), rtol=1e-4
    )
    assert scaled_metrics["generator_loss"] == metrics["generator_loss"]


def test_several_updates_of_the_fake_score():
    after, metrics = constant_run(
        constant_setup("diff_instruct", fake_score_updates=2), fake_score_updates=2
    )
    # Each goes a tenth of the way from psi to theta: (0, 2) -> (0.1, 1.8) -> (0.19, 1.62)
    np.testing.assert_allclose(after.params["fake_score"], [0.19, 1.62], rtol=1e-6)
    np.testing.assert_allclose(metrics["fake_loss"], 5 * (0.9**2 + 1.8**2), rtol=1e-5)
    np.testing.assert_allclose(after.params["generator"], [1 + 0.281, -0.062], rtol=1e-5)


def test_ema_starts_as_the_generator_and_follows_it():
    setup = constant_setup("diff_instruct", ema_halflife=4, ema_rampup=None)
    after, _ = constant_run(setup)
    # A batch of 4 is one half-life.
    np.testing.assert_allclose(
        after.averages["generator"], (THETA + after.params["generator"]) / 2, rtol=1e-6
    )
    ramped, _ = constant_run(constant_setup("diff_instruct", ema_halflife=4))
    np.testing.assert_array_equal(ramped.averages["generator"], ramped.params["generator"])


@jax.custom_jvp
def without_derivative(x):
    return x


@without_derivative.defjvp
def _raise(primals, tangents):
    raise NotImplementedError("differentiated")


def test_diff_instruct_asks_no_derivative_of_the_teacher():
    def teacher(params, x, sigma, **_):
        return without_derivative(x) - params

    def setup(method):
        return distilling.build(
            method,
            teacher=teacher,
            fake_score=constant_denoiser,
            generator=constant_generator,
            fake_score_optimizer=optax.sgd(0.01),
            generator_optimizer=optax.sgd(0.1),
            batch_size=4,
        )

    after, _ = constant_run(setup("diff_instruct"))
    assert jnp.isfinite(after.params["generator"]).all()
    with pytest.raises(NotImplementedError, match="differentiated"):
        constant_run(setup("sid"))


# ---- Small real networks -----------------------------------------------------------------------

SMALL = {
    "img_resolution": 8,
    "img_channels": 3,
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}
NCSNPP = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
NETWORKS = {
    "EDMPrecond": {"model_type": "SongUNet", "label_dim": 10, "dropout": 0.3},
    "VPPrecond": {"dropout": 0.1},
    "VEPrecond": {"dropout": 0.1, **NCSNPP},
    "iDDPMPrecond": {"dropout": 0.1},
}


# The ends of each teacher's range.
RANGES = {
    "EDMPrecond": (0.002, 80.0),
    "VPPrecond": (0.000977, 152.17),
    "VEPrecond": (0.02, 100.0),
    "iDDPMPrecond": (0.0064, 20291.0),
}


@functools.cache
def network(class_name):
    model = denoiser.from_edm_kwargs({"class_name": class_name, **SMALL, **NETWORKS[class_name]})
    return model, golden_cases.weights(model)


def real_setup(class_name, method):
    model, params = network(class_name)
    setup = distilling.build(
        method,
        teacher=model,
        fake_score=model,
        generator=DenoiserGenerator(model, init_sigma=2.5),
        fake_score_optimizer=optimizer.adam(1e-3),
        generator_optimizer=optimizer.adam(1e-3),
        batch_size=4,
    )
    return setup, distilling.start(setup, params, params), params


def real_draws(class_name, seed=0):
    """Noise levels in the teacher's range, both ends among them."""
    model, _ = network(class_name)
    low, high = RANGES[class_name]
    sigma = [max(low, model.sigma_min), 0.1, 1.0, min(high, model.sigma_max)]
    return given_draws.make(sigma, model.image_shape, label_dim=model.label_dim, seed=seed)


@pytest.mark.parametrize(
    ("class_name", "method"),
    [
        ("EDMPrecond", "sid"),
        ("VPPrecond", "diff_instruct"),
        ("VEPrecond", "diff_instruct"),
        ("iDDPMPrecond", "sid"),
    ],
)
def test_every_preconditioning_is_distilled(class_name, method):
    setup, current, teacher = real_setup(class_name, method)
    before = jax.tree.map(np.array, teacher)
    # The state is donated, as a training loop does; the teacher's arrays have to outlive that.
    step = jax.jit(distilling.step(setup), donate_argnums=0)
    for i in range(2):
        current, metrics = step(current, teacher, real_draws(class_name, seed=i))
        chex.assert_tree_all_finite((current, metrics))
    assert metrics["delta"] > 0

    chex.assert_trees_all_equal(teacher, before)
    for params in (*current.params.values(), *current.averages.values()):
        chex.assert_trees_all_equal(params["buffers"], before["buffers"])
        changed = jax.tree.map(lambda new, old: np.any(new != old), params, before)
        assert all(jax.tree.leaves(changed["params"]))


def test_the_buffers_that_the_test_above_needs_are_there():
    assert "u" in network("iDDPMPrecond")[1]["buffers"]
    assert jax.tree.leaves(network("VEPrecond")[1]["buffers"])


@pytest.mark.parametrize("class_name", ["VPPrecond", "VEPrecond", "iDDPMPrecond"])
@pytest.mark.parametrize("distribution", [noise.LogNormal, noise.KarrasUniform])
def test_noise_levels_stay_in_the_teachers_range(class_name, distribution):
    model, _ = network(class_name)
    np.testing.assert_allclose([model.sigma_min, model.sigma_max], RANGES[class_name], rtol=1e-2)
    clipped = distribution(sigma_min=model.sigma_min, sigma_max=model.sigma_max)
    sigma = clipped(jax.random.key(0), (10_000,))
    assert jnp.float32(model.sigma_min) <= sigma.min() < 0.03
    assert sigma.max() <= model.sigma_max


def test_diff_instructs_scores_share_one_dropout_mask():
    """Equal networks agree in training mode: Diff-Instruct gives them one mask."""
    setup, start, teacher = real_setup("EDMPrecond", "diff_instruct")
    draw = jax.tree.map(lambda x: x[0, 0], real_draws("EDMPrecond")["generator"])

    @jax.jit
    def loss(fake_score, draw):
        method = setup.method
        params = {**start.params, "teacher": teacher, "fake_score": fake_score}
        values, others = method.generator_loss(params, method.training_samples(params, draw), draw)
        return values.sum(), others["delta"].sum()

    equal, delta = loss(start.params["fake_score"], draw)
    assert equal == delta == 0  # to the last bit

    other = jax.tree.map(lambda p: 1.1 * p, start.params["fake_score"])
    changed = draw.replace(dropout=jax.random.key(9))
    values = [loss(other, d)[0] for d in (draw, draw, changed)]
    assert values[0] == values[1] != values[2]


def test_dropout_of_the_fake_score_in_its_own_update():
    setup, start, _ = real_setup("EDMPrecond", "sid")
    draw = jax.tree.map(lambda x: x[0, 0], real_draws("EDMPrecond")["fake_score"])
    x = jax.jit(setup.method.evaluation_samples)(start.params, draw)
    loss = jax.jit(lambda draw: setup.method.fake_score_loss(start.params, x, draw)[0].sum())
    changed = draw.replace(dropout=jax.random.key(9))
    values = [loss(d) for d in (draw, draw, changed)]
    assert values[0] == values[1] != values[2]
