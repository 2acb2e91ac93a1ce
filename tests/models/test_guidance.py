"""Guided denoisers, and the condition that stands for none."""

import dataclasses
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models
from diffjax.models import denoiser, guidance
from diffjax.models import teacher as teacher_lib
from diffjax.models.guidance import Guided, Pair
from diffjax.models.records import RecordDenoiser
from tests.support import my_teacher

X = jnp.asarray(np.random.RandomState(0).standard_normal((4, 2, 3)), jnp.float32)
SIGMA = jnp.asarray([0.1, 1.0, 3.0, 9.0])
LABELS = jnp.asarray([1.0, 2.0, 3.0, 4.0])
NULL = np.float32(-0.5)


@dataclasses.dataclass(frozen=True)
class Shifted:
    """D = w x + c, whose condition is a number; it counts what it is told besides."""

    cond: object = True
    augment_dim: int = 9

    def __call__(self, params, x, sigma, labels=None, augment_labels=None, train=False, rng=None):
        assert augment_labels is None or self.augment_dim
        shift = 0.0 if labels is None else labels[:, None, None]
        return params * x + shift + train

    def features(self, params, x, sigma, labels=None, **options):
        return self(params, x, sigma, labels, **options), (labels,)


def test_it_leads_away_from_no_condition():
    guided = Guided(Shifted(), 3.0, NULL)
    expected = 2.0 * X + (-0.5 + 3.0 * (LABELS + 0.5))[:, None, None]
    np.testing.assert_allclose(guided(2.0, X, SIGMA, LABELS), expected, rtol=1e-6)
    d, features = guided.features(2.0, X, SIGMA, LABELS)
    np.testing.assert_allclose(d, expected, rtol=1e-6)
    np.testing.assert_array_equal(features[0], LABELS)  # of the condition that is asked for
    trained = guided(2.0, X, SIGMA, LABELS, train=True)  # both answers are told so
    np.testing.assert_allclose(trained, expected + 1, rtol=1e-6)
    without = Guided(Shifted(), 3.0, NULL)(2.0, X, SIGMA, jnp.full(4, NULL))
    np.testing.assert_allclose(without, 2.0 * X + NULL, rtol=1e-6)  # nothing to lead away from


def test_it_leads_away_from_a_weaker_network():
    for cond, shift in ((True, LABELS), (None, 0 * LABELS)):
        weaker = Shifted(cond, augment_dim=0)
        guided = Guided(Shifted(), 2.0, negative=weaker)
        found = guided(Pair(2.0, 1.0), X, SIGMA, LABELS, augment_labels=jnp.zeros((4, 9)))
        above = 2.0 * X + LABELS[:, None, None]
        below = 1.0 * X + shift[:, None, None]
        np.testing.assert_allclose(found, 2 * above - below, rtol=1e-5)
    assert guidance.paired({"teacher": 2.0, "negative": 1.0, "data": 0}) == {
        "teacher": Pair(2.0, 1.0),
        "data": 0,
    }
    assert guidance.paired({"teacher": 2.0}) == {"teacher": 2.0}


def test_it_does_so_between_two_noise_levels_alone():
    guided = Guided(Shifted(), 3.0, NULL, low=1.0, high=3.0)
    plain, every = Shifted()(2.0, X, SIGMA, LABELS), Guided(Shifted(), 3.0, NULL)
    expected = np.where(
        np.asarray([False, True, True, False])[:, None, None],
        every(2.0, X, SIGMA, LABELS),
        plain,
    )
    np.testing.assert_array_equal(guided(2.0, X, SIGMA, LABELS), expected)


def test_the_gradient_flows_through_both_answers():
    def value(w):
        return Guided(Shifted(), 3.0, NULL)(w, X, SIGMA, LABELS).sum()

    np.testing.assert_allclose(jax.grad(value)(2.0), X.sum(), rtol=1e-5)
    negative = Guided(Shifted(), 3.0, negative=Shifted())
    gradient = jax.grad(lambda pair: negative(pair, X, SIGMA, LABELS).sum())(Pair(2.0, 1.0))
    np.testing.assert_allclose(gradient, (3 * X.sum(), -2 * X.sum()), rtol=1e-5)


def test_all_else_is_the_denoisers():
    guided = Guided(Shifted(), 3.0, NULL)
    assert (guided.cond, guided.augment_dim) == (True, 9)
    with pytest.raises(AttributeError, match="no_such"):
        _ = guided.no_such
    assert pickle.loads(pickle.dumps(guided)).scale == 3.0
    assert guided.record == {"scale": 3.0, "interval": [0.0, math.inf], "from": "no condition"}


def test_a_network_has_learnt_to_do_without_a_class_if_labels_were_dropped():
    kwargs = {"class_name": "EDMPrecond", "model_type": "SongUNet", "img_resolution": 8}
    kwargs |= {"img_channels": 1, "model_channels": 8, "channel_mult": (1,)}
    for label_dim, rate, expected in ((10, 0.1, 10), (10, 0.0, None), (0, 0.1, None)):
        model = denoiser.from_edm_kwargs({**kwargs, "label_dim": label_dim, "label_dropout": rate})
        null = model.null
        assert (None if null is None else len(null)) == expected
        assert model.as_teacher({"a": jnp.ones(1)}).null is null or np.array_equal(
            model.as_teacher({"a": jnp.ones(1)}).null, null
        )


def test_a_users_teacher_says_so_itself():
    made = my_teacher.of_classes()
    assert RecordDenoiser(teacher_lib.checked(made, "mine"), "mine").null is None
    told = dataclasses.replace(made, null=[0, 0, 0])  # of another type
    with pytest.raises(ValueError, match=r"^mine: null is of the form"):
        teacher_lib.checked(told, "mine")
    told = dataclasses.replace(made, null=np.zeros((1, 3)))
    checked = teacher_lib.checked(told, "mine")
    assert RecordDenoiser(checked, "mine").null.shape == (3,)
    with pytest.raises(ValueError, match=r"^mine: null has shape \[4\], one example's"):
        teacher_lib.checked(dataclasses.replace(made, null=np.zeros(4)), "mine")
    with pytest.raises(ValueError, match=r"^mine: null holds NaN"):
        teacher_lib.checked(dataclasses.replace(made, null=np.full(3, np.nan)), "mine")
    alone = dataclasses.replace(my_teacher.points(), null=np.zeros(3))
    with pytest.raises(ValueError, match=r"^mine: null stands for no condition, and cond is None"):
        teacher_lib.checked(alone, "mine")
    guided = models.guided(told, 2.0, null=np.zeros(3))
    assert guided.null is not None
