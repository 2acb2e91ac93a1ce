"""An update in several programs is the update in one."""

import dataclasses
import functools
import runpy
import threading
import types
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax.distributed import sharding
from diffjax.runs import building
from diffjax.training import compilation
from tests.support import golden_cases, small_distillation

CONFIGS = Path(__file__).parents[2] / "configs"
BATCH = 8
KEY = jax.random.key(3)
NETWORKS = ("generator", "generator_ema", "fake_score", "generator_opt", "fake_score_opt")


def distillation(bad_steps=(), rounds=1, turns=1, **changes):
    """A small experiment, the noise of whose draws is NaN at bad steps."""
    # Not Adam, which makes steps of rounding.
    exp = small_distillation.build(optax.sgd(1e-6, momentum=0.9), BATCH, **changes)
    draw = dataclasses.replace(exp.draw, rounds=rounds, fake_score_updates=turns)

    def poisoned(key):
        drawn = draw(key)
        bad = [jax.random.key_data(jax.random.fold_in(KEY, step)) for step in (*bad_steps, 99)]
        is_bad = (jnp.stack(bad) == jax.random.key_data(key)).all(axis=1).any()
        part = drawn.generator
        part = part.replace(noise=jnp.where(is_bad, jnp.nan, part.noise))
        return drawn.replace(generator=part)

    return dataclasses.replace(exp, draw=poisoned, max_skipped_in_a_row=2)


@functools.cache
def run(bad_steps=(), counts=(3,), *, apart, data=1, fsdp=1, **changes):
    """State and totals after calls of so many updates, and where the networks' arrays were."""
    exp = distillation(bad_steps, **changes)
    mesh = sharding.make_mesh(data=data, fsdp=fsdp)
    frozen = golden_cases.weights(exp.denoiser)
    frozen = jax.device_put(frozen, sharding.state(frozen, mesh))
    shardings = sharding.state(exp.abstract_state(), mesh)
    state = jax.jit(exp.init_state, out_shardings=shardings)(frozen)
    # Far from the teacher: the generator's loss is of their difference, and not of its rounding.
    state = state.replace(fake_score=jax.tree.map(lambda x: 1.1 * x, state.fake_score))
    call = compilation.updates(exp, mesh, max(counts), apart=apart)
    totals = []
    for count in counts:
        state, latest = call(state, frozen, KEY, count)
        totals.append(jax.device_get(latest))
    specs = jax.tree.map(lambda leaf: leaf.sharding.spec, state)
    return jax.device_get(state), totals, specs


def assert_same(one, two):
    (state, totals, specs), (other, other_totals, other_specs) = one, two
    assert specs == other_specs
    for name in ("step", "skipped", "skipped_in_a_row"):
        assert getattr(state, name) == getattr(other, name), name
    for name in NETWORKS:
        ours, theirs = (
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(getattr(each, name))])
            for each in (state, other)
        )
        assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs), name
    for latest, other_latest in zip(totals, other_totals, strict=True):
        assert latest.sums.keys() == other_latest.sums.keys()
        for name, value in other_latest.sums.items():
            np.testing.assert_allclose(latest.sums[name], value, rtol=1e-4, err_msg=name)
        counters = dataclasses.replace(latest, sums={})
        assert counters == dataclasses.replace(other_latest, sums={})


@pytest.mark.parametrize(("data", "fsdp"), [(1, 1), (2, 4)])
def test_the_same_updates(data, fsdp):
    ours = run(apart=True, data=data, fsdp=fsdp)
    theirs = run(apart=False, data=data, fsdp=fsdp)
    assert_same(ours, theirs)
    before = golden_cases.weights(distillation().denoiser)["params"]
    for name in ("generator", "fake_score"):
        moved = jax.tree.map(lambda a, b: np.any(a != b), getattr(ours[0], name)["params"], before)
        assert any(jax.tree.leaves(moved)), name


def test_calls_of_any_length_come_to_the_same():
    state, totals, _ = run(apart=True)
    one_by_one, others, _ = run(counts=(1, 1, 1), apart=True)
    jax.tree.map(np.testing.assert_array_equal, state, one_by_one)
    for name, value in totals[0].sums.items():
        each = [float(latest.sums[name]) for latest in others]
        np.testing.assert_allclose(value, sum(each), rtol=1e-6)


def test_what_is_not_finite_for_one_network_leaves_out_both():
    ours = run(bad_steps=(1, 3, 4), counts=(3, 4), apart=True)
    assert_same(ours, run(bad_steps=(1, 3, 4), counts=(3, 4), apart=False))
    state, totals, _ = ours
    # Halted after two in a row, though two more updates were asked for.
    assert (state.step, state.skipped, state.skipped_in_a_row) == (5, 3, 2)
    assert [int(latest.kept) for latest in totals] == [2, 0]
    assert [int(latest.last_skipped) for latest in totals] == [1, 4]


def test_the_fake_score_waits_for_its_turn():
    changes = {"rounds": 2, "fake_score_every": 2}
    ours = run(counts=(2, 3), apart=True, **changes)
    assert_same(ours, run(counts=(2, 3), apart=False, **changes))
    assert [latest.sums["fake_updates"] for latest in ours[1]] == [1, 2]


