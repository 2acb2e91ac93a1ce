import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffjax.diffusion import noise
from diffjax.diffusion.process import Process
from tests.support import golden_cases

COUNT = 100_000
LEVELS = np.asarray([0.02, 0.25, 0.5, 0.75, 0.98])


def draw(distribution, seed=0):
    sigma = distribution(jax.random.key(seed), (COUNT,))
    assert sigma.dtype == jnp.float32
    return np.asarray(sigma, np.float64)


def assert_shares_below(sigma, quantiles):
    """A share `LEVELS` of the draws lies below each of the quantiles, to five standard errors."""
    shares = (sigma[:, None] < quantiles).mean(axis=0)
    np.testing.assert_array_less(
        np.abs(shares - LEVELS), 5 * np.sqrt(LEVELS * (1 - LEVELS) / COUNT)
    )


def test_lognormal_of_given_normals():
    # exp(-1.2), exp(1.2 - 1.2), exp(-2.4 - 1.2)
    sigma = noise.lognormal_sigma(jnp.asarray([0.0, 1.0, -2.0]))
    np.testing.assert_allclose(sigma, [0.3011942, 1.0, 0.0273237], rtol=1e-6)
    np.testing.assert_allclose(noise.lognormal_sigma(jnp.float32(1.5), mean=-3, std=2), 1.0)


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.5, 0.3)])
def test_lognormal_quantiles(mean, std):
    sigma = draw(noise.LogNormal(mean=mean, std=std))
    assert_shares_below(sigma, np.exp(mean + std * stats.norm.ppf(LEVELS)))


def test_karras_endpoints_and_middle():
    u = jnp.asarray([0.0, 0.4, 0.8, 1.0])
    np.testing.assert_allclose(noise.karras_sigma(u), [0.002, 0.965417, 24.40834, 80.0], rtol=2e-5)
    # rho = 1 is a straight line
    np.testing.assert_allclose(noise.karras_sigma(u, 1.0, 3.0, 1.0), [1.0, 1.8, 2.6, 3.0])


def test_sid_range_and_median():
    sigma = draw(noise.KarrasUniform())
    assert sigma.min() >= 0.002 * (1 - 1e-5)
    assert 24.3 < sigma.max() <= 24.4084
    np.testing.assert_allclose(np.median(sigma), 0.97, rtol=0.03)
    assert_shares_below(sigma, noise.karras_sigma(0.8 * LEVELS))


def test_t_max_of_the_whole_schedule():
    sigma = draw(noise.KarrasUniform(t_max=1000.0))
    assert_shares_below(sigma, noise.karras_sigma(LEVELS))
    assert 79 < sigma.max() <= 80.001


@pytest.mark.parametrize("distribution", [noise.LogNormal, noise.KarrasUniform])
def test_clipping_moves_what_is_outside_and_nothing_else(distribution):
    free = draw(distribution())
    clipped = draw(distribution(sigma_min=0.02, sigma_max=3.0))
    inside = (free > 0.02) & (free < 3.0)
    assert 0.5 < inside.mean() < 0.995
    np.testing.assert_array_equal(clipped[inside], free[inside])
    np.testing.assert_array_equal(clipped[free <= 0.02], np.float32(0.02))
    np.testing.assert_array_equal(clipped[free >= 3.0], np.float32(3.0))


def test_uniform_times_of_a_flow_whichever_end_has_the_data():
    for data_at in (0, 1):
        sigma = draw(noise.UniformTime(Process.rectified_flow(data_at), 0.25, 0.75))
        t = 0.001 + 0.994 * (0.25 + 0.5 * LEVELS)
        assert_shares_below(sigma, t / (1 - t))


def test_uniform_times_of_a_table():
    process = Process.ddpm(betas=np.linspace(1e-4, 0.02, 1000))
    clipped = noise.UniformTime(process, sigma_max=50.0)
    known = np.float32(process.table)
    np.testing.assert_array_equal(clipped.at(jnp.asarray([[20, 979]])), [[known[20], 50.0]])
    drawn = np.searchsorted(known, np.float32(draw(noise.UniformTime(process))))
    assert (drawn.min(), drawn.max()) == (20, 979)
    assert_shares_below(drawn, 20 + LEVELS * 960)
    with pytest.raises(ValueError, match=r"no time lies between shares 0\.5 and 0\.5001"):
        noise.UniformTime(process, 0.5, 0.5001)


