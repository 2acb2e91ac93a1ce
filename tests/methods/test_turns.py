"""What each turn of an update learns from, and how often: for all methods, and those with data."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import methods
from diffjax.methods.draws import Batch, Dataset
from diffjax.training import draws as drawing
from diffjax.training import state
from tests.methods import test_every_method as every

WITH_DATA = [name for name in every.NAMES if methods.get(name).data_field == "data"]
BORROWERS = [name for name in ("dmd2", "smd") if name in every.NAMES]


def after(name, draws, **changes):
    """Parameters after one update."""
    update = every.update_of(name)
    update = dataclasses.replace(update, method=dataclasses.replace(update.method, **changes))
    start, inputs = every.start_of(update), every.read_by(every.inputs_of(update))
    now, metrics = jax.jit(update)(start, inputs, draws)
    assert metrics["skipped"] == 0
    return now.params


def differ(a, b):
    return any(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@pytest.mark.parametrize("name", every.NAMES)
def test_a_learner_follows_as_many_gradients_as_its_turns_repeat(name):
    update = every.update_of(name)
    counting = {learner: optax.adam(1e-3) for learner in update.optimizers}
    update = dataclasses.replace(update, optimizers=counting)
    start = state.create(every.start_of(update).params, counting, update.averaged)
    inputs = every.read_by(every.inputs_of(update))
    now, _ = jax.jit(update)(start, inputs, every.drawn(name))
    for turn in update.turns:
        assert optax.tree_utils.tree_get(now.opt[turn.learner], "count") == turn.times, turn.learner


@pytest.mark.parametrize("name", ["f_distill", *BORROWERS])
def test_repetitions_are_compiled_once_however_many_they_are(name):
    def products(updates):
        update = every.update_of(name)
        method = dataclasses.replace(update.method, fake_score_updates=updates)
        update = dataclasses.replace(update, method=method)
        start, inputs = every.start_of(update), every.inputs_of(update)

        def drawn_and_taken(start, inputs, images):
            draws = method.draw(every.KEY, inputs["data"])
            if method.has_phases:
                draws = {each: drawing.told(draw, images) for each, draw in draws.items()}
            return update(start, every.read_by(inputs), draws)

        traced = jax.make_jaxpr(drawn_and_taken)(start, inputs, jnp.uint32(0))
        return str(traced).count("dot_general")

    # What borrows samples is another program than the rest.
    assert products(6) == products(2 if name in BORROWERS else 1)


@pytest.mark.parametrize(
    ("name", "changes", "control"),
    [("f_distill", {}, "while"), ("dmd2", {}, "while"), ("sid", {"fake_score_every": 2}, "case")],
)
def test_unrolled_an_update_has_neither_loop_nor_condition(name, changes, control):
    def text(unroll):
        update = dataclasses.replace(every.update_of(name), unroll=unroll)
        method = dataclasses.replace(update.method, **changes)
        update = dataclasses.replace(update, method=method)
        start, inputs = every.start_of(update), every.read_by(every.inputs_of(update))
        return jax.jit(update).lower(start, inputs, every.drawn(name)).as_text()

    assert f"stablehlo.{control}" in text(unroll=False)
    assert not any(f"stablehlo.{word}" in text(unroll=True) for word in ("while", "case", "if"))


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("name", ["diff_instruct", "sid"])
def test_a_turn_that_is_not_due_leaves_its_learner_alone(name, unroll):
    always = dataclasses.replace(every.update_of(name), unroll=unroll)
    method = dataclasses.replace(always.method, fake_score_every=2)
    waiting = dataclasses.replace(always, method=method)
    now, inputs = every.start_of(always), every.read_by(every.inputs_of(always))
    for is_due in (True, False, True):
        before, (now, metrics) = now, jax.jit(waiting)(now, inputs, every.drawn(name))
        assert metrics["fake_updates"] == is_due
        for learner in ("fake_score", "generator"):
            expected = is_due or learner == "generator"
            assert differ(now.params[learner], before.params[learner]) == expected, learner
            assert differ(now.opt[learner], before.opt[learner]) == expected, learner
        if is_due:
            other, _ = jax.jit(always)(before, inputs, every.drawn(name))
            chex.assert_trees_all_close(now.params, other.params, rtol=1e-6)


@pytest.mark.parametrize("name", BORROWERS)
def test_the_first_repetition_alone_learns_from_the_generators_samples(name):
    draws = every.drawn(name)
    times = draws["fake_score"].z.shape[0]
    assert times > 2
    expected = after(name, draws)["fake_score"]
    for time in range(times):
        fake_score = draws["fake_score"].replace(z=draws["fake_score"].z.at[time].add(1.0))
        changed = after(name, {**draws, "fake_score": fake_score})["fake_score"]
        assert differ(changed, expected) == (time > 0), time
        alone = {**draws, "fake_score": fake_score}
        assert differ(
            after(name, alone, share_samples=False)["fake_score"],
            after(name, draws, share_samples=False)["fake_score"],
        ), time


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("name", WITH_DATA)
def test_real_labels_are_those_of_the_real_images(name, in_order):
    cls = methods.get(name)
    times = cls.real_batches({each.name: each.default for each in cls.settings()})
    count, size = every.CLASSES, every.BATCH
    classes = np.arange(times * size) % count
    images = np.broadcast_to(
        classes[:, None, None, None] * 100, (len(classes), *every.SHAPE)
    ).astype(np.uint8)
    method = dataclasses.replace(
        every.update_of(name).method,
        batch=Batch(every.SHAPE, size, 2, count),
        in_order=in_order,
    )
    drawn = jax.jit(method.draw)(every.KEY, Dataset(jnp.asarray(images), jnp.asarray(classes)))
    real, labels = drawn["fake_score"].real, drawn["fake_score"].real_labels
    assert real.shape == (times, 2, size // 2, *every.SHAPE)
    told = np.argmax(labels, axis=-1)
    np.testing.assert_allclose(real[..., 0, 0, 0], told * 100 / 127.5 - 1, atol=1e-6)
    if in_order:
        np.testing.assert_array_equal(told.reshape(-1), classes)
    else:
        assert len(set(told.reshape(-1).tolist())) == count
