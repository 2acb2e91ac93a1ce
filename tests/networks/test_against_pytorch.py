"""U-Nets and preconditionings against numbers from EDM's PyTorch code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import compiling, golden_cases

networks = functools.partial(golden_cases.cases, "network", precond=golden_cases.PRECONDS)


def never(meta):
    """Tests that don't run the network aren't slow."""
    return False


@functools.cache
def kept(name):
    case = golden_cases.Case(name)
    model = case.denoiser()
    return case, model, golden_cases.weights(model, case.prefix)


def case_and_weights(name):
    """A case, its network and weights; large ones aren't kept."""
    is_large = golden_cases.is_large(golden_cases.known()[name])
    return (kept.__wrapped__ if is_large else kept)(name)


def denoise(case, model, params, x, *, labels=True, augment=True):
    return model(
        params,
        x,
        case["sigma"],
        labels=case.labels if labels else None,
        augment_labels=case.augment_labels if augment else None,
    )


@pytest.mark.parametrize("name", networks())
def test_output(name):
    case, model, params = case_and_weights(name)
    apply = jax.jit(
        functools.partial(denoise, case, model),
        static_argnames=("labels", "augment"),
        compiler_options=compiling.AS_USERS,
    )
    x = case["x"]
    assert golden_cases.relative_l2(apply(params, x), case.expected("D")) <= case.output_bound
    if "D_noaug" in case:
        out = apply(params, x, augment=False)
        assert golden_cases.relative_l2(out, case.expected("D_noaug")) <= case.output_bound
    if "D_nolabel" in case:
        out = apply(params, x, labels=False)
        assert golden_cases.relative_l2(out, case.expected("D_nolabel")) <= case.output_bound


@pytest.mark.parametrize("name", networks(where=lambda case: "probe" in case))
def test_gradients(name):
    case, model, params = case_and_weights(name)

    def probe(params, x):
        return jnp.sum(denoise(case, model, params, x) * case["probe"])

    grad_params, grad_x = jax.jit(jax.grad(probe, argnums=(0, 1)))(params, case["x"])
    # EDM's preconditioning with a positional embedding rounds least; Fourier embeddings have
    # large phases, and the other preconditionings scale the output by σ.
    exact = case.precond == "EDMPrecond" and case.kwargs.get("embedding_type") != "fourier"
    bound = 3e-5 if exact else 3e-4
    assert golden_cases.relative_l2(grad_x, case.expected("grad_x")) <= bound
    by_name = golden_cases.by_torch_name(grad_params)
    assert case.meta["grad_param_names"]
    for i, torch_name in enumerate(case.meta["grad_param_names"]):
        error = golden_cases.relative_l2(by_name[torch_name], case.exact(f"grad_p{i}"))
        assert error <= bound, torch_name
    for path, leaf in jax.tree_util.tree_leaves_with_path(grad_params["buffers"]):
        assert not np.any(leaf), f"the buffer {path} has a gradient"


@pytest.mark.parametrize(
    "name", networks(where=lambda case: "iddpm_u" in case, precond="iDDPMPrecond", slow=never)
)
def test_iddpm_levels(name):
    case = golden_cases.Case(name)
    preconditioning = case.denoiser().preconditioning
    u = preconditioning.buffers()["u"]
    # The last bit of a float32 sine, which libraries round differently, grows under cancellation.
    np.testing.assert_allclose(u, case["iddpm_u"], rtol=3e-5)
    noise_labels = preconditioning(case["sigma"], {"u": u}).c_noise
    steps = len(u) - 1
    np.testing.assert_array_equal(steps - 1 - noise_labels, case["iddpm_index"])


@pytest.mark.parametrize("name", networks(where=lambda case: "sigma_min" in case.meta, slow=never))
def test_range_of_sigma(name):
    case = golden_cases.Case(name)
    model = case.denoiser()
    np.testing.assert_allclose(model.sigma_min, float(case.meta["sigma_min"]), rtol=2e-5)
    np.testing.assert_allclose(model.sigma_max, float(case.meta["sigma_max"]), rtol=2e-5)


# One is enough.
@pytest.mark.parametrize(
    "name",
    networks(
        precond="EDMPrecond",
        model_type="SongUNet",
        embedding_type="positional",
        where=lambda case: case.labels is not None and not golden_cases.is_large(case.meta),
    )[:1],
)
def test_bfloat16_stays_close_and_returns_float32(name):
    case = golden_cases.Case(name)
    model = case.denoiser(dtype=jnp.bfloat16)
    params = golden_cases.weights(model, case.prefix)
    out = jax.jit(functools.partial(denoise, case, model))(params, case["x"])
    assert out.dtype == jnp.float32
    error = golden_cases.relative_l2(out, case.expected("D"))
    assert 1e-5 < error < 3e-2
