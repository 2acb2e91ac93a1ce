"""Laws of conditions and latents: what they draw, from which key; and guidance."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models
from diffjax.methods.draws import Batch

KEY = jax.random.key(7)
LAWS = {
    "one_hot": lambda: models.one_hot(10),
    "some": lambda: models.one_hot(10, (1, 7)),
    "uniform": lambda: models.uniform({"class": 10, "snr": (0.0, 1.0)}),
    "frequencies": lambda: models.from_frequencies([1, 0, 3]),
    "array": lambda: models.from_array({"text": np.arange(6.0).reshape(3, 2), "n": np.arange(3)}),
    "normal": lambda: models.normal((3, 2)),
}


@pytest.mark.parametrize("name", LAWS)
def test_laws_are_pure_compile_and_give_32_bits(name):
    law = LAWS[name]()
    eager = law(KEY, 8)
    compiled = jax.jit(law, static_argnums=1)(KEY, 8)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(compiled), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.shape[0] == 8
    with jax.enable_x64(True):
        wide = LAWS[name]()(KEY, 8)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(wide), strict=True):
        assert a.dtype == b.dtype
        assert a.dtype in (jnp.float32, jnp.int32)
        np.testing.assert_array_equal(a, b)
    others = jax.tree.leaves(law(jax.random.key(8), 8))
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(eager), others, strict=True))


@pytest.mark.parametrize("name", [name for name in LAWS if name != "array"])
def test_equal_laws_are_one(name):
    assert LAWS[name]() == LAWS[name]()
    assert hash(LAWS[name]()) == hash(LAWS[name]())


@pytest.mark.parametrize("classes", [(), (2, 3, 9)])
@pytest.mark.parametrize("rounds", [1, 3])
def test_one_hot_draws_what_an_update_draws(classes, rounds):
    batch = Batch((2,), 12, rounds, label_dim=10, classes=classes)
    draws = batch.latents(KEY, lambda key, shape: jnp.ones(shape))
    z_key, _, _, label_key, _ = jax.random.split(KEY, 5)
    labels = models.one_hot(10, classes)(label_key, 12)
    np.testing.assert_array_equal(labels, draws.labels.reshape(12, 10))
    assert labels.dtype == draws.labels.dtype
    np.testing.assert_array_equal(models.normal((2,))(z_key, 12), draws.z.reshape(12, 2))


def test_uniform_covers_its_ranges_independently():
    spec = {"class": 4, "pair": [(-2.0, 3.0), (5, 6)], "also": 4}
    drawn = models.uniform(spec)(KEY, 4000)
    assert jax.tree.structure(drawn) == jax.tree.structure({"class": 0, "pair": [0, 0], "also": 0})
    assert drawn["class"].shape == (4000,)
    np.testing.assert_allclose(np.bincount(drawn["class"], minlength=4) / 4000, 0.25, atol=0.04)
    low, high = drawn["pair"][0].min(), drawn["pair"][0].max()
    assert -2 <= low < -1.95
    assert 2.95 < high < 3
    assert drawn["pair"][1].dtype == jnp.float32
    assert abs(np.corrcoef(drawn["class"], drawn["also"])[0, 1]) < 0.06


def test_frequencies_are_the_datas():
    drawn = models.from_frequencies(np.array([100, 0, 300]))(KEY, 8000)
    assert drawn.shape == (8000, 3)
    np.testing.assert_allclose(drawn.mean(0), [0.25, 0, 0.75], atol=0.02)
    np.testing.assert_array_equal(drawn.sum(1), 1)
    assert drawn[:, 1].max() == 0


def test_rows_of_a_table_stay_together():
    table = {"text": np.arange(10, dtype=np.float16).reshape(5, 2), "id": np.arange(5)}
    law = models.from_array(table)
    drawn = law(KEY, 200)
    assert drawn["text"].dtype == jnp.float16
    np.testing.assert_array_equal(drawn["text"], table["text"][drawn["id"]])
    assert set(np.asarray(drawn["id"]).tolist()) == set(range(5))
    # The law is a tree: its table can be an argument of a program.
    as_argument = jax.jit(lambda law, key: law(key, 200))(law, KEY)
    np.testing.assert_array_equal(as_argument["id"], drawn["id"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.one_hot(0), "one_hot: n=0 must be a positive integer"),
        (lambda: models.one_hot(2.0), "one_hot: n=2.0 must be a positive integer"),
        (lambda: models.one_hot(3, (0, 3)), "one_hot: classes=(0, 3) must be integers in [0, 3)"),
        (lambda: models.one_hot(3, (0.5,)), "one_hot: classes=(0.5,) must be integers in [0, 3)"),
        (lambda: models.uniform({}), "uniform: {} describes nothing to draw"),
        (lambda: models.uniform({"a": 0}), "uniform['a']=0 must be a positive integer"),
        (lambda: models.uniform({"a": 0.5}), "or a tuple (low, high)"),
        (lambda: models.uniform({"a": [0.0, 1.0]}), "uniform['a']['0']=0.0 must be"),
        (lambda: models.uniform((1.0, 1.0)), "uniform: (1.0, 1.0) must be (low, high)"),
        (lambda: models.uniform((0.0, np.inf)), "must be (low, high), finite"),
        (lambda: models.from_frequencies([]), "counts must be"),
        (lambda: models.from_frequencies([[1, 2]]), "counts must be a list of numbers"),
        (lambda: models.from_frequencies(["a"]), "counts must be a list of numbers"),
        (lambda: models.from_frequencies([1, -1]), "not negative"),
        (lambda: models.from_frequencies([0, 0]), "not all zero"),
        (lambda: models.from_array({}), "same number of rows, at least 1 (no array)"),
        (lambda: models.from_array(np.ones(())), "(the array 0)"),
        (lambda: models.from_array({"t": np.asarray(["a cat"])}), "from_array: t holds text, and"),
        (
            lambda: models.from_array({"a": np.ones((2, 1)), "b": np.ones(3)}),
            "same number of rows, at least 1 (a 2, b 3)",
        ),
        (lambda: models.normal((0,)), "normal: shape=(0,) must be a tuple of positive integers"),
    ],
)
def test_what_is_no_law_is_told_in_one_line(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def conditional(cond):
    def denoise(params, y, sigma, cond):
        offset = sum(jnp.sum(leaf.reshape(len(y), -1), 1) for leaf in jax.tree.leaves(cond))
        return params["w"] * y / sigma[:, None] + offset[:, None]

    return models.Teacher(denoise, {"w": jnp.float32(2)}, (3,), 1.0, 0.1, 10.0, cond=cond)


def test_guidance_is_a_mixture_of_two_answers():
    teacher = conditional(models.uniform({"class": 10, "snr": (0.0, 1.0)}))
    null = {"class": 10, "snr": 0.25}
    guided = models.guided(teacher, scale=3.0, null=null)
    y = jax.random.normal(KEY, (5, 3))
    sigma = jnp.linspace(0.5, 2, 5)
    cond = teacher.cond(KEY, 5)
    nulls = {"class": jnp.full(5, 10, jnp.int32), "snr": jnp.full(5, 0.25)}
    without = teacher.denoise(teacher.params, y, sigma, nulls)
    given = teacher.denoise(teacher.params, y, sigma, cond)
    answer = jax.jit(guided.denoise)(teacher.params, y, sigma, cond)
    np.testing.assert_allclose(answer, without + 3 * (given - without), rtol=2e-6, atol=1e-5)
    np.testing.assert_array_equal(guided.denoise(teacher.params, y, sigma, None), without)
    assert (guided.shape, guided.cond, guided.params) == (
        teacher.shape,
        teacher.cond,
        teacher.params,
    )


def test_guidance_calls_the_network_once():
    calls = []
    teacher = conditional(models.one_hot(4))

    def counted(params, y, sigma, cond):
        calls.append(y.shape)
        return teacher.denoise(params, y, sigma, cond)

    one = models.Teacher(counted, teacher.params, (3,), 1.0, 0.1, 10.0, cond=teacher.cond)
    for null in (np.zeros(4), np.zeros((1, 4), int), jnp.zeros(4, jnp.bfloat16)):
        calls.clear()
        guided = models.guided(one, 2.0, null)
        out = guided.denoise(one.params, jnp.ones((5, 3)), jnp.ones(5), one.cond(KEY, 5))
        assert calls == [(10, 3)]
        np.testing.assert_allclose(out, 2.0 + 2.0)


@pytest.mark.parametrize(
    ("cond", "arguments", "message"),
    [
        (None, {}, "guided: the teacher has no cond"),
        (models.one_hot(4), {}, "guided: null is of the form"),
        (models.one_hot(4), {"null": {"a": np.zeros(4)}}, "guided: null is of the form"),
        (models.one_hot(4), {"null": np.zeros(3)}, "null has shape [3], one example's condition"),
        (models.uniform({"class": 4}), {"null": {"class": 0.5}}, "null['class']=0.5 must be of"),
        (models.one_hot(4), {"null": np.zeros(4), "scale": np.nan}, "scale=nan must be a finite"),
        (models.one_hot(4), {"null": np.zeros(4), "scale": "2"}, "scale='2' must be a finite"),
    ],
)
def test_guidance_needs_a_null_of_the_conditions_form(cond, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        models.guided(conditional(cond), **arguments)
