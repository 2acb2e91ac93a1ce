"""An update in two programs, one for each network, is the update in one."""

import dataclasses
import functools
import runpy
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import compilation, from_config, sharding
from tests import golden_cases, small_distillation

CONFIGS = Path(__file__).parents[1] / "configs"
BATCH = 8
KEY = jax.random.key(3)
NETWORKS = ("generator", "generator_ema", "fake_score", "generator_opt", "fake_score_opt")


def distillation(bad_steps=(), **changes):
    """A small experiment, the noise of whose draws is NaN at bad steps."""
    # Not Adam, which makes steps of rounding.
    exp = small_distillation.build(optax.sgd(1e-6, momentum=0.9), BATCH, **changes)

    def poisoned(key):
        drawn = exp.draw(key)
        bad = [jax.random.key_data(jax.random.fold_in(KEY, step)) for step in (*bad_steps, 99)]
        is_bad = (jnp.stack(bad) == jax.random.key_data(key)).all(axis=1).any()
        part = drawn.generator
        part = part.replace(noise=jnp.where(is_bad, jnp.nan, part.noise))
        return drawn.replace(generator=part)

    return dataclasses.replace(exp, draw=poisoned, max_skipped_in_a_row=2)


@functools.cache
def run(bad_steps=(), counts=(3,), *, apart, data=1, fsdp=1, every=1):
    """State and totals after calls of so many updates, and where the networks' arrays were."""
    exp = distillation(bad_steps, fake_score_every=every)
    mesh = sharding.make_mesh(data=data, fsdp=fsdp)
    frozen = golden_cases.weights(exp.denoiser)
    frozen = jax.device_put(frozen, sharding.state(frozen, mesh))
    shardings = sharding.state(exp.abstract_state(), mesh)
    state = jax.jit(exp.init_state, out_shardings=shardings)(frozen)
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


@pytest.mark.parametrize(("data", "fsdp"), [(1, 1), (8, 1), (2, 4)])
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


def test_what_is_not_finite_in_one_half_leaves_out_both():
    ours = run(bad_steps=(1, 3, 4), counts=(3, 4), apart=True)
    assert_same(ours, run(bad_steps=(1, 3, 4), counts=(3, 4), apart=False))
    state, totals, _ = ours
    # Halted after two in a row, though two more updates were asked for.
    assert (state.step, state.skipped, state.skipped_in_a_row) == (5, 3, 2)
    assert [int(latest.kept) for latest in totals] == [2, 0]
    assert [int(latest.last_skipped) for latest in totals] == [1, 4]


def test_the_fake_score_waits_for_its_turn():
    ours = run(apart=True, every=2)
    assert_same(ours, run(apart=False, every=2))
    assert ours[1][0].sums["fake_updates"] == 2


def test_both_programs_are_compiled_at_the_same_time():
    both = threading.Barrier(2, timeout=60)

    class Half:
        def compile(self):
            return both.wait()

    call = compilation.updates(distillation(), sharding.make_mesh(data=1), 1, apart=True)
    call._lowered = Half(), Half()
    assert sorted(call.compile()._programs) == [0, 1]


@pytest.mark.parametrize(
    ("backend", "devices", "changes", "apart"),
    [
        ("gpu", 1, {}, True),
        ("gpu", 1, {"share_samples": True}, False),
        ("gpu", 2, {}, False),
        ("gpu", 2, {"compile_apart": "always"}, True),
        ("gpu", 1, {"compile_apart": "never"}, False),
        ("tpu", 1, {}, False),
        ("cpu", 1, {}, False),
        ("cpu", 1, {"compile_apart": "always"}, True),
    ],
)
def test_when_an_update_is_two_programs(monkeypatch, backend, devices, changes, apart):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    config = runpy.run_path(str(CONFIGS / "sid_cifar.py"))["get_config"]()
    config.update(changes)
    assert from_config.compiles_apart(config) is apart


def test_a_teacher_s_update_is_one_program():
    config = runpy.run_path(str(CONFIGS / "teacher_digits.py"))["get_config"]()
    assert from_config.compiles_apart(config) is False


def test_shared_samples_have_no_halves():
    exp = distillation(share_samples=True)
    state = exp.abstract_state()
    with pytest.raises(ValueError, match="share_samples=True"):
        jax.eval_shape(exp.setup.update_fake_score, state, jax.eval_shape(exp.draw, KEY))
