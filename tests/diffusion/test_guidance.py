"""The sampler with a guiding network, against numbers from EDM2's PyTorch code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import noise, samplers
from tests.support import edm2_cases, golden_cases

kept = functools.cache(edm2_cases.case_and_weights)
_GRID = ("num_steps", "rho", "sigma_min", "sigma_max")


def denoisers(name):
    """A case, its network and the guiding one, as functions of x and σ."""
    case, model, params = kept(name)
    _, guide, guide_params = kept(name, key="gnet_config", prefix="gnet_prefix")
    labels = case.labels
    own = jax.jit(lambda x, sigma: model(params, x, sigma, labels))
    given = labels if guide.label_dim else None  # an unconditional guide ignores them
    return case, own, jax.jit(lambda x, sigma: guide(guide_params, x, sigma, given))


@pytest.mark.parametrize(
    ("name", "run"),
    edm2_cases.or_skip(
        golden_cases.cases("edm2_sampler", each=lambda case: case.meta["runs"]), parts=2
    ),
)
def test_published_sampler(name, run):
    case, own, guide = denoisers(name)
    options = {key.lower(): value for key, value in case.meta["runs"][run].items()}
    grid = {key: options.pop(key) for key in _GRID if key in options}
    sigmas = noise.heun_sigmas(grid.pop("num_steps"), **grid)
    asked = []

    def recorded(x, sigma):
        asked.append(float(sigma[0]))
        return own(x, sigma)

    if f"{run}_noise" in case:
        # Noise was drawn in the steps alone that churn.
        drawn, churns = case[f"{run}_noise"], np.zeros(len(sigmas) - 1, bool)
        low, high = options.get("s_min", 0), options.get("s_max", np.inf)
        churns = (sigmas[:-1] >= low) & (sigmas[:-1] <= high)
        if len(drawn) != len(churns):
            assert len(drawn) == churns.sum()
            drawn = jnp.zeros((len(churns), *drawn.shape[1:])).at[np.flatnonzero(churns)].set(drawn)
        options["noise"] = drawn
    if interval := options.pop("guidance_interval", None):
        options["guidance_interval"] = tuple(interval)
    samples = samplers.edm_heun(recorded, case["latents"], sigmas, guide=guide, **options)
    assert golden_cases.relative_l2(samples, case.expected(f"{run}_x")) <= 5e-5
    if f"{run}_sigma" in case:
        # The published grid is computed in float32.
        np.testing.assert_allclose(asked, case.raw(f"{run}_sigma"), rtol=5e-6)


def network(x, sigma):
    return jnp.tanh(x) / (1 + sigma[:, None])


def other(x, sigma):
    return jnp.sin(x) / (2 + sigma[:, None])


@pytest.mark.parametrize("interval", [None, (1, 2), (0, 0), (3, 9)])
def test_one_compiled_loop_is_the_loop_of_python(interval):
    z, sigmas = jnp.linspace(-1, 1, 6).reshape(3, 2), noise.heun_sigmas(5, 0.1, 5.0)
    sample = functools.partial(
        samplers.edm_heun, guide=other, guidance=1.7, guidance_interval=interval
    )
    unrolled = sample(network, z, sigmas)
    compiled = jax.jit(lambda z: sample(network, z, sigmas))
    np.testing.assert_allclose(compiled(z), unrolled, rtol=1e-5, atol=1e-6)
    text = compiled.lower(z).as_text()
    assert text.count("stablehlo.tanh") <= 2  # the network, and where steps differ, once more
    assert np.any(unrolled != samplers.edm_heun(network, z, sigmas))


def test_the_guide_is_asked_in_its_interval_alone():
    asked = []

    def guide(x, sigma):
        asked.append(float(sigma[0]))
        return other(x, sigma)

    z, sigmas = jnp.ones((1, 2)), jnp.asarray([8.0, 4.0, 2.0, 1.0, 0.0])
    plain = samplers.edm_heun(network, z, sigmas)
    np.testing.assert_array_equal(samplers.edm_heun(network, z, sigmas, guide=guide), plain)
    assert not asked
    samplers.edm_heun(network, z, sigmas, guide=guide, guidance=2.0, guidance_interval=(1, 2))
    assert asked == [4, 2, 2, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": 2.0}, "guidance=2 needs a guide"),
        ({"guide": other, "guidance": 2.0, "guidance_interval": (3, 2)}, "holds no step"),
        ({"guide": other, "guidance": 2.0, "guidance_interval": (-1, 2)}, "holds no step"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.edm_heun(network, jnp.ones((1, 2)), noise.heun_sigmas(3), **options)
