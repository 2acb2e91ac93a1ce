"""What networks compute of parameters alone: once an update, and not in each of its rounds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.errors import ScopeParamNotFoundError
from jax.sharding import PartitionSpec

from diffjax.distributed import sharding
from diffjax.models.discriminator import Headed
from diffjax.models.generator import DenoiserGenerator
from diffjax.networks import edm2
from tests.support import distilling, edm2_cases, given_draws, golden_cases

ROUNDS = 4
LEARNERS = ("fake_score", "generator")

# ---- The update, with a network of one array -----------------------------------------------------

BATCH, SHAPE = 12, (2, 2, 8)


def prepare(params):
    return {**params, "scale": jnp.tanh(params["shift"])}


def denoise(params, x, sigma=None, **_):
    scale = params["scale"] if "scale" in params else prepare(params)["scale"]
    return 0.1 * x + scale


@pytest.mark.parametrize(
    ("rounds", "share_samples", "times"), [(1, True, 1), (3, False, 3), (3, True, 3)]
)
def test_the_update_is_as_without(rounds, share_samples, times):
    setup = distilling.build(
        "sid",
        teacher=denoise,
        fake_score=denoise,
        generator=denoise,
        fake_score_optimizer=optax.sgd(0.25),
        generator_optimizer=optax.sgd(0.25),
        batch_size=BATCH,
        rounds=rounds,
        shape=SHAPE,
        share_samples=share_samples,
        fake_score_updates=times,
    )
    start = distilling.start(setup, *({"shift": jnp.full(SHAPE, value)} for value in (-0.5, 0.25)))
    given = given_draws.make(
        np.linspace(0.1, 2, BATCH), SHAPE, rounds=rounds, fake_score_updates=times
    )
    calls = []

    def counted(params):
        calls.append(set(params))
        return prepare(params)

    changed = dataclasses.replace(setup, prepared=dict.fromkeys(LEARNERS, counted))
    (plain, before), (found, metrics) = (
        jax.jit(distilling.step(each))(start, {"shift": jnp.full(SHAPE, 1.0)}, given)
        for each in (setup, changed)
    )
    assert bool(calls) == (rounds > 1)
    for name in LEARNERS:
        moved, expected = (
            each.params[name]["shift"] - start.params[name]["shift"] for each in (found, plain)
        )
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-6)
    for name, value in before.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


# ---- Networks ------------------------------------------------------------------------------------

EDM2 = edm2_cases.KWARGS | {"channel_mult": [1], "attn_resolutions": [4]}
SONG = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 4,
    "img_channels": 3,
    "label_dim": 2,
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}


@functools.cache
def model_of(kind):
    return golden_cases.denoiser.from_edm_kwargs({"edm2": EDM2, "song": SONG}[kind])


def without_kernels(tree):
    if not isinstance(tree, dict):
        return tree
    return {name: without_kernels(each) for name, each in tree.items() if name != "kernel"}


@pytest.mark.parametrize("force", [True, False])
def test_a_training_pass_needs_no_kernels(force):
    model = golden_cases.denoiser.from_edm_kwargs({**EDM2, "force_normalization": force})

    def passes(params, train=True):
        x, sigma = jnp.ones((2, *model.image_shape)), jnp.ones(2)
        out = model(params, x, sigma, labels=jnp.eye(2), train=train)
        return out, model.log_variance(params, sigma, train=train)

    params = model.abstract_params()
    prepared = jax.eval_shape(model.prepared, params)
    expected = jax.eval_shape(passes, params)
    assert jax.eval_shape(passes, without_kernels(prepared)) == expected
    with pytest.raises(ScopeParamNotFoundError, match="kernel"):
        jax.eval_shape(passes, without_kernels(params))
    if force:  # else training computes as evaluation does
        evaluated = functools.partial(passes, train=False)
        assert jax.eval_shape(evaluated, prepared) == expected
        with pytest.raises(ScopeParamNotFoundError, match="kernel"):
            jax.eval_shape(evaluated, without_kernels(prepared))


def test_the_last_layers_gain_is_in_its_weight():
    model = model_of("edm2")
    params = edm2_cases.weights(model)["params"]
    (weight,) = model.network.prepared(params)["out_conv"]["forced"]
    rms = jnp.sqrt(jnp.mean(weight**2, axis=(0, 1, 2)))
    np.testing.assert_allclose(rms, abs(params["out_gain"]) / np.sqrt(9 * 8), rtol=1e-3)


def test_gradients_lead_on_to_parameters():
    """Of a block with all kinds of weight: with a gain, taken apart, and neither."""
    model = model_of("edm2")
    params = edm2_cases.weights(model)["params"]["dec_4x4_in0"]
    block = edm2.Block(8, model.network._style(train=True), decodes=True, attends=True)
    x, emb = (jax.random.normal(jax.random.key(i), (2, *s)) for i, s in ((0, (4, 4, 8)), (1, (8,))))

    def total(prepare, params):
        out = block.apply({"params": prepare({"block": params})["block"]}, x, emb)
        return jnp.sum(out * x)

    (value, found), (expected_value, expected) = (
        jax.jit(jax.value_and_grad(functools.partial(total, prepare)))(params)
        for prepare in (model.network.prepared, lambda tree: tree)
    )
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert np.abs(expected["emb_gain"]) > 1e-3
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def kernels(params):
    """Paths of a network's weights, and of those that are prepared."""
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    weights = {tuple(path[:-1]) for path in paths if path[-1] == "kernel"}
    return weights, {tuple(path[:-2]) for path in paths if path[-2] in ("forced", "effective")}


