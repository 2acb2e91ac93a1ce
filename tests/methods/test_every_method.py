"""Properties that every registered method has, whatever it computes.

Runs of methods whose state is like another's are resumed by `python -m pytest -m slow
tests/methods/test_every_method.py`, which passed in 186 s on two cores beside other tests, on
2026-11-30.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import methods
from diffjax.distributed import sharding
from diffjax.methods.draws import Batch, Dataset
from diffjax.runs import bases
from diffjax.runs.train import train
from diffjax.tools import replay
from diffjax.training import checkpointing, compilation, state
from diffjax.training import draws as drawing
from diffjax.training.separate_programs import SeparatePrograms
from diffjax.training.update import Update

NAMES = methods.names()
# SiD's state, SiDA's and SMD's.
LIKE_OTHERS = ("dmd", "fgm", "sim", "uni_instruct", "dmd2")
BATCH, CLASSES, SHAPE = 8, 3, (4, 4, 1)
KEY = jax.random.key(5)


def layer(params, x, labels):
    flat = jnp.tanh(x.reshape(len(x), -1) @ params["w"] + labels @ params["labels"])
    return flat.reshape(x.shape)


def denoise(params, x, sigma, *, labels, augment_labels=None, train=False, rng=None):
    return layer(params, x, labels) / (1 + sigma[:, None, None, None])


def generate(params, z, *, labels, train=False, rng=None):
    return layer(params, z, labels)


def features(params, x, sigma, **options):
    """D, and what a discriminator judges by."""
    return denoise(params, x, sigma, **options), (jnp.tanh(2 * x),)


def judge(params, features):
    """A logit for each example, by a head if there is one."""
    flat = features[-1].reshape(len(features[-1]), -1)
    return flat.mean(axis=1) if "head" not in params else jnp.tanh(flat) @ params["head"]["w"][0]


def headed(network):
    """A network whose parameters have a head beside them."""
    return lambda params, *arguments, **options: network(params["network"], *arguments, **options)


def weights(seed):
    random = np.random.RandomState(seed)
    size = int(np.prod(SHAPE))
    return {
        "w": jnp.asarray(random.standard_normal((size, size)) / 4, jnp.float32),
        "labels": jnp.asarray(random.standard_normal((CLASSES, size)), jnp.float32),
    }


def update_of(name, rounds=1):
    """The method with networks of one layer, without dropout and without Adam's sign."""
    cls = methods.get(name)
    networks = {learner.name: denoise for learner in cls.learners}
    if "teacher" in cls.reads:
        networks["teacher"] = denoise
    if cls.sampled_by == "one_step":
        networks[cls.samples_from] = generate
    if cls.judged_by:
        judged = headed(features) if has_head(cls, cls.judged_by) else features
        networks |= {"features": judged, "head": judge}
    networks |= {each.name: headed(denoise) for each in cls.learners if each.has_head}
    return Update(
        method=cls(networks=networks, batch=Batch(SHAPE, BATCH, rounds, CLASSES)),
        optimizers={learner.name: optax.sgd(1e-3, momentum=0.9) for learner in cls.learners},
        max_skipped_in_a_row=2,
    )


def has_head(cls, learner):
    return any(each.has_head for each in cls.learners if each.name == learner)


def inputs_of(update):
    random = np.random.RandomState(9)
    every = {
        "teacher": weights(7),
        "data": Dataset(
            images=random.randint(0, 256, (20, *SHAPE)).astype(np.uint8),
            classes=random.randint(0, CLASSES, 20),
        ),
    }
    return {name: every[name] for name in update.method.reads}


def start_of(update):
    params = {name: weights(i) for i, name in enumerate(update.optimizers)}
    params |= {
        each.name: each.starts_as() for each in update.method.learners if not each.is_network
    }
    for i, name in enumerate(params):
        if has_head(type(update.method), name):
            params[name] = {"network": params[name], "head": weights(10 + i)}
    return state.create(params, update.optimizers, update.averaged)


