"""EDM2's layers and networks against numbers from its PyTorch code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks import edm2_layers, resampling
from tests.support import compiling, edm2_cases, golden_cases

networks = functools.partial(golden_cases.cases, "edm2_network", precond="Precond")
kept = functools.cache(edm2_cases.case_and_weights)


def case_and_weights(name):
    """A case, its network and weights; large ones aren't kept."""
    is_large = golden_cases.is_large(golden_cases.known()[name])
    return (kept.__wrapped__ if is_large else kept)(name)


def labels_of(case):
    if "class_index" in case.names:
        return jax.nn.one_hot(case.raw("class_index"), case.kwargs["label_dim"])
    return case.labels


@pytest.mark.parametrize("name", edm2_cases.or_skip(networks()))
def test_output(name):
    case, model, params = case_and_weights(name)

    @functools.partial(jax.jit, compiler_options=compiling.AS_USERS)
    def apply(params, x, labels):
        return model(params, x, case["sigma"], labels=labels)

    pairs = {"D": labels_of(case), "D_nolabel": None}
    for key, labels in pairs.items():
        if key not in case:
            continue
        out, expected = apply(params, case["x"], labels), case.expected(key)
        assert golden_cases.relative_l2(out, expected) <= 3e-6
        largest = max(1.0, float(np.abs(expected).max()) / 4)
        np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5 * largest)
    logvar = model.log_variance(params, case["sigma"])
    np.testing.assert_allclose(logvar, case.exact("logvar").ravel(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", edm2_cases.or_skip(networks(where=lambda case: "probe" in case)))
def test_gradients(name):
    case, model, params = case_and_weights(name)

    def probe(params, x):
        out = model(params, x, case["sigma"], labels=case.labels)
        return jnp.sum(out * case["probe"])

    grad_params, grad_x = jax.jit(jax.grad(probe, argnums=(0, 1)))(params, case["x"])
    assert golden_cases.relative_l2(grad_x, case.expected("grad_x")) <= 5e-6
    by_name = edm2_cases.by_torch_name(model, grad_params)
    assert case.meta["grad_param_names"]
    for i, torch_name in enumerate(case.meta["grad_param_names"]):
        bound = 2e-4 if torch_name.endswith("_gain") else 3e-5
        error = golden_cases.relative_l2(by_name[torch_name], case.exact(f"grad_p{i}"))
        assert error <= bound, torch_name
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grad_params["buffers"]))
    grad = jax.grad(lambda params: model.log_variance(params, case["sigma"]).sum())(params)
    grad = edm2_cases.by_torch_name(model, grad)["logvar_linear.weight"]
    assert golden_cases.relative_l2(grad, case.exact("grad_logvar_w")) <= 3e-5


@pytest.mark.parametrize("name", edm2_cases.or_skip(golden_cases.cases("edm2_half")))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_stays_close_and_returns_float32(name, dtype):
    case, model, params = edm2_cases.case_and_weights(name, dtype=jnp.dtype(dtype))
    out = jax.jit(model)(params, case["x"], case["sigma"], case.labels)
    assert out.dtype == jnp.float32
    worse = {"float16": 3, "bfloat16": 24}[dtype]  # three bits fewer
    for i, published in enumerate(case.meta["half_rel_l2_per_sample"]):
        error = golden_cases.relative_l2(out[i], case.expected("D")[i])
        assert published / 10 < error < worse * published + 1e-6, i