def test_all_weights_are_prepared_and_nothing_of_other_networks():
    model = model_of("edm2")
    params = model.abstract_params()
    free = golden_cases.denoiser.from_edm_kwargs({**EDM2, "force_normalization": False})
    for each in (model, free):
        weights, prepared = kernels(jax.eval_shape(each.prepared, params))
        assert prepared == weights == kernels(params)[0]
    headed = Headed(model, None, model)
    found = jax.eval_shape(headed.prepared, {"network": params, "head": {}})
    assert headed.prepares_weights
    assert kernels(found["network"])[1] == weights
    other = model_of("song")
    assert not other.prepares_weights
    assert other.prepared(params) is params


def test_they_are_split_where_the_state_is():
    mesh = sharding.make_mesh(data=4, fsdp=2)
    kernel = jax.ShapeDtypeStruct((3, 3, 8, 16), np.float32, sharding=sharding.replicated(mesh))
    split = jax.jit(sharding.splitting(prepare, mesh)).lower({"shift": kernel}).compile()
    assert split.output_shardings["scale"].spec == PartitionSpec(None, None, None, "fsdp")
    whole = sharding.make_mesh()
    assert sharding.splitting(prepare, whole) is prepare


# ---- What stands between a round's gradients and the sum over rounds -----------------------------

# What XLA moves an all-reduce through on its way out of a loop that adds up its results, and what
# sums over examples: a `cond` chooses a way to convolve by platform. What is 0 is broadcast.
PASSED = ("convert_element_type", "reshape", "transpose", "squeeze", "rev", "copy")
REDUCING = ("conv_general_dilated", "dot_general", "reduce_sum", "cond")


def scans(jaxpr):
    """All loops of a program, those inside other calls too."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            yield eqn
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from scans(inner)


def held_up(scan):
    """Count a loop's sums of weights' gradients, and list what is computed of a round's alone."""
    body = scan.params["jaxpr"].jaxpr
    made_by = {out: eqn for eqn in body.eqns for out in eqn.outvars}
    totals = body.invars[scan.params["num_consts"] :][: scan.params["num_carry"]]
    count, others = 0, []
    for total, out in zip(totals, body.outvars, strict=False):
        if len(out.aval.shape) < 2:
            continue
        (variable,) = set(made_by[out].invars) - {total}
        while made_by[variable].primitive.name in PASSED:
            variable = made_by[variable].invars[0]
        name = made_by[variable].primitive.name
        count += name in REDUCING
        if name not in (*REDUCING, "broadcast_in_dim"):
            others.append((out.aval.shape, name))
    return count, others


@pytest.mark.parametrize("kind", ["song", "edm2"])
def test_only_moves_stand_between_gradients_and_their_sum(kind):
    """So that XLA reduces sums of gradients over devices, once, and not those of each round."""
    model = model_of(kind)
    setup = distilling.build(
        "sid",
        teacher=model,
        fake_score=model,
        generator=DenoiserGenerator(model, 2.5),
        fake_score_optimizer=optax.sgd(1e-3),
        generator_optimizer=optax.sgd(1e-3),
        batch_size=2 * ROUNDS,
        rounds=ROUNDS,
        shape=model.image_shape,
        label_dim=2,
        sigma_range=(0.002, 80.0),
    )
    if model.prepares_weights:
        setup = dataclasses.replace(setup, prepared=dict.fromkeys(LEARNERS, model.prepared))
    params = model.abstract_params()
    state = jax.eval_shape(functools.partial(distilling.start, setup), params, params)
    draws = jax.eval_shape(setup.method.draw, jax.random.key(0))
    jaxpr = jax.make_jaxpr(setup)(state, {"teacher": params}, draws)
    found = [held_up(each) for each in scans(jaxpr.jaxpr) if each.params["length"] == ROUNDS]
    assert len(found) == len(LEARNERS)
    weights = len(kernels(params)[0])
    for count, others in found:
        assert count > 0.9 * weights
        assert not others
