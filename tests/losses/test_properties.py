"""What all losses have in common."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses
from tests.support import arrays
from tests.support.loss_calls import CALLS, COUPLED, SEPARATE, SIGMA

BATCH = 3
# No loss of examples: weights of ratios, logits of logits.
NO_LOSS = {
    "F_DIVERGENCES",
    "f_divergence_weight",
    "normalized_f_divergence_weight",
    "skewed_logits",
}
X, TEACHER, FAKE = arrays.normal((BATCH, 4, 4, 2), 3)
LOGITS = arrays.normal((BATCH, 1), 1)[0]
# Arrays, by argument, into which no gradient flows, and those into which one does.
GRADIENTS = {
    "approximate_r1": ([], ["logits", "perturbed"]),
    "denoising": (["x"], ["d_fake"]),
    "diff_instruct": (["d_teacher", "d_fake"], ["x"]),
    "dmd": (["d_teacher", "d_fake"], ["x"]),
    "f_distill": (["d_teacher", "d_fake", "ratio"], ["x"]),
    "fgm": ([], ["x", "d_teacher", "d_fake"]),
    "gan_discriminator": ([], ["real", "fake"]),
    "gan_generator": ([], ["logits"]),
    "moment_matching": (["d_teacher", "d_auxiliary"], ["x"]),
    "moment_matching_auxiliary": (["x", "d_teacher"], ["d_auxiliary"]),
    "normalizing_weight": (["x", "d_teacher"], []),
    "r1": ([], ["gradient"]),
    "sid": ([], ["x", "d_teacher", "d_fake"]),
    "sida": ([], ["x", "d_teacher", "d_fake", "logits"]),
    "sida_gan_discriminator": ([], ["real", "fake"]),
    "sida_gan_generator": ([], ["logits"]),
    "sim": ([], ["x", "d_teacher", "d_fake"]),
    "smd": (["d_teacher", "d_fake", "logits"], ["x"]),
    "smd_critic": (["d_teacher", "d_fake"], ["logits"]),
    "uni_instruct": (["log_ratio"], ["x", "d_teacher", "d_fake"]),
    "uni_instruct_released": ([], ["x", "d_teacher", "d_fake", "logits"]),
}
VALUES = {
    "x": X,
    "d_teacher": TEACHER,
    "d_fake": FAKE,
    "d_auxiliary": FAKE,
    "gradient": X,
    "logits": LOGITS,
    "perturbed": LOGITS + 1,
    "real": LOGITS,
    "fake": LOGITS + 1,
    "log_ratio": LOGITS[:, 0],
    "ratio": jnp.exp(LOGITS[:, 0]),
}
SETTINGS = {
    "sid": {"alpha": 1.2},
    "sim": {"sigma": SIGMA},
    "smd": {"skew": 0.75},
    "smd_critic": {"skew": 0.75, "real": False},
    "f_distill": {"divergence": "jeffreys"},
    "uni_instruct": {"sigma": SIGMA, "divergence": "jeffreys"},
}


def call(name, **changes):
    stopped, open_ = GRADIENTS[name]
    given = {key: VALUES[key] for key in (*stopped, *open_)}
    weight = {"weight": 2.0} if takes_weight(name) else {}
    return getattr(losses, name)(**given | weight | SETTINGS.get(name, {}) | changes)


def takes_weight(name):
    return "weight" in inspect.signature(getattr(losses, name)).parameters


def gradient(name, argument, **changes):
    return jax.grad(lambda value: call(name, **{argument: value}, **changes).sum())(
        changes.pop(argument, VALUES[argument])
    )


def pairs(which):
    return [(name, key) for name, lists in GRADIENTS.items() for key in lists[which]]


def test_every_loss_is_here():
    assert set(CALLS) == set(GRADIENTS) == set(losses.__all__) - NO_LOSS


@pytest.mark.parametrize(("name", "argument"), pairs(0))
def test_no_gradient_flows_into_what_is_stopped(name, argument):
    found = gradient(name, argument)
    np.testing.assert_array_equal(found, np.zeros_like(found))


@pytest.mark.parametrize(("name", "argument"), pairs(1))
def test_a_gradient_flows_into_what_is_not(name, argument):
    assert np.abs(gradient(name, argument)).max(axis=tuple(range(1, VALUES[argument].ndim))).all()


@pytest.mark.parametrize("name", filter(takes_weight, GRADIENTS))
def test_weights_scale_and_have_no_gradient(name):
    weight = jnp.asarray([1.0, 3.0, 0.5])
    if name in ("dmd", "f_distill", "smd"):
        weigh = jax.vmap(lambda w: jax.grad(lambda x: call(name, x=x, weight=w).sum())(X))
        plain, scaled = weigh(jnp.ones(1))[0], gradient(name, "x", weight=weight)
        np.testing.assert_allclose(scaled, weight[:, None, None, None] * plain, rtol=1e-5)
    elif name != "uni_instruct_released":  # whose ratio depends on it
        plain, scaled = call(name, weight=1.0), call(name, weight=weight)
        np.testing.assert_allclose(scaled, weight * plain, rtol=1e-5)
    if name != "denoising":
        found = jax.grad(lambda w: call(name, weight=w).sum())(weight)
        np.testing.assert_array_equal(found, np.zeros(BATCH))


@pytest.mark.parametrize("name", filter(takes_weight, GRADIENTS))
@pytest.mark.parametrize("bad", [(BATCH + 1,), (BATCH, 1), (BATCH, 4, 4, 2)], ids=str)
def test_weights_of_other_shapes_are_refused(name, bad):
    with pytest.raises(AssertionError):
        call(name, weight=jnp.ones(bad))


def number_of_arrays(name):
    return sum(len(keys) for keys in GRADIENTS[name]) + takes_weight(name)


@pytest.mark.parametrize(
    ("name", "argument"), [item for item in pairs(0) + pairs(1) if number_of_arrays(item[0]) > 1]
)
def test_arrays_of_other_batches_are_refused(name, argument):
    short = VALUES[argument][:1]  # it would broadcast
    with pytest.raises(AssertionError):
        call(name, **{argument: short}, **{"weight": jnp.ones(BATCH)} if takes_weight(name) else {})


@pytest.mark.parametrize("name", CALLS)
def test_one_value_an_example_also_compiled(name):
    value = CALLS[name](X, TEACHER, FAKE)
    chex.assert_shape(value, (BATCH,))
    np.testing.assert_allclose(jax.jit(CALLS[name])(X, TEACHER, FAKE), value, rtol=2e-5)


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_batch_of_none_has_no_values_and_gradients(name):
    stopped, open_ = GRADIENTS[name]
    none = {key: VALUES[key][:0] for key in (*stopped, *open_)}
    none |= {"weight": jnp.ones(0)} if takes_weight(name) else {}
    chex.assert_shape(call(name, **none), (0,))
    for key in open_:
        found = jax.grad(lambda value, key=key: call(name, **none | {key: value}).sum())(none[key])
        chex.assert_equal_shape([found, none[key]])


def test_uncertainty_of_a_batch_of_none():
    none = X[:0]
    value = losses.denoising(none, none, weight=jnp.ones(0), log_variance=jnp.ones(0))
    chex.assert_shape(value, (0,))


@pytest.mark.parametrize("name", CALLS)
def test_vmap_maps_batches(name):
    stack = arrays.normal((2, BATCH, 4, 4, 2), 3)
    mapped = jax.vmap(CALLS[name])(*stack)
    for i in range(2):
        np.testing.assert_allclose(mapped[i], CALLS[name](*stack[:, i]), rtol=1e-5)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("name", SEPARATE)
def test_an_example_that_is_not_a_number_spoils_no_other(name, which):
    def values_and_gradients(*given):
        gradients = jax.grad(lambda *a: SEPARATE[name](*a).sum(), (0, 1, 2))(*given)
        return SEPARATE[name](*given), *gradients

    def changed(value):
        return [a.at[1].set(value) if i == which else a for i, a in enumerate(given)]

    given, others = [X, TEACHER, FAKE], np.asarray([0, 2])
    before, after = values_and_gradients(*given), values_and_gradients(*changed(jnp.nan))
    for clean, spoilt in zip(before, after, strict=True):
        np.testing.assert_array_equal(spoilt[others], clean[others])
    if SEPARATE[name](*changed(7.0))[1] != before[0][1]:  # it depends on this array
        assert np.isnan(after[0][1])  # and doesn't hide it


@pytest.mark.parametrize("name", COUPLED)
def test_one_mean_over_the_batch_spreads_it(name):
    spoilt = [a.at[1].set(jnp.nan) for a in (X, TEACHER, FAKE)]
    assert np.isnan(COUPLED[name](*spoilt)).all()


@pytest.mark.parametrize("name", ["f_distill", "uni_instruct"])
def test_unknown_divergences_are_answered_with_the_known(name):
    message = "'total_variation'; there are reverse_kl, soft_reverse_kl"
    with pytest.raises(ValueError, match=message):
        call(name, divergence="total_variation")
    with pytest.raises(ValueError, match=message):
        losses.f_divergence_weight(jnp.ones(3), "total_variation")


def test_unknown_distances_are_answered_with_the_known():
    with pytest.raises(ValueError, match="'huber'; there are pseudo_huber, squared"):
        call("sim", distance="huber")


@pytest.mark.parametrize("skew", [-0.1, 1.5])
@pytest.mark.parametrize("name", ["smd", "smd_critic"])
def test_a_skew_is_a_share(name, skew):
    with pytest.raises(ValueError, match=f"from 0 to 1, not {skew}"):
        call(name, skew=skew)