def layers_of(case):
    """The recorded operations, as functions of what they were recorded with."""
    x, a, b = (edm2_cases.nhwc(case.raw(key)) for key in ("x", "a", "b"))
    fourier = edm2_layers.Fourier(len(case.raw("freqs")))
    buffers = {key: case.raw(key) for key in ("freqs", "phases")}
    w4 = jnp.asarray(case.raw("w4"))
    return {
        "normalize_all": lambda: edm2_layers.normalize(x, (1, 2, 3)),
        "normalize_dim1": lambda: edm2_layers.normalize(x, (-1,)),
        "normalize_w4": lambda: edm2_layers.normalize(w4, (1, 2, 3)),
        "mp_silu": lambda: edm2_layers.mp_silu(x),
        "mp_sum_t03": lambda: edm2_layers.mp_sum(a, b, 0.3),
        "mp_sum_t05": lambda: edm2_layers.mp_sum(a, b, 0.5),
        "mp_cat_t05": lambda: edm2_layers.mp_cat(a, edm2_cases.nhwc(case.raw("cat_b")), 0.5),
        "mp_cat_t03": lambda: edm2_layers.mp_cat(a, edm2_cases.nhwc(case.raw("cat_b")), 0.3),
        "down_11": lambda: resampling.downsample(x, (1, 1)),
        "up_11": lambda: resampling.upsample(x, (1, 1)),
        "down_1331": lambda: resampling.downsample(x, (1, 3, 3, 1)),
        "up_1331": lambda: resampling.upsample(x, (1, 3, 3, 1)),
        "fourier": lambda: fourier.apply({"buffers": buffers}, case.raw("t")),
    }


@pytest.mark.parametrize("name", edm2_cases.or_skip(golden_cases.cases("edm2_ops")))
def test_operations(name):
    case = golden_cases.Case(name)
    for key, function in layers_of(case).items():
        out, expected = np.asarray(function()), case.exact(key)
        if expected.ndim == 4 and key != "normalize_w4":
            out = np.moveaxis(out, -1, 1)
        assert golden_cases.relative_l2(out, expected) <= 1e-5, key


@pytest.mark.parametrize(
    ("name", "part"),
    edm2_cases.or_skip(
        golden_cases.cases(
            "edm2_ops",
            each=lambda case: [key[:-7] for key in case.names if key.endswith("_grad_w")],
        ),
        parts=2,
    ),
)
def test_layers_and_their_gradients(name, part):
    case = golden_cases.Case(name)
    weight, _, mode = part.removeprefix("mpconv_").rpartition("_")
    kernel, probe = case.raw(weight), jnp.asarray(case.raw("probe2"))
    x = jnp.asarray(case.raw("v"))
    is_image = kernel.ndim == 4
    if is_image:
        x, probe = (edm2_cases.nhwc(case.raw(key)) for key in ("x", "probe"))
    kernel = jnp.asarray(golden_cases.from_torch(kernel))

    def apply(x, kernel, gain):
        effective = edm2_layers.effective_weight(kernel, gain, force=mode == "train")
        return edm2_layers.apply_weight(x, effective)

    gain = jnp.float32(case.meta["gain"])
    out, back = jax.vjp(apply, x, kernel, gain)
    grad_x, grad_w, grad_gain = back(probe)
    if is_image:
        out, grad_x = (np.moveaxis(np.asarray(array), -1, 1) for array in (out, grad_x))
    grad_w = golden_cases.to_torch(np.asarray(grad_w))
    assert np.isfinite(grad_w).all()
    for array, key in ((out, part), (grad_x, f"{part}_grad_x"), (grad_gain, f"{part}_grad_gain")):
        assert golden_cases.relative_l2(array, case.exact(key)) <= 1e-5, key
    for row, expected in zip(grad_w, case.exact(f"{part}_grad_w"), strict=True):
        # Rows of zeros and of 1e-5 have far larger gradients than others.
        assert golden_cases.relative_l2(row, expected) <= 1e-5
    if mode == "train":
        after = edm2_layers.normalized_weights({"layer": {"kernel": kernel}})["layer"]["kernel"]
        expected = case.exact(f"{part}_weight_after")
        error = golden_cases.relative_l2(golden_cases.to_torch(np.asarray(after)), expected)
        assert error <= 1e-5


def test_the_encoders_levels_are_features():
    """What SiDA's discriminator takes the channels' mean of: the decoder's input, at the end."""
    model = golden_cases.denoiser.from_edm_kwargs(edm2_cases.KWARGS)
    params, x, sigma = edm2_cases.weights(model), jnp.ones((2, 4, 4, 3)), jnp.ones(2)
    denoised, levels = jax.jit(model.features)(params, x, sigma)
    assert [level.shape for level in levels] == [(2, 4, 4, 8), (2, 2, 2, 16)]
    alone = jax.jit(model)(params, x, sigma)
    np.testing.assert_allclose(denoised, alone, rtol=1e-5, atol=1e-6)
