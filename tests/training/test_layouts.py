"""States of other optimiser settings and of earlier versions, array by array."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.training import checkpointing, layouts, optimizer
from diffjax.training import state as train_state

PARAMS = {"net": {"mu": jnp.arange(6.0).reshape(2, 3), "count": jnp.ones(2), "steps": jnp.ones(4)}}
LEARNERS = ("generator", "fake_score")
ADAM = {
    "plain": {},
    "scheduled": {"learning_rate": optimizer.ramps(1e-3, rampup=64)},
    "clipped": {"max_grad_norm": 1.0},
    "first_moments": {"b1": 0.9},
    "bfloat16": {"bfloat16_state": True},
    "all": {"b1": 0.9, "max_grad_norm": 1.0, "bfloat16_state": True},
}


def trained(settings, updates=3):
    """A state after some updates, each number in it its own."""
    adam = optimizer.adam(**{"learning_rate": 1e-3, **settings})
    optimizers = dict.fromkeys(LEARNERS, adam)
    params = {name: jax.tree.map(lambda x, i=i: x + i, PARAMS) for i, name in enumerate(LEARNERS)}
    state = train_state.create(params, optimizers, ("generator",))
    for update in range(updates):
        for i, name in enumerate(LEARNERS):
            gradient = jax.tree.map(lambda x, i=i: 0.1 * (x + i) + 0.01, PARAMS)
            images = jnp.uint32(8 * update)
            state.params[name], state.opt[name] = optimizer.step(
                adam, gradient, state.opt[name], state.params[name], images
            )
    return state.replace(step=jnp.int32(updates), images=jnp.uint32(8 * updates))


def shapes(tree):
    place = jnp.zeros(()).sharding
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def reopened(state, like, folder):
    with checkpointing.Checkpointer(folder) as checkpointer:
        checkpointer.save_and_wait(int(state.step), state, {"kimg": int(state.images) / 1000})
        found, _ = checkpointer.restore(
            shapes(like), older=lambda stored: layouts.adapted(stored, shapes(like))
        )
    return found


def moments(state, learner):
    names = layouts.canonical(leaves(state))
    return {
        what: leaves(state)[name]
        for what, name in names.items()
        if what.startswith(f"opt/{learner}")
    }


def leaves(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize(("before", "after"), itertools.permutations(ADAM, 2))
def test_moments_move_over(before, after, tmp_path):
    old, like = trained(ADAM[before]), trained(ADAM[after], updates=0)
    new = reopened(old, like, tmp_path)
    assert jax.tree.structure(new) == jax.tree.structure(like)
    assert (int(new.step), int(new.images)) == (3, 24)
    jax.tree.map(np.testing.assert_array_equal, new.params, old.params)
    jax.tree.map(np.testing.assert_array_equal, new.averages, old.averages)
    loses = any(ADAM[each].get("bfloat16_state") for each in (before, after))
    for learner in LEARNERS:
        had, has = moments(old, learner), moments(new, learner)
        assert int(has[f"opt/{learner}/count"]) == 3
        for name, value in has.items():
            if name in had:
                tolerance = 2**-8 if loses else 0
                np.testing.assert_allclose(
                    np.float32(value), np.float32(had[name]), rtol=tolerance, err_msg=name
                )
            else:
                assert "/mu/" in name or name.endswith("/steps")
                assert not np.any(np.float32(value))
    fresh = layouts.fresh_moments(shapes(old), shapes(like))
    keeps = [bool(ADAM[each].get("b1")) for each in (before, after)]
    assert fresh == (set(LEARNERS) if keeps == [False, True] else set())


def test_another_network_is_none_of_them(tmp_path):
    like = trained({}, updates=0)
    other = train_state.create(
        {name: {"net": {"w": jnp.ones(3)}} for name in LEARNERS},
        dict.fromkeys(LEARNERS, optimizer.adam(1e-3)),
        ("generator",),
    )
    assert layouts.adapted(shapes(other), shapes(like)) == []
    wider = trained({}, updates=1)
    wider.params["generator"]["net"]["count"] = jnp.ones((2, 2))
    with pytest.raises(ValueError, match="has shape"):
        reopened(wider, like, tmp_path)


def test_a_state_that_counted_no_images(tmp_path):
    state = trained({"b1": 0.9})
    stored = {name: getattr(state, name) for name in ("step", "skipped", "skipped_in_a_row")}
    stored |= {"params": state.params, "averages": state.averages, "opt": state.opt}
    with checkpointing.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save_and_wait(3, stored, {"kimg": 0.024})
        like = shapes(state)
        found, meta = checkpointer.restore(like, older=lambda stored: layouts.adapted(stored, like))
    assert layouts.images_of(meta) == 24
    jax.tree.map(np.testing.assert_array_equal, found, state.replace(images=jnp.uint32(0)))