def read_by(inputs):
    return {name: tree for name, tree in inputs.items() if name != "data"}


@functools.cache
def drawn(name, rounds=1):
    update = update_of(name, rounds)
    draws = jax.jit(update.method.draw)(KEY, inputs_of(update).get("data"))
    if not update.method.has_phases:
        return draws
    return {learner: drawing.told(draw, jnp.uint32(0)) for learner, draw in draws.items()}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_it_is_found_by_its_name(name):
    assert methods.get(name).__module__ == f"diffjax.methods.{name}"
    with pytest.raises(ValueError, match=f"method='no_such' is unknown; known are: .*{name}"):
        methods.get("no_such")


def test_its_words_fit_together(name):
    update = update_of(name)
    method = update.method
    learners = {learner.name for learner in method.learners}
    assert {turn.learner for turn in update.turns} == learners
    assert {turn.borrows for turn in update.turns} <= learners | {""}
    assert method.samples_from in update.averaged
    assert method.sampled_by in ("one_step", "heun")
    assert set(method.reads) <= {"teacher", "data"}
    _, metrics = jax.jit(update)(start_of(update), read_by(inputs_of(update)), drawn(name))
    assert set(method.shown) <= set(metrics)
    fields = bases.fields(name)
    assert set(method.suspects) <= set(fields)
    for setting in method.settings():
        assert setting.rule.holds(setting.default), setting.name
        assert fields[setting.field] == setting.default


