"""Which network runs with what, in which update, as the published loops have it.

Dropout is 0 in the trajectories that those loops recorded, so they can't tell. Here each network
writes down how it is called.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax.diffusion import augmentation
from diffjax.models.generator import DenoiserGenerator
from tests.support import distilling

INIT_SIGMA = 2.5
METHODS = ("sid", "diff_instruct", "sim", "fgm", "dmd")
FAKE_UPDATES = 2


class Call(NamedTuple):
    network: str
    train: bool
    rng: tuple[int, ...] | None
    sigma: np.ndarray
    labels: np.ndarray | None
    augment_labels: np.ndarray | None


@dataclasses.dataclass(eq=False)
class Recorder:
    """A denoiser D = w x that writes its calls to a log.

    Called outside jit, so that all but what is differentiated has values.
    """

    name: str
    log: list

    def __call__(
        self, params, x, sigma, *, labels=None, augment_labels=None, train=False, rng=None
    ):
        rng = None if rng is None else tuple(np.ravel(jax.random.key_data(rng)).tolist())
        labels, augment_labels = (
            None if a is None else np.asarray(jax.lax.stop_gradient(a))
            for a in (labels, augment_labels)
        )
        self.log.append(Call(self.name, train, rng, np.asarray(sigma), labels, augment_labels))
        return params["w"] * x


def setup_for(method, log):
    """An update with labels and augmentation."""
    optimizer = optax.sgd(0.1)
    return distilling.build(
        method,
        teacher=Recorder("teacher", log),
        fake_score=Recorder("fake_score", log),
        generator=DenoiserGenerator(Recorder("generator", log), INIT_SIGMA),
        fake_score_optimizer=optimizer,
        generator_optimizer=optimizer,
        batch_size=4,
        shape=(8, 8, 3),
        label_dim=1000,
        fake_score_updates=FAKE_UPDATES,
        augment_probability=1.0,
    )


@functools.cache
def draws_for(method):
    """Draws with labels and augmentation."""
    return jax.jit(setup_for(method, []).method.draw)(jax.random.key(0))


@functools.cache
def run_update(method, *, plain=False):
    """The log of one update, and its draws; plain is without labels and augmentation."""
    log = []
    setup = setup_for(method, log)
    draw = draws_for(method)
    if plain:
        draw = {name: each.replace(labels=None, augmentation=None) for name, each in draw.items()}
    params = {"w": jnp.float32(0.5)}
    setup(distilling.start(setup, params, params), {"teacher": params}, draw)
    return log, draw


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def split(log):
    """Calls of the fake score's updates, by update, and those of the generator's, by network."""
    fake_updates = [log[2 * i : 2 * i + 2] for i in range(FAKE_UPDATES)]
    return fake_updates, {call.network: call for call in log[2 * FAKE_UPDATES :]}


def test_order_of_calls(method):
    log, _ = run_update(method)
    assert [call.network for call in log] == [
        *["generator", "fake_score"] * FAKE_UPDATES,
        *["generator", "teacher", "fake_score"],
    ]


def test_dropout_in_the_fake_scores_update(method):
    fake_updates, _ = split(run_update(method)[0])
    for generator, fake_score in fake_updates:
        assert (generator.train, generator.rng) == (False, None)
        assert fake_score.train
    assert len({fake_score.rng for _, fake_score in fake_updates} - {None}) == FAKE_UPDATES


@pytest.mark.parametrize(
    ("name", "scores_train"), [(name, name == "diff_instruct") for name in METHODS]
)
def test_dropout_in_the_generators_update(name, scores_train):
    fake_updates, calls = split(run_update(name)[0])
    assert calls["generator"].train
    assert calls["generator"].rng is not None
    assert calls["teacher"].train == calls["fake_score"].train == scores_train
    # One mask for both scores, and another than the generator's and than before.
    assert calls["teacher"].rng == calls["fake_score"].rng
    if scores_train:
        others = {calls["generator"].rng, *(fake.rng for _, fake in fake_updates)}
        assert calls["teacher"].rng not in {None, *others}
    else:
        assert calls["teacher"].rng is None


def test_noise_levels(method):
    log, draw = run_update(method)
    fake_updates, calls = split(log)
    for i, (generator, fake_score) in enumerate(fake_updates):
        np.testing.assert_array_equal(generator.sigma, [INIT_SIGMA] * 4)
        np.testing.assert_array_equal(fake_score.sigma, draw["fake_score"].sigma[i, 0])
    np.testing.assert_array_equal(calls["generator"].sigma, [INIT_SIGMA] * 4)
    for name in ("teacher", "fake_score"):
        np.testing.assert_array_equal(calls[name].sigma, draw["generator"].sigma[0, 0])


def test_labels_are_the_same_for_all_networks_of_an_update(method):
    log, draw = run_update(method)
    fake_updates, calls = split(log)
    for i, update_calls in enumerate(fake_updates):
        for call in update_calls:
            np.testing.assert_array_equal(call.labels, draw["fake_score"].labels[i, 0])
    for call in calls.values():
        np.testing.assert_array_equal(call.labels, draw["generator"].labels[0, 0])


@pytest.mark.parametrize(("name", "fresh"), [(name, name != "diff_instruct") for name in METHODS])
def test_labels_of_the_generators_update(name, fresh):
    fake_updates, calls = split(run_update(name)[0])
    last = fake_updates[-1][1].labels
    assert np.array_equal(calls["generator"].labels, last) != fresh
    assert not np.array_equal(fake_updates[0][1].labels, last)


def test_augmentation_is_for_the_fake_score_in_its_own_update(method):
    fake_updates, calls = split(run_update(method)[0])
    for generator, fake_score in fake_updates:
        assert generator.augment_labels is None
        assert fake_score.augment_labels.shape == (4, augmentation.NUM_LABELS)
        assert np.abs(fake_score.augment_labels).max() > 0
    assert all(call.augment_labels is None for call in calls.values())


def test_without_classes_and_augmentation_no_labels_of_either_kind(method):
    for call in run_update(method, plain=True)[0]:
        assert call.labels is None
        assert call.augment_labels is None


def test_moment_matching_asks_the_teacher_about_what_the_auxiliary_network_learns():
    log, draw = run_update("moment_matching")
    fake_turns, generators = log[: 3 * FAKE_UPDATES], log[3 * FAKE_UPDATES :]
    for i in range(FAKE_UPDATES):
        generator, auxiliary, teacher = fake_turns[3 * i : 3 * i + 3]
        assert [each.network for each in (generator, auxiliary, teacher)] == [
            *("generator", "fake_score", "teacher")
        ]
        assert (generator.train, auxiliary.train, teacher.train) == (False, True, False)
        assert teacher.rng is None
        for field in ("sigma", "labels", "augment_labels"):
            np.testing.assert_array_equal(getattr(teacher, field), getattr(auxiliary, field))
        np.testing.assert_array_equal(teacher.sigma, draw["fake_score"].sigma[i, 0])
    assert [each.network for each in generators] == ["generator", "teacher", "fake_score"]
    assert [each.train for each in generators] == [True, False, False]