def test_turns_rounds_and_shared_samples():
    changes = {"turns": 2, "rounds": 2, "share_samples": True}
    assert_same(run(apart=True, **changes), run(apart=False, **changes))


def test_what_is_not_finite_in_the_first_of_two_turns_leaves_out_all():
    exp = distillation(turns=2)
    draw = exp.draw

    def poisoned(key):
        drawn = draw(key)
        noise = drawn.fake_score.noise.at[0].set(jnp.nan)
        return drawn.replace(fake_score=drawn.fake_score.replace(noise=noise))

    exp = dataclasses.replace(exp, draw=poisoned)
    before = exp.init_state(golden_cases.weights(exp.denoiser))
    call = compilation.updates(exp, sharding.make_mesh(data=1), 1, apart=True)
    state, totals = call(jax.tree.map(jnp.copy, before), before.fake_score, KEY, 1)
    assert (int(state.skipped), int(totals.kept)) == (1, 0)
    for name in NETWORKS:
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(before, name))


def test_programs_are_compiled_at_the_same_time(monkeypatch):
    exp, mesh = distillation(), sharding.make_mesh(data=1)
    compile_, all_ = jax.stages.Lowered.compile, threading.Barrier(8, timeout=60)

    def together(lowered, *arguments):
        all_.wait()
        return compile_(lowered, *arguments)

    monkeypatch.setattr(jax.stages.Lowered, "compile", together)
    abstract = compilation.abstract_inputs(exp, mesh)
    compilation.updates(exp, mesh, 1, apart=True).lower(*abstract, KEY, 1).compile()
    assert not all_.broken


def test_what_a_program_fails_with_is_told(monkeypatch):
    exp, mesh = distillation(), sharding.make_mesh(data=1)

    def fail(lowered, *arguments):
        raise ValueError("no registers left")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    lowered = compilation.updates(exp, mesh, 1, apart=True).lower(
        *compilation.abstract_inputs(exp, mesh), KEY, 1
    )
    with pytest.raises(ValueError, match="no registers left"):
        lowered.compile()


@pytest.mark.parametrize(
    ("name", "backend", "devices", "changes", "apart"),
    [
        ("sid_cifar", "gpu", 1, {}, True),
        ("sid_cifar", "gpu", 1, {"share_samples": True}, True),
        ("sid_cifar", "gpu", 1, {"share_samples": True, "accumulation": 2}, False),
        ("sid_cifar", "gpu", 2, {}, False),
        ("sid_cifar", "gpu", 2, {"compile_apart": "always"}, True),
        ("sid_cifar", "gpu", 1, {"compile_apart": "never"}, False),
        ("sid_cifar", "tpu", 1, {}, False),
        ("sid_cifar", "cpu", 1, {}, False),
        ("sid_cifar", "cpu", 1, {"compile_apart": "always"}, True),
        # Where calling them would take longer than what they do.
        ("sid_cifar", "gpu", 1, {"batch_size": 128}, True),
        ("sid_cifar", "gpu", 1, {"batch_size": 64}, False),
        ("sid_cifar", "gpu", 1, {"accumulation": 4}, False),
        ("sid_cifar_tiny", "gpu", 1, {}, False),
        ("sid_digits", "gpu", 1, {}, False),
        ("sid_imagenet64", "gpu", 1, {"accumulation": 512}, True),
    ],
)
def test_when_an_update_is_several_programs(monkeypatch, name, backend, devices, changes, apart):
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
    config.update(changes)
    exp = building.build(config)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    assert building.compiles_apart(config, exp) is apart


def test_a_teacher_s_update_is_one_program():
    config = runpy.run_path(str(CONFIGS / "teacher_digits.py"))["get_config"]()
    assert building.compiles_apart(config, building.build(config)) is False


@pytest.mark.parametrize(
    ("share", "at_generate", "at_pull_back"),
    [(False, [0, 0, 0, 0], [1, 1, 1, 1]), (True, [0, 1, 2, 3], [4, 3, 2, 1])],
)
def test_a_round_s_activations_go_before_the_next_round_s_come(
    monkeypatch, share, at_generate, at_pull_back
):
    exp = distillation(rounds=4, share_samples=share)
    updates = compilation.updates(exp, sharding.make_mesh(data=1), 1, apart=True)
    made, generating, pulling_back = [], [], []

    class Activations:
        pass

    def alive():
        return sum(reference() is not None for reference in made)

    def generate(*_):
        generating.append(alive())
        pullback = Activations()
        made.append(weakref.ref(pullback))
        return 0.0, pullback

    def pull_back(*_):
        pulling_back.append(alive())
        return {}

    turn = types.SimpleNamespace(finite=True, fake_score={}, fake_score_opt={})
    results = {  # of programs that aren't compiled, since only what is kept of them matters
        "_draw": None,
        "_sample": 0.0,
        "_learn": ({}, {}),
        "_step": turn,
        "_judge": (0.0, {}),
        "_finish": (None, None),
    }
    for name, result in results.items():
        monkeypatch.setattr(updates, name, lambda *_, result=result: result)
    monkeypatch.setattr(updates, "_generate", generate)
    monkeypatch.setattr(updates, "_pull_back", pull_back)
    monkeypatch.setattr(updates, "_begun", [None])
    updates(exp.abstract_state(), {}, KEY, 1)
    assert generating == at_generate
    assert pulling_back == at_pull_back
