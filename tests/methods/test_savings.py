"""What saves time or memory and isn't in the published loops: the same update, where it can be."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax.training import metric_sums, optimizer
from diffjax.training.update import Inline, at
from tests.support import distilling, given_draws

METHODS = ("sid", "diff_instruct")
CLASSES, SIZE = 3, 64


def layer(params, x, labels):
    return jnp.tanh(x @ params["w"] + labels @ params["labels"])


@dataclasses.dataclass(eq=False)
class Counted:
    """A network of one layer that writes down its calls."""

    name: str
    log: list

    def denoise(self, params, x, sigma, *, labels, train=False, rng=None, augment_labels=None):
        self.log.append((self.name, train))
        return layer(params, x, labels) / (1 + sigma[:, None])

    def generate(self, params, z, *, labels, train=False, rng=None):
        self.log.append((self.name, train))
        return layer(params, z, labels)


def params(seed):
    random = np.random.RandomState(seed)
    return {
        "w": jnp.asarray(random.standard_normal((SIZE, SIZE)) / 8, jnp.float32),
        "labels": jnp.asarray(random.standard_normal((CLASSES, SIZE)), jnp.float32),
    }


def setup_for(method, log, batch_size=8, **kwargs):
    teacher, fake_score, generator = (Counted(n, log) for n in ("teacher", "fake", "generator"))
    return distilling.build(
        method,
        teacher=teacher.denoise,
        fake_score=fake_score.denoise,
        generator=generator.generate,
        fake_score_optimizer=optimizer.adam(1e-3),
        generator_optimizer=optax.sgd(1e-2),
        batch_size=batch_size,
        **kwargs,
    )


def start_of(setup):
    return distilling.start(setup, params(0), params(1))


def draws_for(rounds=1, fake_score_updates=1, seed=0, examples=8):
    return given_draws.make(
        np.linspace(0.1, 2, examples),
        (SIZE,),
        rounds=rounds,
        fake_score_updates=fake_score_updates,
        label_dim=CLASSES,
        seed=seed,
    )


def with_equal_samples(draws):
    """Draws that give both networks of the published update what a shared one would."""
    last = jax.tree.map(lambda x: x[-1:], draws["fake_score"])
    return {**draws, "generator": draws["generator"].replace(z=last.z, labels=last.labels)}


@pytest.mark.parametrize(
    ("method", "rounds", "fake_score_updates", "unroll"),
    [("sid", 1, 1, False), ("diff_instruct", 4, 1, True), ("sid", 2, 3, False)],
)
def test_shared_samples_make_the_update_that_equal_ones_do(
    method, rounds, fake_score_updates, unroll
):
    draws = draws_for(rounds, fake_score_updates)
    plain = setup_for(method, [], unroll=unroll, fake_score_updates=fake_score_updates)
    wanted = jax.jit(distilling.step(plain))(start_of(plain), params(2), with_equal_samples(draws))
    shared = setup_for(
        method, [], unroll=unroll, share_samples=True, fake_score_updates=fake_score_updates
    )
    got = jax.jit(distilling.step(shared))(start_of(shared), params(2), draws)
    chex.assert_trees_all_close(got, wanted, rtol=2e-5, atol=1e-7)


def test_shared_samples_take_one_call_of_the_generator():
    log = []
    setup = setup_for("sid", log, share_samples=True, fake_score_updates=2)
    distilling.step(setup)(start_of(setup), params(2), draws_for(fake_score_updates=2))
    assert log == [
        ("generator", True),  # for the last update of the fake score, and for the generator's
        ("generator", False),
        ("fake", True),
        ("fake", True),
        ("teacher", False),
        ("fake", False),
    ]


def test_shared_samples_save_one_forward_pass_of_the_compiled_update():
    def flops(**kwargs):
        setup = setup_for("sid", [], **kwargs)
        compiled = (
            jax.jit(distilling.step(setup)).lower(start_of(setup), params(2), draws_for()).compile()
        )
        return compiled.cost_analysis()["flops"]

    forward = 8 * SIZE * 2 * (SIZE + CLASSES)  # of the matrix products; tanh is few
    saved = flops() - flops(share_samples=True)
    np.testing.assert_allclose(saved, forward, rtol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_rounds_of_accumulation_add_no_memory(method):
    """All rounds together cost one set of gradients, besides what one round takes."""

    def temporaries(rounds, a_round):
        examples = rounds * a_round
        setup = setup_for(method, [], batch_size=examples)
        draws = draws_for(rounds, examples=examples)
        compiled = (
            jax.jit(distilling.step(setup)).lower(start_of(setup), params(2), draws).compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(params(0)))
    # A layer's activations of 256 examples are 3.8 times as large, so that they are what counts.
    two = temporaries(2, 256)
    assert temporaries(4, 256) < two + gradients / 2
    assert two < 0.7 * temporaries(1, 512)


def test_the_shared_samples_are_those_of_the_fake_scores_last_latents():
    setup = setup_for("sid", [], share_samples=True, fake_score_updates=2)
    draws, theta = setup.method.aligned(draws_for(rounds=2, fake_score_updates=2)), params(0)
    lender = setup.turns[-1]
    lent = Inline(setup).lend(lender, {"generator": theta}, draws["generator"])
    last = at(draws["fake_score"], -1)
    wanted = jax.vmap(functools.partial(layer, theta))(last.z, last.labels)
    np.testing.assert_allclose(lent.samples, wanted, rtol=1e-6)


def test_the_fake_score_in_every_third_update():
    setup = setup_for("sid", [], fake_score_every=3, share_samples=True)
    always = setup_for("sid", [], share_samples=True)
    current = start_of(setup)
    step, step_always = jax.jit(distilling.step(setup)), jax.jit(distilling.step(always))
    measured = []
    for i in range(5):
        before = current
        draws = draws_for(seed=i)
        current, metrics = step(before, params(2), draws)
        measured.append(metrics)
        wanted, metrics_wanted = step_always(before, params(2), draws)
        is_turn = i in (0, 3)
        assert metrics["fake_updates"] == is_turn
        if is_turn:
            chex.assert_trees_all_close(current, wanted, rtol=1e-6)
            chex.assert_trees_all_close(
                metrics, {**metrics_wanted, "fake_updates": jnp.float32(1)}, rtol=1e-6
            )
        else:
            assert metrics["fake_loss"] == metrics["fake_grad_norm"] == 0
            chex.assert_trees_all_equal(
                (current.params["fake_score"], current.opt["fake_score"]),
                (before.params["fake_score"], before.opt["fake_score"]),
            )
            assert metrics["generator_grad_norm"] > 0
            assert np.any(current.params["generator"]["w"] != before.params["generator"]["w"])
    sums = {name: sum(m[name] for m in measured) for name in measured[0]}
    means = metric_sums.means(sums, 5, setup.counted_by)
    turns = [measured[0], measured[3]]
    for name in ("fake_loss", "fake_grad_norm"):
        np.testing.assert_allclose(means[name], np.mean([m[name] for m in turns]), rtol=1e-6)
    np.testing.assert_allclose(means["delta"], np.mean([m["delta"] for m in measured]), rtol=1e-6)
    assert means["fake_updates"] == pytest.approx(0.4)


def test_means_of_updates_without_the_fake_score():
    sums = {"fake_loss": 0.0, "fake_grad_norm": 0.0, "fake_updates": 0.0, "delta": 6.0}
    counted_by = setup_for("sid", [], fake_score_every=2).counted_by
    assert metric_sums.means(sums, 3, counted_by) == {"fake_updates": 0.0, "delta": 2.0}
    assert metric_sums.means(sums, 0, counted_by) == {}
    assert metric_sums.means({"fake_loss": 6.0}, 3) == {"fake_loss": 2.0}


def test_a_turn_that_is_not_finite_is_left_out_whole():
    setup = setup_for("sid", [], fake_score_every=2)
    draws, before = draws_for(), start_of(setup)
    fake = draws["fake_score"]
    bad = {**draws, "fake_score": fake.replace(noise=fake.noise.at[0, 0, 0, 0].set(np.nan))}
    after, metrics = jax.jit(distilling.step(setup))(before, params(2), bad)
    assert metrics["skipped"] == 1
    chex.assert_trees_all_equal(after.params["fake_score"], before.params["fake_score"])
    # Where it isn't the fake score's turn, what was drawn for it doesn't matter.
    after, metrics = jax.jit(distilling.step(setup))(after, params(2), bad)
    assert metrics["skipped"] == 0
