"""Whole runs with every saving on: they resume to the bit, and what went wrong can be replayed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.models import denoiser, network_folder
from diffjax.runs import building, checks
from diffjax.runs.train import train
from diffjax.tools import replay
from diffjax.training import precision
from tests.runs.test_train import assert_trees_equal, lines, miniature, state_of
from tests.support import golden_cases
from tests.training.test_failures import NETWORK, poison

TEACHER = {**NETWORK, "img_resolution": 8, "img_channels": 1, "label_dim": 10}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    params = golden_cases.weights(denoiser.from_edm_kwargs(TEACHER))
    network_folder.save_denoiser(folder, TEACHER, params)
    return folder


def saving(teacher, **changes):
    config = miniature(
        "sid_digits",
        teacher=str(teacher),
        share_samples=True,
        teacher_dtype="bfloat16",
        optimizer_state_dtype="bfloat16",
        **changes,
    )
    config.fake_score.every = 2
    return config


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_to_the_bit(teacher, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = saving(teacher, updates=4)
    train(config, str(whole))
    rows = lines(whole)
    # A line an update: every second one has nothing to say of the fake score.
    assert [row["fake_updates"] for row in rows] == [1, 0, 1, 0]
    assert ["fake_loss" in row for row in rows] == [True, False, True, False]
    assert all("generator_loss" in row for row in rows)

    half = config.copy_and_resolve_references()
    half.duration_kimg /= 2
    train(half, str(parts))
    train(config, str(parts))
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    state, again = state_of(whole, config), state_of(parts, config)
    assert_trees_equal(state, again)
    moments = [leaf for leaf in jax.tree.leaves(state.opt["generator"]) if leaf.ndim]
    assert {leaf.dtype for leaf in moments} == {np.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params["generator"])} == {
        np.dtype(np.float32)
    }


@pytest.mark.slow
def test_replay_knows_of_savings(teacher, tmp_path, monkeypatch):
    """Draws of steps 1 and 4 are bad for the fake score, whose turn is at even steps."""
    config = saving(teacher, updates=6, max_skipped_in_a_row=1)
    with monkeypatch.context() as patch:
        poison(patch)
        with pytest.raises(FloatingPointError, match="steps 4 to 4"):
            train(config, str(tmp_path))
        stages, failed = replay.replay(tmp_path)
    assert failed.first_step == 4
    bad = [stage.name for stage in stages if not replay.is_finite(stage)]
    assert bad[:3] == ["draws for the fake score", "fake_loss by example", "fake_loss"]
    by_name = {stage.name: stage.content for stage in stages}
    assert np.isnan(by_name["fake_loss by example"].loss).sum() == 1
    assert by_name["teacher"]["params"]["map_layer0"]["kernel"].largest > 0


def test_the_teacher_alone_is_narrowed(teacher):
    exp = building.build(saving(teacher))
    loaded = exp.load_inputs()
    narrowed = exp.narrowed(loaded)
    assert {leaf.dtype for leaf in jax.tree.leaves(narrowed)} == {np.dtype(jnp.bfloat16)}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), narrowed)
    assert jax.tree.leaves(exp.abstract_inputs()) == jax.tree.leaves(shapes)
    networks = exp.method.networks
    assert networks["teacher"].network.dtype == jnp.bfloat16
    assert networks["fake_score"].network.dtype == exp.denoiser.network.dtype == jnp.float32
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    labels, sigma = jnp.eye(10)[:2], jnp.asarray([0.1, 2.0])
    got = jax.jit(networks["teacher"])(narrowed["teacher"], x, sigma, labels=labels)
    wanted = jax.jit(exp.denoiser)(loaded["teacher"], x, sigma, labels=labels)
    assert got.dtype == jnp.float32
    error = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
    assert 0 < error < 0.02


def test_a_teacher_that_float16_cannot_hold(teacher):
    config = saving(teacher)
    config.teacher_dtype = "float16"
    exp = building.build(config)
    loaded = exp.load_inputs()
    assert precision.cast(loaded["teacher"], jnp.dtype(jnp.float16))
    loaded["teacher"]["params"]["map_layer0"]["kernel"] *= 1e6
    message = (
        r"^config.teacher_dtype='float16': the teacher's map_layer0/kernel has values that "
        "float16 can't hold. Set it to 'bfloat16'"
    )
    with pytest.raises(ValueError, match=message) as caught:
        exp.narrowed(loaded)
    assert "\n" not in str(caught.value)


def test_without_savings_nothing_is_narrowed():
    config = miniature("sid_digits")
    exp = building.build(config)
    loaded = exp.load_inputs()
    narrowed = exp.narrowed(loaded)
    assert narrowed.keys() == loaded.keys()
    assert narrowed["teacher"] is loaded["teacher"]
    assert {leaf.dtype for leaf in jax.tree.leaves(exp.abstract_inputs())} == {np.dtype("float32")}
    assert not exp.method.share_samples
    assert exp.method.fake_score_every == 1


def test_more_and_fewer_updates_of_the_fake_score_exclude_each_other():
    config = miniature("sid_digits")
    config.fake_score.every = config.fake_score.updates = 2
    with pytest.raises(ValueError, match=r"config\.fake_score\.every=2 .*\.updates=2 .* to 1"):
        checks.check(config)


def test_rematerialize_reaches_every_network():
    for flag in (False, True):
        exp = building.build(miniature("sid_digits", rematerialize=flag))
        assert exp.denoiser.network.rematerialize == flag
        assert exp.method.networks["teacher"].network.rematerialize == flag
