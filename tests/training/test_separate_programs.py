"""An update in several programs is the update in one."""

import dataclasses
import functools
import runpy
import threading
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax.distributed import sharding
from diffjax.methods.sid import SiD
from diffjax.runs import building
from diffjax.training import compilation
from diffjax.training.runner import Outcome
from diffjax.training.separate_programs import SeparatePrograms
from tests.support import golden_cases, small_distillation

CONFIGS = Path(__file__).parents[2] / "configs"
BATCH = 8
KEY = jax.random.key(3)
TREES = ("params", "averages", "opt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Poisoned(SiD):
    """SiD, a learner's draws of which are NaN in some updates."""

    bad_steps: tuple[int, ...] = ()
    poisons: str = "generator"

    def draw(self, key, data=None):
        draws = super().draw(key, data)
        bad = [jax.random.key_data(jax.random.fold_in(KEY, step)) for step in (*self.bad_steps, 99)]
        is_bad = (jnp.stack(bad) == jax.random.key_data(key)).all(axis=1).any()
        part = draws[self.poisons]
        noise = part.noise.at[0].set(jnp.where(is_bad, jnp.nan, part.noise[0]))
        return {**draws, self.poisons: part.replace(noise=noise)}


def distillation(bad_steps=(), poisons="generator", turns=1, **changes):
    """A small experiment, the noise of whose draws is NaN at bad steps."""
    # Not Adam, which makes steps of rounding.
    exp = small_distillation.build(
        optax.sgd(1e-6, momentum=0.9),
        BATCH,
        fake_score_updates=turns,
        max_skipped_in_a_row=2,
        **changes,
    )
    method = exp.method
    fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    method = Poisoned(**fields, bad_steps=bad_steps, poisons=poisons)
    return dataclasses.replace(exp, update=dataclasses.replace(exp.update, method=method))


def updates_of(exp, mesh, count, *, apart):
    abstract = exp.abstract_state()
    if apart:
        return SeparatePrograms(exp.update, abstract, mesh)
    return compilation.compile_updates(exp.update, abstract, mesh, count)


@functools.cache
def run(bad_steps=(), counts=(3,), *, apart, data=1, fsdp=1, **changes):
    """State and totals after calls of so many updates, and where the networks' arrays were."""
    exp = distillation(bad_steps, **changes)
    mesh = sharding.make_mesh(data=data, fsdp=fsdp)
    inputs = {"teacher": golden_cases.weights(exp.denoiser)}
    inputs = jax.device_put(inputs, sharding.state(inputs, mesh))
    shardings = sharding.state(exp.abstract_state(), mesh)
    state = jax.jit(exp.init_state, out_shardings=shardings)(inputs)
    # Far from the teacher: the generator's loss is of their difference, and not of its rounding.
    fake_score = jax.tree.map(lambda x: 1.1 * x, state.params["fake_score"])
    state = state.replace(params={**state.params, "fake_score": fake_score})
    call = updates_of(exp, mesh, max(counts), apart=apart)
    totals = []
    for count in counts:
        state, latest = call(state, inputs, KEY, count)
        totals.append(jax.device_get(latest))
    specs = jax.tree.map(lambda leaf: leaf.sharding.spec, state)
    return jax.device_get(state), totals, specs


def abstract_arguments(exp, mesh):
    return compilation.abstract_arguments(exp.abstract_state(), exp.abstract_inputs(), mesh)


def assert_same(one, two):
    (state, totals, specs), (other, other_totals, other_specs) = one, two
    assert specs == other_specs
    for name in ("step", "skipped", "skipped_in_a_row"):
        assert getattr(state, name) == getattr(other, name), name
    for name in TREES:
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


# One device alone is in `test_train.py::test_several_programs_make_the_same_run` too. The slow one:
# python -m pytest -m slow tests/training/test_separate_programs.py (passed 2026-11-30, 26 s).
@pytest.mark.parametrize(("data", "fsdp"), [pytest.param(1, 1, marks=pytest.mark.slow), (2, 4)])
def test_the_same_updates(data, fsdp):
    ours = run(apart=True, data=data, fsdp=fsdp)
    theirs = run(apart=False, data=data, fsdp=fsdp)
    assert_same(ours, theirs)
    before = golden_cases.weights(distillation().denoiser)["params"]
    for name in ("generator", "fake_score"):
        moved = jax.tree.map(lambda a, b: np.any(a != b), ours[0].params[name]["params"], before)
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
    exp = distillation(turns=2, bad_steps=(0,), poisons="fake_score")
    inputs = {"teacher": golden_cases.weights(exp.denoiser)}
    before = exp.init_state(inputs)
    call = updates_of(exp, sharding.make_mesh(data=1), 1, apart=True)
    state, totals = call(jax.tree.map(jnp.copy, before), inputs, KEY, 1)
    assert (int(state.skipped), int(totals.kept)) == (1, 0)
    for name in TREES:
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(before, name))


def test_programs_are_compiled_at_the_same_time(monkeypatch):
    exp, mesh = distillation(), sharding.make_mesh(data=1)
    compile_, all_ = jax.stages.Lowered.compile, threading.Barrier(8, timeout=60)

    def together(lowered, *arguments):
        all_.wait()
        return compile_(lowered, *arguments)

    monkeypatch.setattr(jax.stages.Lowered, "compile", together)
    updates_of(exp, mesh, 1, apart=True).lower(*abstract_arguments(exp, mesh), KEY, 1).compile()
    assert not all_.broken


def test_what_a_program_fails_with_is_told(monkeypatch):
    exp, mesh = distillation(), sharding.make_mesh(data=1)

    def fail(lowered, *arguments):
        raise ValueError("no registers left")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    lowered = updates_of(exp, mesh, 1, apart=True).lower(*abstract_arguments(exp, mesh), KEY, 1)
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
    updates = updates_of(exp, sharding.make_mesh(data=1), 1, apart=True)
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

    outcome = Outcome({}, {}, {}, True)
    # Programs that aren't compiled, since only what is kept of their results matters.
    monkeypatch.setattr(updates, "draw", lambda *_: dict.fromkeys(("fake_score", "generator")))
    monkeypatch.setattr(updates, "finish", lambda *_: (None, None))
    fake, generator = "fake_score", "generator"
    monkeypatch.setattr(updates, "samples", {fake: lambda *_: (0.0, None), generator: generate})
    monkeypatch.setattr(updates, "loss", {fake: lambda *_: ({}, {}), generator: lambda *_: (0, {})})
    monkeypatch.setattr(updates, "step", {fake: lambda *_: outcome})
    monkeypatch.setattr(updates, "pull_back", {generator: pull_back})
    monkeypatch.setattr(updates, "_begun", [None])
    updates(exp.abstract_state(), {}, KEY, 1)
    assert generating == at_generate
    assert pulling_back == at_pull_back
