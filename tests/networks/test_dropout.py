"""Dropout by a hash: how many, how independent, and the same each time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks import dropout as networks_dropout
from diffjax.networks.dropout import dropout, seeds
from diffjax.networks.group_norm import group_norm

SHAPE = (16, 32, 32, 64)  # 2²⁰ elements


def dropped(seed, rate=0.13, shape=SHAPE):
    return np.asarray(dropout(jnp.ones(shape), rate, seeds(jax.random.key(seed), 1)[0]) == 0)


@pytest.mark.parametrize("rate", [0.05, 0.13, 0.5])
def test_share_and_scale(rate):
    out = np.asarray(dropout(jnp.ones(SHAPE), rate, seeds(jax.random.key(0), 1)[0]))
    deviation = np.sqrt(rate * (1 - rate) / out.size)
    assert abs((out == 0).mean() - rate) < 4 * deviation
    np.testing.assert_allclose(out[out != 0], 1 / (1 - rate), rtol=1e-6)


def test_places_and_keys_are_independent():
    rate = 0.5
    mask = dropped(0, rate).astype(np.float64) - rate
    deviation = rate * (1 - rate) / np.sqrt(mask.size)
    for axis in range(4):
        for distance in (1, 2, 8):
            neighbour = np.roll(mask, distance, axis)
            assert abs((mask * neighbour).mean()) < 5 * deviation
    for other in (1, 2, 3):
        assert abs((mask * (dropped(other, rate) - rate)).mean()) < 5 * deviation
    # No channel, pixel or example is favoured: means over the rest are as binomials are.
    for axis in range(4):
        rest = tuple(a for a in range(4) if a != axis)
        means = mask.mean(rest) / np.sqrt(rate * (1 - rate) / (mask.size / SHAPE[axis]))
        assert np.abs(means).max() < 5


def test_same_key_same_mask():
    assert np.array_equal(dropped(3), dropped(3))


def test_batches_of_more_elements_than_32_bits_count_have_no_part_twice(monkeypatch):
    per_example = SHAPE[1] * SHAPE[2] * SHAPE[3]
    monkeypatch.setattr(networks_dropout, "_PLACES", 3 * per_example + 5)
    whole = dropped(0, rate=0.5)
    masks = whole.reshape(SHAPE[0], -1).astype(np.float64) - 0.5
    correlations = masks @ masks.T / per_example / 0.25 - np.eye(SHAPE[0])
    assert np.abs(correlations).max() < 5 / np.sqrt(per_example)
    np.testing.assert_array_equal(whole[:3], dropped(0, rate=0.5, shape=(3, *SHAPE[1:])))


def test_an_example_too_large():
    shape = jax.ShapeDtypeStruct((1, 2**17, 2**16), jnp.float32)
    with pytest.raises(ValueError, match="dropout of examples of 8589934592 elements: 4294967296"):
        jax.eval_shape(lambda x: dropout(x, 0.1, seeds(jax.random.key(0), 1)[0]), shape)


def test_after_group_norm_it_is_the_same():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 32))
    settings = {"groups": 8, "silu": True}
    key = jax.random.key(1)
    fused = group_norm(
        x, jnp.ones(32), jnp.zeros(32), dropout_rate=0.2, dropout_seed=seeds(key, 1)[0], **settings
    )
    apart = dropout(group_norm(x, jnp.ones(32), jnp.zeros(32), **settings), 0.2, seeds(key, 1)[0])
    np.testing.assert_allclose(fused, apart, rtol=1e-6)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_out_of_range(rate):
    with pytest.raises(ValueError, match=r"rate=.* of dropout isn't in \[0, 1\)"):
        dropout(jnp.ones(4), rate, seeds(jax.random.key(0), 1)[0])


def test_rate_zero_changes_nothing():
    x = jax.random.normal(jax.random.key(0), (4, 4))
    np.testing.assert_array_equal(dropout(x, 0.0, seeds(jax.random.key(1), 1)[0]), x)