@pytest.mark.parametrize("distribution", [noise.LogNormal(), noise.KarrasUniform()])
def test_draws_follow_the_key(distribution):
    first = distribution(jax.random.key(1), (2, 3))
    assert first.shape == (2, 3)
    compiled = jax.jit(distribution, static_argnums=1)(jax.random.key(1), (2, 3))
    np.testing.assert_allclose(first, compiled, rtol=1e-5)
    assert not np.any(first == distribution(jax.random.key(2), (2, 3)))


def test_edm_weight():
    # (1/4 + 1/4) / (1/16), (1 + 1/4) / (1/4), (1 + 4) / 4
    weight = noise.edm_weight(jnp.asarray([0.5, 1.0]))
    np.testing.assert_allclose(weight, [8.0, 5.0])
    np.testing.assert_allclose(noise.edm_weight(jnp.float32(1.0), sigma_data=2.0), 1.25)


@pytest.mark.parametrize(
    ("name", "run"), golden_cases.cases("sampler_tables", each=lambda case: case.meta["runs"])
)
def test_heun_sigmas_against_published_sampler(name, run):
    case = golden_cases.Case(name)
    said = case.meta["runs"][run]
    grid = said["kwargs"].get("discretization", "edm")
    if grid != "edm":
        pytest.skip(f"{name}, {run}: no test of the grid {grid} yet")
    ends = {key: said[key] for key in ("sigma_min", "sigma_max") if key in said}
    if "rho" in said["kwargs"]:
        ends["rho"] = said["kwargs"]["rho"]
    sigmas = noise.heun_sigmas(said["kwargs"]["num_steps"], **ends)
    assert sigmas.dtype == np.float64
    np.testing.assert_allclose(sigmas[:-1], case.raw(f"{run}_sigma_steps"), rtol=1e-10)
    assert sigmas[-1] == 0


def test_heun_sigmas_of_another_range():
    sigmas = noise.heun_sigmas(4, sigma_min=1.0, sigma_max=4.0, rho=1.0)
    np.testing.assert_allclose(sigmas, [4, 3, 2, 1, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 1}, "steps=1"),
        ({"sigma_min": 0.0}, "0 < sigma_min < sigma_max"),
        ({"sigma_min": 3.0, "sigma_max": 2.0}, "not 3.0 and 2.0"),
        ({"sigma_max": np.inf}, "not 0.002 and inf"),
        ({"rho": 0}, "rho=0 must be positive"),
    ],
)
def test_heun_sigmas_of_nonsense(arguments, message):
    with pytest.raises(ValueError, match=message):
        noise.heun_sigmas(**arguments)


def test_times_of_a_flow_are_uniform():
    """t = sigma / (1 + sigma) from 0.002 / 1.002 to 80 / 81, of data of standard deviation 0.5."""
    law = noise.FlowUniform()
    sigma = np.asarray(law(jax.random.key(0), (20_000,)), np.float64)
    t = np.sort(np.asarray(law.time(sigma)))
    low, high = 0.002 / 1.002, 80 / 81
    assert low <= t[0] < low + 1e-3
    assert high - 1e-3 < t[-1] <= high + 1e-6
    uniform = low + (high - low) * (np.arange(t.size) + 0.5) / t.size
    np.testing.assert_allclose(t, uniform, atol=0.02)
    # Data twice as large have twice the levels at the same times; bounds stay.
    double = law.scaled(2.0)
    twice = np.asarray(double(jax.random.key(0), (20_000,)))
    np.testing.assert_allclose(twice, 2 * sigma, rtol=1e-6)
    np.testing.assert_allclose(double.time(twice), law.time(sigma), rtol=1e-6)
    bounded = noise.FlowUniform(sigma_min=0.1, sigma_max=3.0)(jax.random.key(0), (20_000,))
    assert (bounded.min(), bounded.max()) == (np.float32(0.1), np.float32(3.0))


@pytest.mark.parametrize("weight", [noise.edm_weight, noise.eps_weight])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_half_precise_levels_are_finite_and_right(weight, dtype):
    half = jnp.asarray([0.002, 0.004, 0.5, 80.0, 300.0], dtype)  # λ(0.002) is no float16
    got = weight(half)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, weight(half.astype(jnp.float32)))
    assert np.isfinite(got).all()


def test_weights_follow_wider_types_and_numbers():
    with jax.enable_x64(True):
        assert noise.edm_weight(jnp.ones(2, jnp.float64)).dtype == jnp.float64
        assert (noise.edm_weight(0.5) * jnp.ones(2, jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize("steps", [1, 2.5])
def test_a_grid_of_a_part_of_a_step_is_refused(steps):
    with pytest.raises(ValueError, match=f"steps={steps}: EDM's sampler takes a whole number"):
        noise.heun_sigmas(steps)
