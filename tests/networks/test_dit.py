"""DiT's and SiT's networks against numbers from their PyTorch code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.convert import edm_state_dict
from diffjax.diffusion import interpolants
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.networks import dit, layers
from tests.support import compiling, dit_cases, edm2_cases, golden_cases

BOUNDS = {"sit_network": (2e-6, 3e-5, 2e-4), "dit_network": (2e-5, 3e-4, 2e-4)}
KWARGS = {
    "class_name": "SiT",
    **{"img_resolution": 4, "img_channels": 4, "label_dim": 3},
    **{"hidden_size": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0},
}


def networks(**wanted):
    found = [case for kind in BOUNDS for case in golden_cases.cases(kind, **wanted)]
    return edm2_cases.or_skip(found)


def prediction(model, out):
    """What the published forward pass returns: of SiT the prediction's channels alone."""
    return out if type(model.preconditioning).__name__ == "DiT" else out[..., : model.shape[-1]]


@pytest.mark.parametrize("name", networks())
def test_output(name):
    case, model, params = dit_cases.case_and_weights(name)
    bound, _, time_bound = BOUNDS[case.meta["kind"]]
    net = jax.jit(
        lambda params, *given: dit_cases.raw_network(model, params)(*given),
        compiler_options=compiling.AS_USERS,
    )
    x, labels = dit_cases.nhwc(case.raw("x")), dit_cases.classes(model, case.raw("y"))
    out = prediction(model, net(params, x, case.raw("t"), labels))
    assert golden_cases.relative_l2(dit_cases.nchw(out), case.exact("out")) <= bound
    if "t_freq" in case:
        features = layers.PositionalEmbedding(256).apply({}, jnp.float32(case.raw("t")))
        np.testing.assert_allclose(features, case.exact("t_freq"), rtol=0, atol=time_bound)
    if "pos_embed" in case:
        own = edm_state_dict.from_params(model, params)["pos_embed"]
        np.testing.assert_allclose(own, case.raw("pos_embed"), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", networks(where=lambda case: "probe" in case))
def test_gradients(name):
    case, model, params = dit_cases.case_and_weights(name)
    _, bound, _ = BOUNDS[case.meta["kind"]]
    labels, probe = (dit_cases.classes(model, case.raw("y")), dit_cases.nhwc(case.raw("probe")))

    def probed(params, x):
        out = dit_cases.raw_network(model, params)(x, case.raw("t"), labels)
        return jnp.sum(prediction(model, out) * probe)

    grads = jax.jit(jax.grad(probed, argnums=(0, 1)))(params, dit_cases.nhwc(case.raw("x")))
    error = golden_cases.relative_l2(dit_cases.nchw(grads[1]), case.exact("grad_x"))
    assert error <= bound
    by_name = edm_state_dict.from_params(model, grads[0])
    compared = 0
    for i, torch_name in enumerate(case.meta["grad_param_names"]):
        if f"grad_p{i}" in case:
            error = golden_cases.relative_l2(by_name[torch_name], case.exact(f"grad_p{i}"))
            assert error <= bound, torch_name
            compared += 1
    assert compared


@pytest.mark.parametrize(
    ("name", "scale"),
    edm2_cases.or_skip(
        [
            case
            for kind in BOUNDS
            for case in golden_cases.cases(
                kind,
                each=lambda case: [
                    key[4:] for key in case.names if key.startswith("cfg_") and "_f64" in key
                ],
            )
        ],
        parts=2,
    ),
)
def test_guidance_of_the_first_channels(name, scale):
    case, model, params = dit_cases.case_and_weights(name)
    x, last = dit_cases.nhwc(case.raw("x")), model.label_dim - 1
    labels = dit_cases.classes(model, np.minimum(case.raw("y"), last))
    net = jax.jit(dit_cases.raw_network(model, params))
    scale = scale.removesuffix("_f64")
    guided = interpolants.guided(net, float(scale))(x, case.raw("t"), labels)
    expected = case.exact(f"cfg_{scale}")[: len(x)]
    error = golden_cases.relative_l2(dit_cases.nchw(prediction(model, guided)), expected)
    assert error <= 3 * BOUNDS[case.meta["kind"]][0]


def small(**changes):
    model = from_edm_kwargs(KWARGS | changes)
    return model, dit_cases.weights(model)


@functools.cache
def inputs():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
    return x, jnp.float32([0.3, 5.0]), jnp.eye(3)[:2]


@pytest.mark.parametrize("class_name", ["SiT", "DiT"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_close_and_returns_float32(class_name, dtype):
    model, params = small(class_name=class_name)
    half = from_edm_kwargs(KWARGS | {"class_name": class_name}, dtype=jnp.dtype(dtype))
    exact, out = (jax.jit(each)(params, *inputs()) for each in (model, half))
    assert out.dtype == jnp.float32
    assert 1e-5 < golden_cases.relative_l2(out, exact) < 0.05


def test_a_fresh_network_predicts_nothing():
    """adaLN-Zero: D is what the process alone says, and gradients reach the last layer."""
    model = from_edm_kwargs(KWARGS)
    params = jax.jit(model.init)(jax.random.key(0))
    x, sigma, labels = inputs()

    def loss(params):
        denoised = model(params, x, sigma, labels)
        return jnp.sum(denoised**2), denoised

    grads, denoised = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(denoised, x / (1 + sigma)[:, None, None, None], rtol=1e-6)
    assert np.any(grads["params"]["final_layer_linear"]["bias"])


def test_no_class_is_the_last_row_of_the_table():
    model, params = small()
    x, sigma, labels = inputs()
    table = params["params"]["y_embedder"]
    changed = {**params, "params": {**params["params"], "y_embedder": table.at[3].add(1.0)}}
    for given, is_changed in ((labels, False), (None, True), (jnp.zeros((2, 3)), True)):
        same = np.array_equal(*(model(each, x, sigma, given) for each in (params, changed)))
        assert same != is_changed
    alone, params = small(null_class=False)
    assert params["params"]["y_embedder"].shape == (3, 8)
    np.testing.assert_array_equal(model.null, np.zeros(3))  # what guidance leads away from
    assert alone.null is None
    assert alone(params, x, sigma, labels).shape == x.shape
    with pytest.raises(ValueError, match="labels are needed: the network has no embedding of no"):
        alone(params, x, sigma)


def test_labels_are_dropped_in_training_alone():
    model, params = small(label_dropout=0.5)
    x, sigma = jnp.ones((64, 4, 4, 4)), jnp.ones(64)
    labels = jnp.eye(3)[jnp.zeros(64, int)]
    out = model(params, x, sigma, labels, train=True, rng=jax.random.key(0))
    dropped = np.array([not np.allclose(each, out[0]) for each in out])
    null = model(params, x[:1], sigma[:1])
    own = model(params, x[:1], sigma[:1], labels[:1])
    kinds = [np.abs(out - each).max(axis=(1, 2, 3)) < 1e-5 for each in (null, own)]
    assert np.all(kinds[0] ^ kinds[1])
    assert 16 < dropped.sum() < 48
    assert np.allclose(model(params, x, sigma, labels), own, atol=1e-5)


def test_dropout_drops_and_rematerialisation_changes_nothing():
    x, sigma, labels = inputs()
    outs = []
    for rematerialize in (False, True):
        model = from_edm_kwargs(KWARGS, dropout=0.3, rematerialize=rematerialize)
        params = dit_cases.weights(model)

        def loss(params, model=model):
            out = model(params, x, sigma, labels, train=True, rng=jax.random.key(1))
            return jnp.sum(out**2)

        outs.append(jax.value_and_grad(loss)(params))
        assert not np.isclose(outs[-1][0], jnp.sum(model(params, x, sigma, labels) ** 2), rtol=1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *outs)


def test_the_middle_blocks_tokens_are_features():
    """What a discriminator judges: a picture of tokens, as an encoder's coarsest level."""
    model, params = small()
    denoised, levels = jax.jit(model.features)(params, *inputs())
    assert [level.shape for level in levels] == [(2, 2, 2, 8)]
    np.testing.assert_allclose(denoised, model(params, *inputs()), rtol=1e-5, atol=1e-6)


def test_blocks_up_to_the_middle_learn_from_a_discriminator():
    """The first of two: what comes after it isn't judged."""
    model, params = small()

    def logits(params):
        return jnp.sum(model.features(params, *inputs())[1][-1].mean(axis=-1))

    grads = jax.jit(jax.grad(logits))(params)["params"]
    heard = {name: any(np.any(leaf) for leaf in jax.tree.leaves(grads[name])) for name in grads}
    behind = {"blocks_1", "final_layer_adaLN_modulation", "final_layer_linear"}
    assert {name for name, is_heard in heard.items() if not is_heard} == behind


def test_positions_tell_columns_first():
    places = np.asarray(dit.positions(3, 8))
    assert places.shape == (3, 3, 8)
    np.testing.assert_array_equal(places[0, :, :4], places[2, :, :4])
    np.testing.assert_array_equal(places[:, 0, 4:], places[:, 2, 4:])
    np.testing.assert_allclose(places[0, 1, :4], np.r_[np.sin([1, 0.01]), np.cos([1, 0.01])])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 3}, "patch_size=3: 4 x 4 don't divide"),
        ({"num_heads": 3}, "hidden_size=8: a multiple of 4 is needed, and of num_heads=3"),
        ({"hidden_size": 6, "num_heads": 1}, "hidden_size=6: a multiple of 4"),
        ({"mlp_ratio": 0.124}, "mlp_ratio=0.124: that times hidden_size=8 must be"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio=inf"),
        ({"widths": 6}, "unknown argument 'widths'"),
        ({"hiden_size": 8}, "Nearest known: hidden_size"),
        ({"model_type": "SongUNet"}, "no known network of SiT"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_edm_kwargs(KWARGS | change)
