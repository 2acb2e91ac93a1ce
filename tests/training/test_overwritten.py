"""Training passes that overwrite parameters: optimisers step from what these leave."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax.distributed import sharding
from diffjax.models.discriminator import Headed
from diffjax.training import separate_programs
from tests.support import distilling, edm2_cases, given_draws, golden_cases

BATCH, SHAPE, RATE = 8, (2, 2, 8), 0.25
START = {"generator": 2.0, "fake_score": 3.0}


def denoise(p, x, sigma, **_):
    return 0.1 * x + p["shift"]


def build(rounds=1, **settings):
    sgd = optax.sgd(RATE)
    return distilling.build(
        "sid",
        teacher=denoise,
        fake_score=denoise,
        generator=lambda p, z, **_: denoise(p, z, None),
        fake_score_optimizer=sgd,
        generator_optimizer=sgd,
        batch_size=BATCH,
        rounds=rounds,
        shape=SHAPE,
        **{"alpha": 1.0, **settings},
    )


def begin(setup):
    trees = [{"shift": jnp.full(SHAPE, START[name])} for name in ("generator", "fake_score")]
    return distilling.start(setup, *trees)


def halved(params):
    return jax.tree.map(lambda leaf: leaf / 2, params)


def after(setup, draws):
    step = distilling.step(setup)
    return jax.jit(step)(begin(setup), {"shift": jnp.full(SHAPE, 0.5)}, draws)


def draws(**kwargs):
    return given_draws.make(np.linspace(0.1, 2, BATCH), SHAPE, **kwargs)


@pytest.mark.parametrize("learner", ["fake_score", "generator"])
def test_the_step_is_from_what_a_pass_leaves(learner):
    setup = build()
    changed = dataclasses.replace(setup, overwritten={learner: halved})
    (plain, _), (found, _) = (after(each, draws()) for each in (setup, changed))
    moved, expected = found.params[learner]["shift"], plain.params[learner]["shift"]
    # The gradient is as it was; only what it is taken off has changed.
    np.testing.assert_allclose(moved, expected - START[learner] / 2, rtol=1e-5)
    same = (each.params["fake_score"]["shift"] for each in (plain, found))
    if learner == "generator":
        np.testing.assert_array_equal(*same)


def test_each_round_overwrites_once_more():
    setup, given = build(rounds=2), draws(rounds=2)
    changed = dataclasses.replace(setup, overwritten={"fake_score": halved})
    (plain, _), (found, _) = (after(each, given) for each in (setup, changed))
    moved = plain.params["fake_score"]["shift"] - found.params["fake_score"]["shift"]
    np.testing.assert_allclose(moved, START["fake_score"] * 3 / 4, rtol=1e-5)


def test_an_update_that_is_left_out_overwrites_nothing():
    setup = dataclasses.replace(build(), overwritten=dict.fromkeys(START, halved))
    found, metrics = after(setup, draws() | {"generator": bad(draws()["generator"])})
    assert metrics["skipped"] == 1
    for name, value in START.items():
        np.testing.assert_array_equal(found.params[name]["shift"], np.full(SHAPE, value))


def bad(draw):
    return dataclasses.replace(draw, noise=jnp.full_like(draw.noise, jnp.nan))


def edm2(**changes):
    return golden_cases.denoiser.from_edm_kwargs({**edm2_cases.KWARGS, **changes})


def test_which_networks_overwrite():
    assert edm2().overwrites_weights
    assert not edm2(force_normalization=False).overwrites_weights
    song = {"class_name": "EDMPrecond", "model_type": "SongUNet", "img_resolution": 4}
    song |= {"img_channels": 3, "model_channels": 8, "channel_mult": [1], "num_blocks": 1}
    assert not golden_cases.denoiser.from_edm_kwargs(song).overwrites_weights


def test_a_head_stays_as_it_is():
    model = edm2()
    params = {"network": edm2_cases.weights(model), "head": {"kernel": jnp.full((2, 2), 5.0)}}
    headed = Headed(model, None, model)
    found = headed.normalized(params)
    assert headed.overwrites_weights
    jax.tree.map(
        np.testing.assert_array_equal, found["network"], model.normalized(params["network"])
    )
    np.testing.assert_array_equal(found["head"]["kernel"], params["head"]["kernel"])


def test_a_mesh_that_splits_parameters_overwrites_them_alike():
    """Rows are split over devices, and the mean square of each is still that of the whole."""
    model = edm2()
    params = edm2_cases.weights(model)
    mesh = sharding.make_mesh(data=1, fsdp=2)
    split = jax.device_put(params, sharding.state(params, mesh))
    for found, expected in zip(
        *map(jax.tree.leaves, (jax.jit(model.normalized)(split), model.normalized(params))),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("fsdp", [1, 2])
def test_separate_programs_and_split_parameters_step_from_it_too(fsdp):
    setup = dataclasses.replace(build(), overwritten=dict.fromkeys(START, halved))
    state, key = begin(setup), jax.random.key(1)
    inputs = {"teacher": {"shift": jnp.full(SHAPE, 0.5)}}
    drawn = setup.method.draw(jax.random.fold_in(key, 0))
    expected, _ = jax.jit(setup)(state, inputs, drawn)
    mesh = sharding.make_mesh(data=1, fsdp=fsdp)
    abstract = jax.eval_shape(lambda: state)
    state = jax.device_put(state, sharding.state(abstract, mesh))
    inputs = jax.device_put(inputs, sharding.state(inputs, mesh))
    found, _ = separate_programs.SeparatePrograms(setup, abstract, mesh)(state, inputs, key, 1)
    for name in START:
        shift = found.params[name]["shift"]
        assert np.any(shift != START[name])
        np.testing.assert_allclose(shift, expected.params[name]["shift"], rtol=1e-5)