@pytest.mark.parametrize("rounds", [1, 2])
def test_draws(name, rounds):
    draws = drawn(name, rounds)
    update = update_of(name, rounds)
    for turn in update.turns:
        chex.assert_shape(draws[turn.learner].sigma, (turn.times, rounds, BATCH // rounds))
        keys = np.reshape(jax.random.key_data(draws[turn.learner].dropout), (-1, 2))
        assert len(np.unique(keys, axis=0)) == turn.times * rounds
    data = inputs_of(update).get("data")
    again = jax.jit(update.method.draw)(KEY, data)
    other = jax.jit(update.method.draw)(jax.random.key(6), data)
    for learner, draw in draws.items():
        np.testing.assert_array_equal(draw.noise, again[learner].noise)
        assert np.all(draw.noise != other[learner].noise)


def in_rounds(draws, rounds):
    """A batch's draws, a round at a time, without dropout, which these networks don't have."""

    def split(x):
        if x.ndim == 2:  # a number for each round
            return jnp.repeat(x, rounds, axis=1)
        return x.reshape(x.shape[0], rounds, -1, *x.shape[3:])

    def one(draw):
        rest = jax.tree.map(split, draw.replace(dropout=None))
        return rest.replace(dropout=jnp.repeat(draw.dropout, rounds, axis=1))

    return {learner: one(draw) for learner, draw in draws.items()}


def test_accumulation_equals_one_batch(name):
    update = update_of(name)
    inputs = read_by(inputs_of(update))
    wanted = jax.jit(update)(start_of(update), inputs, drawn(name))
    halves = in_rounds(drawn(name), 2)
    for unroll in (False, True):
        rounds = dataclasses.replace(update_of(name, 2), unroll=unroll)
        got = jax.jit(rounds)(start_of(update), inputs, halves)
        if update.method.couples_examples:
            with pytest.raises(AssertionError):
                chex.assert_trees_all_close(got, wanted, rtol=1e-4, atol=1e-6)
        else:
            chex.assert_trees_all_close(got, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rounds", [1, 2])
def test_one_program_equals_part_by_part(name, rounds):
    update = update_of(name, rounds)
    mesh = sharding.make_mesh(data=1)
    start = start_of(update)
    abstract = jax.eval_shape(lambda: start)
    results = []
    for call in (
        compilation.compile_updates(update, abstract, mesh, 3),
        SeparatePrograms(update, abstract, mesh),
    ):
        inputs = jax.device_put(inputs_of(update))
        results.append(call(jax.tree.map(jnp.copy, start), inputs, KEY, 3))
    chex.assert_trees_all_close(*results, rtol=1e-4, atol=1e-6)
    assert int(results[0][0].step) == 3
    moved = jax.tree.map(lambda a, b: np.any(a != b), results[0][0].params, start.params)
    assert all(any(jax.tree.leaves(tree)) for tree in moved.values())


def test_what_is_not_finite_is_left_out_whole(name):
    update = update_of(name)
    start, inputs = start_of(update), read_by(inputs_of(update))
    call = jax.jit(update)
    for learner, draw in drawn(name).items():
        bad = draw.replace(noise=draw.noise.at[0, 0, 0].set(np.nan))
        after, metrics = call(start, inputs, {**drawn(name), learner: bad})
        assert metrics["skipped"] == 1, learner
        chex.assert_trees_all_equal(
            (after.params, after.averages, after.opt), (start.params, start.averages, start.opt)
        )
        assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (1, 1, 1)
    after, metrics = call(start, inputs, drawn(name))
    assert metrics["skipped"] == after.skipped == 0


def test_replay_finds_where_it_starts(name):
    update = update_of(name)
    mesh = sharding.make_mesh(data=1)
    inputs, start = jax.device_put(inputs_of(update)), start_of(update)
    names = []

    @jax.jit
    def contents(current):
        stages = replay.examine(update, mesh, current, inputs, KEY, 0)
        names[:] = [stage.name for stage in stages]
        return [stage.content for stage in stages]

    def stages(current):
        found = jax.device_get(contents(current))
        return [replay.Stage(*each) for each in zip(names, found, strict=True)]

    assert all(map(replay.is_finite, stages(start)))
    _, metrics = jax.jit(update)(start, read_by(inputs), drawn(name))
    by_name = {stage.name: stage.content for stage in stages(start)}
    for metric in metrics.keys() - {"skipped"}:
        np.testing.assert_allclose(by_name[metric], metrics[metric], rtol=1e-5)
    learner = update.turns[-1].learner
    poisoned = jax.tree.map(lambda x: x.at[0, 0].set(np.nan), start.params[learner])
    found = stages(start.replace(params={**start.params, learner: poisoned}))
    bad = [stage.name for stage in found if not replay.is_finite(stage)]
    assert bad[0] == learner.replace("_", " ")
    assert f"{update.turns[-1].prefix}loss" in bad


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LIKE_OTHERS else ()) for name in NAMES],
)
def test_a_run_that_is_resumed_is_the_run_that_never_stopped(name, teacher, tmp_path):
    def config(updates):
        config = (
            bases.distillation(name) if "teacher" in methods.get(name).reads else bases.denoising()
        )
        with config.unlocked():
            config.batch_size, config.updates_per_call = 8, 1
            config.duration_kimg = updates * 8 / 1000
            config.log_kimg = config.checkpoint_kimg = 0.008
            config.grid_kimg = 0.0
            config.grid.update(rows=1, columns=2)
            config.heun.steps = 2
            config.mesh.data = 1
            if "teacher" in config:
                config.teacher = str(teacher)
            if "data" in config:
                config.data = "digits"
            if "generator" in config:
                config.generator.frozen_kimg = 0.0
            if "dataset" in config:
                config.dataset, config.conditional, config.dtype = "digits", True, "float32"
                config.network.update(
                    model_channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=()
                )
                config.network.update(augment_dim=0, dropout=0.0)
        return config

    train(config(2), str(tmp_path / "whole"))
    train(config(1), str(tmp_path / "parts"))
    train(config(2), str(tmp_path / "parts"))
    whole, parts = ((tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "parts"))
    assert whole == parts
    assert len(whole.splitlines()) == 2
    with checkpointing.Checkpointer(tmp_path / "parts" / "checkpoints", read_only=True) as kept:
        assert kept.latest_step() == 2
