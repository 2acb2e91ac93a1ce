"""Points: a student that is a table, whose latents are indices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models
from diffjax.evaluation.drawing import latents
from diffjax.models import conditions
from diffjax.models.points import Indices


def teacher(cond=None, shape=(2, 3)):
    def denoise(params, y, sigma, cond):
        return params["scale"] * y

    return models.Teacher(denoise, {"scale": jnp.ones(1)}, shape, 0.8, 0.01, 10.0, cond=cond)


@pytest.mark.parametrize("batch", [1, 3, 7, 8, 20])
def test_a_batch_holds_each_index_as_often_as_any_other(batch):
    counts = np.zeros(7, int)
    for seed in range(40):
        drawn = np.asarray(Indices(7)(jax.random.key(seed), batch))
        assert drawn.dtype == np.int32
        each = np.bincount(drawn, minlength=7)
        assert each.max() - each.min() <= 1
        assert each.sum() == batch
        counts += each
    assert counts.min() > 0  # also one at a time


def test_a_law_of_indices_is_a_function_of_its_key():
    draw = jax.jit(Indices(7), static_argnums=1)
    np.testing.assert_array_equal(draw(jax.random.key(1), 9), Indices(7)(jax.random.key(1), 9))
    assert len({int(draw(jax.random.key(seed), 1)[0]) for seed in range(40)}) == 7


@pytest.mark.parametrize(("count", "classes"), [(10, 10), (11, 10), (3, 4), (4, 3), (5, 1)])
def test_samples_in_turn_have_each_index_of_each_class_once(count, classes):
    samples = jnp.arange(count * classes)
    drawn = np.asarray(latents(0, samples, (), Indices(count, classes)))
    pairs = list(zip(drawn.tolist(), (samples % classes).tolist(), strict=True))
    assert len(set(pairs)) == count * classes
    few = drawn[: min(count, classes)]
    assert len(set(few.tolist())) == len(few)  # also where all are of one class


def test_without_classes_a_latent_is_a_row():
    student = models.points(teacher(), count=4)
    assert student.params["points"].shape == (4, 2, 3)
    z = jnp.array([3, 0, 3])
    x = student.generate(student.params, z, None)
    np.testing.assert_array_equal(x, student.params["points"][z])


@pytest.mark.parametrize(
    "law", [models.one_hot(3), models.from_frequencies([1, 2, 3]), models.one_hot(3, (0, 2))]
)
def test_with_classes_each_has_points_of_its_own(law):
    student = models.points(teacher(law), count=4)
    assert student.params["points"].shape == (3, 4, 2, 3)
    z, cond = jnp.array([3, 0]), jax.nn.one_hot(jnp.array([2, 0]), 3)
    x = student.generate(student.params, z, cond)
    np.testing.assert_array_equal(x[0], student.params["points"][2, 3])
    np.testing.assert_array_equal(x[1], student.params["points"][0, 0])
    drawn = conditions.classes_of(law)[1]
    assert student.latent == Indices(4, len(drawn) or 3)
    guided = models.guided(teacher(law), 2.0, jnp.zeros(3))
    np.testing.assert_array_equal(
        models.points(guided, count=4).params["points"], student.params["points"]
    )


def test_the_gradient_reaches_the_points_that_are_drawn_alone():
    student = models.points(teacher(), count=4)

    def total(params):
        return student.generate(params, jnp.array([1, 1, 2]), None).sum()

    gradient = jax.grad(total)(student.params)["points"]
    np.testing.assert_array_equal(gradient[:, 0, 0], [0, 2, 1, 0])


def test_the_start_is_of_the_data_or_as_asked_and_by_the_seed():
    start = models.points(teacher(shape=(50,)), count=200).params["points"]
    assert float(start.std()) == pytest.approx(0.8, rel=0.05)
    small = models.points(teacher(shape=(50,)), count=200, std=0.1).params["points"]
    np.testing.assert_allclose(small, start / 8, rtol=1e-5)
    other = models.points(teacher(shape=(50,)), count=200, seed=1).params["points"]
    assert np.all(other != start)


@pytest.mark.parametrize(
    ("cond", "options", "message"),
    [
        (None, {"count": 0}, r"^points: count=0 must be a positive integer$"),
        (None, {"count": True}, r"^points: count=True must be a positive integer$"),
        (None, {"count": 2.0}, r"^points: count=2\.0 must be a positive integer$"),
        (None, {"std": 0.0}, r"^points: std=0\.0 must be a positive finite number$"),
        (None, {"std": float("nan")}, r"^points: std=nan must be a positive finite number$"),
        (models.uniform({"snr": (0.0, 1.0)}), {}, r"^points: .*isn't a one-hot class"),
        (models.uniform(10), {}, r"^points: .*isn't a one-hot class"),
        (models.normal(3), {}, r"^points: .*write a models\.Generator"),
    ],
)
def test_a_mistake_is_one_line(cond, options, message):
    with pytest.raises(ValueError, match=message) as told:
        models.points(teacher(cond), **options)
    assert "\n" not in str(told.value)
