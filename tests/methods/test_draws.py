import dataclasses
import functools
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import augmentation, noise
from diffjax.methods.draws import Batch
from diffjax.methods.score_distillation import ScoreDistillation
from diffjax.methods.sid import SiD

BATCH, ROUNDS, FAKE_UPDATES, CLASSES = 600, 2, 3, 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told(ScoreDistillation):
    """A method whose networks' noise levels tell whose they are."""

    new_labels: ClassVar = True

    def lognormal(self):
        return noise.LogNormal(mean=-5.0, std=0.1)

    def generator_sigma(self):
        return noise.LogNormal(mean=5.0, std=0.1)


class WithOldLabels(Told):
    new_labels: ClassVar = False


@functools.cache
def sampler(method, **kwargs):
    """Compiled once for several tests: the random generator is slow to compile."""
    batch = Batch((2, 1, 3), BATCH, ROUNDS, CLASSES)
    return jax.jit(method(networks={}, batch=batch, fake_score_updates=FAKE_UPDATES, **kwargs).draw)


def sid_draws(seed=0):
    return sampler(Told, augment_probability=0.5)(jax.random.key(seed))


def raw(tree):
    """Keys as the numbers that they hold."""

    def leaf(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return jax.tree.map(leaf, tree)


def test_shapes():
    draw = sid_draws()
    lead = (ROUNDS, BATCH // ROUNDS)
    generator = draw["generator"]
    chex.assert_shape([generator.z, generator.noise], (1, *lead, 2, 1, 3))
    chex.assert_shape(generator.sigma, (1, *lead))
    chex.assert_shape(generator.labels, (1, *lead, CLASSES))
    chex.assert_shape(generator.dropout, (1, ROUNDS))
    assert generator.augmentation is None
    fake_score = draw["fake_score"].replace(augmentation=None)
    for fake, other in zip(jax.tree.leaves(fake_score), jax.tree.leaves(generator), strict=True):
        assert fake.shape == (FAKE_UPDATES, *other.shape[1:])
    assert isinstance(draw["fake_score"].augmentation, augmentation.Draws)
    for leaf in jax.tree.leaves(draw["fake_score"].augmentation):
        assert leaf.shape[:3] == (FAKE_UPDATES, *lead)


def test_points_without_classes_or_augmentation():
    draw = SiD(networks={}, batch=Batch((2,), 4)).draw(jax.random.key(0))
    for network in draw.values():
        chex.assert_shape(network.z, (1, 1, 4, 2))
        assert network.labels is network.augmentation is None


def test_equal_keys_equal_draws():
    chex.assert_trees_all_equal(raw(sid_draws(4)), raw(sid_draws(4)))


def test_nothing_is_drawn_twice():
    """Neither by two keys, nor for one: by network, by update of the fake score, by round."""
    networks = [network for seed in (0, 1) for network in sid_draws(seed).values()]
    dropout = np.concatenate([raw(n.dropout).reshape(-1, 2) for n in networks])
    assert len(np.unique(dropout, axis=0)) == len(dropout) == 2 * (FAKE_UPDATES + 1) * ROUNDS
    # A float32 alone repeats by chance, an example's six don't.
    examples = np.concatenate([np.reshape(a, (-1, 6)) for n in networks for a in (n.z, n.noise)])
    assert len(np.unique(examples, axis=0)) == len(examples)
    for network in networks:
        sigmas = np.reshape(network.sigma, (-1, BATCH // ROUNDS))
        assert len(np.unique(sigmas[:, :4], axis=0)) == len(sigmas)


def test_each_network_has_its_own_noise_levels():
    draw = sid_draws()
    np.testing.assert_allclose(np.log(draw["fake_score"].sigma), -5, atol=0.6)
    np.testing.assert_allclose(np.log(draw["generator"].sigma), 5, atol=0.6)


def test_latents_and_noise_are_standard_normal():
    draw = sid_draws()
    for network in draw.values():
        for values in (network.z, network.noise):
            np.testing.assert_allclose(np.mean(values), 0, atol=5 / np.sqrt(values.size))
            np.testing.assert_allclose(np.std(values), 1, atol=5 / np.sqrt(2 * values.size))


def test_labels_are_uniform_and_one_hot():
    for network in sid_draws().values():
        labels = np.reshape(network.labels, (-1, CLASSES))
        np.testing.assert_array_equal(labels.sum(axis=1), 1)
        np.testing.assert_array_equal(labels.max(axis=1), 1)
        error = np.sqrt(0.1 * 0.9 / len(labels))
        np.testing.assert_allclose(labels.mean(axis=0), 0.1, atol=5 * error)


def share_of_last_labels(draw):
    """How often each round of the generator's has the label of the fake score's last round."""
    classes = draw["generator"].labels[0].argmax(axis=-1)
    return np.mean(classes == draw["fake_score"].labels[-1, -1].argmax(axis=-1), axis=1)


def test_sid_draws_new_labels_for_the_generator():
    np.testing.assert_allclose(share_of_last_labels(sid_draws()), 1 / CLASSES, atol=0.1)


def test_diff_instruct_reuses_the_last_labels():
    draw = sampler(WithOldLabels)(jax.random.key(0))
    np.testing.assert_array_equal(share_of_last_labels(draw), 1)
    first, last = draw["fake_score"].labels[0, 0], draw["fake_score"].labels[-1, -1]
    assert not np.array_equal(first, last)


def test_a_batch_that_does_not_divide_into_rounds():
    with pytest.raises(ValueError, match=r"batch_size=10 does not divide into rounds=4"):
        Batch((2,), 10, rounds=4)
