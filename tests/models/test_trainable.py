"""What of a pytree is trained, and that the rest comes back as it was."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.models import trainable

PARAMS = {
    "layers": [{"kernel": jnp.ones((2, 3)), "mean": jnp.zeros(3)}, {"kernel": np.ones((3, 2))}],
    "table": jnp.arange(4),
    "key": jax.random.key(1),
    "name": "net",
    "act": jnp.tanh,
    "scale": 2.0,
    "none": None,
    "half": jnp.ones(2, jnp.bfloat16),
    "complex": jnp.ones(2, jnp.complex64),
    "frozen": {"buffer": jnp.ones(5)},
}


def paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(trainable.names(path)) for path, _ in leaves}


def test_only_inexact_arrays_are_trained():
    trained, rest = trainable.split(PARAMS)
    kernels = {"layers/0/kernel", "layers/0/mean", "layers/1/kernel"}
    assert paths(trained) == {*kernels, "half", "complex"}
    assert paths(trained) | paths(rest) == paths(PARAMS)
    assert not paths(trained) & paths(rest)


def test_the_predicate_is_asked_by_path_about_inexact_arrays_alone():
    asked = []

    def not_mean(path, leaf):
        asked.append(path)
        return path[-1] != "mean"

    trained, rest = trainable.split(PARAMS, not_mean)
    assert "layers/0/mean" in paths(rest)
    assert "layers/0/kernel" in paths(trained)
    assert ("layers", "1", "kernel") in asked
    assert not {("table",), ("key",), ("name",), ("scale",), ("frozen", "buffer")} & set(asked)


def test_what_is_frozen_stays_so_whatever_the_predicate_says():
    trained, rest = trainable.split(PARAMS, lambda path, leaf: True)
    assert "frozen/buffer" in paths(rest)
    assert "frozen/buffer" not in paths(trained)


def test_merging_gives_back_every_leaf():
    merged = trainable.merge(*trainable.split(PARAMS))
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(PARAMS), strict=True):
        assert a is b


def test_a_gradient_step_changes_what_is_trained():
    trained, rest = trainable.split(PARAMS)

    def loss(trained):
        params = trainable.merge(trained, rest)
        return params["act"](params["layers"][0]["kernel"]).sum() + params["frozen"]["buffer"].sum()

    grads = jax.jit(jax.grad(loss))({**trained, "complex": None})
    assert paths(grads) == paths(trained) - {"complex"}
    assert float(jnp.abs(grads["layers"][0]["kernel"]).min()) > 0


def test_modules_and_shapes_are_trees_too():
    mlp = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    trained, rest = trainable.split(mlp, lambda path, leaf: path[-1] == "weight")
    assert paths(trained) == {"layers/0/weight", "layers/1/weight"}
    x = jnp.ones(2)
    np.testing.assert_array_equal(trainable.merge(trained, rest)(x), mlp(x))

    shapes = jax.eval_shape(lambda: {"w": jnp.ones(3), "n": jnp.arange(3)})
    assert paths(trainable.split(shapes)[0]) == {"w"}


def test_a_bare_array_is_a_tree():
    w = jnp.ones(3)
    trained, rest = trainable.split(w)
    assert trained is w
    assert rest is None
    assert trainable.merge(trained, rest) is w
