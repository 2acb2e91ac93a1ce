"""Arrays of a user's parameters: what runs keep, and the tree that the function gets back."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffjax import models
from diffjax.models.arrays import Arrays
from diffjax.models.trainable import not_frozen


def tree():
    return {
        "layers": [jnp.ones((2, 3)), (jnp.zeros(2, jnp.bfloat16), None)],
        "count": jnp.arange(3),
        "key": jax.random.key(1),
        "name": "a text",
        "frozen": jnp.full(2, 7.0),
        "fourier": np.arange(4.0, dtype=np.float32),
    }


def of(params, trainable=lambda path, leaf: path[-1] != "fourier"):
    return Arrays(params, trainable)


def test_what_is_trained_is_nested_dicts_of_float32():
    start = of(tree()).start()
    assert start.keys() == {"layers"}
    assert start["layers"].keys() == {"0", "1"}
    assert start["layers"]["1"]["0"].dtype == jnp.float32
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), start)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), of(tree()).abstract())


def test_the_function_gets_its_own_tree_and_types():
    arrays = of(tree())
    whole = arrays.whole(jax.tree.map(lambda leaf: leaf + 1, arrays.start()))
    assert jax.tree.structure(whole) == jax.tree.structure(tree())
    assert whole["layers"][1][0].dtype == jnp.bfloat16
    assert float(whole["layers"][0][0, 0]) == 2.0
    assert whole["name"] == "a text"
    assert whole["frozen"][0] == 7.0
    np.testing.assert_array_equal(whole["fourier"], np.arange(4))


def test_all_arrays_are_stored_and_read_back():
    arrays = of(tree())
    trained = jax.tree.map(lambda leaf: leaf + 1, arrays.start())
    stored = arrays.stored(trained)
    assert jax.tree.map(lambda leaf: leaf.shape, stored) == jax.tree.map(
        lambda leaf: leaf.shape, arrays.abstract_stored()
    )
    other = tree() | {"fourier": np.zeros(4, np.float32), "key": jax.random.key(2)}
    read = of(other).replaced(stored)
    jax.tree.map(np.testing.assert_array_equal, read.start(), trained)
    np.testing.assert_array_equal(read.tree["fourier"], np.arange(4))
    assert jax.random.key_data(read.tree["key"]).tolist() == [0, 1]
    assert read.digest() != arrays.digest()
    assert of(tree()).digest() == arrays.digest()


def test_arrays_that_differ_are_named():
    stored = of({"a": jnp.ones(2), "b": jnp.ones(3)}).stored({"a": jnp.ones(2), "b": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"a has shape \(2,\) instead of \(5,\)"):
        of({"a": jnp.ones(5), "b": jnp.ones(3)}).replaced(stored)
    with pytest.raises(ValueError, match="c is missing; b isn't expected"):
        of({"a": jnp.ones(2), "c": jnp.ones(3)}).replaced(stored)


def test_parameters_that_are_one_array():
    arrays = of(jnp.ones(3))
    assert arrays.start().keys() == {"array"}
    np.testing.assert_array_equal(arrays.whole({"array": jnp.zeros(3)}), np.zeros(3))


@pytest.mark.parametrize("framework", ["nnx", "equinox"])
def test_trees_of_frameworks(framework):
    if framework == "nnx":
        model = nnx.BatchNorm(3, use_running_average=True, rngs=nnx.Rngs(0))
        net, params = models.from_nnx(model, call=lambda m, x, t, c: m(x))
    else:
        mlp = eqx.nn.MLP(3, 3, 4, 1, key=jax.random.key(0))
        net, params = models.from_equinox(mlp, call=lambda m, x, t, c: m(x))
    arrays = Arrays(params, not_frozen)
    x, t = jnp.ones((2, 3)), jnp.ones(2)
    wanted = net(params, x, t, None)
    np.testing.assert_array_equal(net(arrays.whole(arrays.start()), x, t, None), wanted)
    stored = arrays.stored(arrays.start())
    np.testing.assert_array_equal(net(arrays.replaced(stored).tree, x, t, None), wanted)
    gradient = jax.grad(lambda p: net(arrays.whole(p), x, t, None).sum())(arrays.start())
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(gradient))


def test_an_array_without_elements_is_neither_trained_nor_stored():
    params = {"w": jnp.ones(2), "none": jnp.ones((0, 3)), "frozen": np.zeros(0, np.int32)}
    arrays = of(params)
    assert arrays.start().keys() == arrays.abstract().keys() == {"w"}
    assert arrays.stored(arrays.start()).keys() == arrays.abstract_stored().keys() == {"w"}
    read = arrays.replaced({"w": jnp.zeros(2)})
    assert read.tree["none"].shape == (0, 3)
    assert arrays.whole(arrays.start())["none"].shape == (0, 3)
    assert arrays.digest() == of({"w": jnp.ones(2)}).digest()
