import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import noise, samplers
from diffjax.evaluation.sampling import HeunSettings
from tests.support import golden_cases


@functools.cache
def golden(name):
    case = golden_cases.Case(name)
    model = case.denoiser()
    denoise = jax.jit(functools.partial(model, labels=case.labels))
    params = golden_cases.weights(model, case.prefix)
    return case, model, functools.partial(denoise, params)


class Recorder:
    """A denoiser that keeps the σ of each call."""

    def __init__(self, denoise):
        self.denoise, self.sigmas = denoise, []

    def __call__(self, x, sigma):
        assert sigma.shape == (x.shape[0],)
        assert (sigma == sigma[0]).all()
        self.sigmas.append(float(sigma[0]))
        return self.denoise(x, sigma)


def gaussian(std=0.5):
    """The exact denoiser of N(0, std²)."""
    return lambda x, sigma: std**2 / (std**2 + sigma[:, None] ** 2) * x


def key(seed):
    return jax.random.key(seed)


def latents(batch=3, seed=0):
    return jax.random.normal(jax.random.key(seed), (batch, 2))


def runs(case):
    return [run for run in case.meta["runs"] if f"{run}_x" in case]


def levels(case, run, model, options):
    """Noise levels of a run; those of another grid than EDM's are as recorded."""
    steps, grid = options.pop("num_steps"), options.pop("discretization", "edm")
    if grid != "edm":
        return np.append(case.raw(f"{run}_sigma_evals")[::2], 0.0)
    ends = {
        name: options.pop(name) for name in ("sigma_min", "sigma_max", "rho") if name in options
    }
    return HeunSettings(steps=steps, **ends).sigmas(model)


# What makes EDM's ablation sampler another one than Heun's method along σ.
PLAIN = {"solver": "heun", "schedule": "linear", "scaling": "none", "alpha": 1}


@pytest.mark.parametrize(
    ("name", "run"),
    golden_cases.cases("samplers", each=runs, precond=golden_cases.PRECONDS),
)
def test_published_sampler(name, run):
    case, model, denoise = golden(name)
    options = {key.lower(): value for key, value in case.meta["runs"][run]["kwargs"].items()}
    how = {key: options.pop(key, plain) for key, plain in PLAIN.items()}
    if how != PLAIN:
        pytest.skip(f"{name}, {run}: no test of a sampler with {how} yet")
    sigmas = levels(case, run, model, options)
    recorder = Recorder(denoise)
    if f"{run}_noise" in case:
        options["noise"] = case[f"{run}_noise"]
    samples = samplers.edm_heun(recorder, case["latents"], sigmas, **options)
    expected = case.expected(f"{run}_x")
    if np.abs(expected).max() < 8:
        np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-4)
    else:
        assert golden_cases.relative_l2(samples, expected) <= 5e-5
    np.testing.assert_allclose(recorder.sigmas, case.raw(f"{run}_sigma_evals"), rtol=1e-6)


def test_of_one_fixed_point_the_sampler_is_exact():
    # The ODE is linear then: any step lands on the line to the point.
    point = jnp.asarray([0.3, -2.0])
    samples = samplers.edm_heun(
        lambda x, sigma: jnp.broadcast_to(point, x.shape), latents(), noise.heun_sigmas(5)
    )
    np.testing.assert_allclose(samples, jnp.broadcast_to(point, (3, 2)), rtol=1e-4)


def test_second_order_on_a_gaussian():
    """x(σ) / sqrt(std² + σ²) is constant along the ODE, so x(0) = σ₀ z std / sqrt(std² + σ₀²)."""
    std, start = 0.5, 80.0
    exact = latents() * start * std / np.sqrt(std**2 + start**2)
    errors = []
    for steps in (16, 32, 64):
        samples = samplers.edm_heun(gaussian(std), latents(), noise.heun_sigmas(steps))
        errors.append(float(jnp.abs(samples - exact).max()))
    assert errors[0] < 0.1
    # Twice the steps, a quarter of the error; Euler's method would halve it.
    assert 3 < errors[0] / errors[1] < 6
    assert 3 < errors[1] / errors[2] < 6


def test_one_heun_step_by_hand():
    # sigmas 2, 1, 0 and D = x / 2, z = 1. x = 2: slope (2 - 1) / 2 = 1/2, Euler to 3/2; there the
    # slope is (3/2 - 3/4) / 1 = 3/4; x = 2 - (1/2 + 3/4) / 2 = 11/8. The last step is Euler's: D.
    samples = samplers.edm_heun(
        lambda x, sigma: x / 2, jnp.ones((1, 1)), jnp.asarray([2.0, 1.0, 0.0])
    )
    np.testing.assert_allclose(samples, [[11 / 16]])


def test_number_and_order_of_evaluations():
    recorder = Recorder(gaussian())
    samplers.edm_heun(recorder, latents(), jnp.asarray([4.0, 2.0, 1.0, 0.0]))
    assert recorder.sigmas == [4, 2, 2, 1, 1]


def test_churn_raises_sigma_between_its_bounds_alone():
    recorder = Recorder(gaussian())
    sigmas = jnp.asarray([4.0, 2.0, 1.0, 0.0])
    samplers.edm_heun(recorder, latents(), sigmas, s_churn=0.3, s_min=1.5, s_max=3.0, rng=key(0))
    np.testing.assert_allclose(recorder.sigmas, [4, 2, 2.2, 1, 1], rtol=1e-6)  # γ = 0.3 / 3

    recorder = Recorder(gaussian())
    samplers.edm_heun(recorder, latents(), sigmas, s_churn=100.0, rng=key(0))
    np.testing.assert_allclose(recorder.sigmas[0], 4 * np.sqrt(2), rtol=1e-6)  # γ's bound


def churned(z, **kwargs):
    return samplers.edm_heun(gaussian(), z, noise.heun_sigmas(6), s_churn=5.0, **kwargs)


def test_churn_keeps_the_distribution_and_forgets_the_latents():
    z, sigmas = latents(batch=20_000), noise.heun_sigmas(24)
    plain = samplers.edm_heun(gaussian(), z, sigmas)
    stochastic = samplers.edm_heun(gaussian(), z, sigmas, s_churn=10.0, rng=key(1))
    np.testing.assert_allclose([jnp.std(plain), jnp.std(stochastic)], 0.5, rtol=0.1)
    assert abs(np.corrcoef(plain.ravel(), stochastic.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("bounds", [{"s_min": 100.0}, {"s_max": 0.001}])
def test_outside_its_bounds_churn_does_nothing(bounds):
    plain = samplers.edm_heun(gaussian(), latents(), noise.heun_sigmas(6))
    np.testing.assert_allclose(churned(latents(), rng=key(0), **bounds), plain, rtol=1e-5)


def test_noise_replays_a_run_and_scales():
    n = jax.random.normal(key(3), (6, 3, 2))
    first = churned(latents(), noise=n)
    np.testing.assert_array_equal(first, churned(latents(), noise=n))
    np.testing.assert_allclose(
        churned(latents(), noise=n, s_noise=2.0), churned(latents(), noise=2 * n), rtol=1e-5
    )
    assert not np.any(np.isclose(first, churned(latents(), noise=-n)))


def test_without_churn_noise_is_not_used():
    z, sigmas = latents(), noise.heun_sigmas(6)
    plain = samplers.edm_heun(gaussian(), z, sigmas)
    np.testing.assert_array_equal(plain, samplers.edm_heun(gaussian(), z, sigmas, rng=key(0)))


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey], ids=["new", "raw"])
def test_keys_of_examples_give_noise_that_no_batch_changes(make_key):
    keys = jax.random.split(make_key(5), 3)
    z = latents(batch=3)
    together = churned(z, rng=keys)
    apart = jnp.concatenate([churned(z[i : i + 1], rng=keys[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, apart, rtol=1e-5)
    order = jnp.asarray([2, 0, 1])
    np.testing.assert_allclose(churned(z[order], rng=keys[order]), together[order], rtol=1e-5)


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey], ids=["new", "raw"])
def test_one_key_gives_each_example_noise_of_its_own(make_key):
    same = jnp.ones((3, 2))
    samples = np.asarray(churned(same, rng=make_key(5)))
    assert len(np.unique(samples)) == 6
    np.testing.assert_array_equal(samples, churned(same, rng=make_key(5)))
    assert not np.any(samples == churned(same, rng=make_key(6)))


def test_mistakes_are_told():
    n = jnp.zeros((6, 3, 2))
    with pytest.raises(ValueError, match="needs rng or noise"):
        churned(latents())
    with pytest.raises(ValueError, match="not both"):
        churned(latents(), rng=key(0), noise=n)
    with pytest.raises(AssertionError):
        churned(latents(), noise=n[:5])
    with pytest.raises(ValueError, match="holds 2 keys for 3 latents"):
        churned(latents(), rng=jax.random.split(key(0)))
    with pytest.raises(ValueError, match="s_churn=-1 must be at least 0"):
        samplers.edm_heun(gaussian(), latents(), np.array([1.0, 0.0]), s_churn=-1)
    with pytest.raises(ValueError, match="latents are int32"):
        samplers.edm_heun(gaussian(), jnp.ones((3, 2), int), np.array([1.0, 0.0]))
    with pytest.raises(AssertionError):
        samplers.edm_heun(gaussian(), latents(), jnp.ones((3, 1)))


def network(x, sigma):
    """A small network in place of a denoiser, one `tanh` an evaluation."""
    return jnp.tanh(x @ jnp.asarray([[0.3, -1.0], [0.7, 0.2]], x.dtype)) / (1 + sigma[:, None])


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("churn", [{}, {"s_churn": 5.0, "s_min": 0.1, "s_noise": 1.1}])
def test_scan_is_the_loop(steps, churn):
    z, sigmas = latents(), np.append(np.geomspace(20.0, 0.01, steps), 0.0)
    options = {**churn, "rng": key(4)}
    unrolled = samplers.edm_heun(network, z, sigmas, loop="unroll", **options)
    scanned = samplers.edm_heun(network, z, sigmas, loop="scan", **options)
    np.testing.assert_allclose(scanned, unrolled, rtol=1e-5, atol=1e-5)
    again = samplers.edm_heun(network, z, sigmas, loop="scan", **options)
    np.testing.assert_array_equal(scanned, again)


@pytest.mark.parametrize("traced", ["latents", "sigmas", "captured"])
def test_inside_jit_the_network_is_compiled_once(traced):
    z, sigmas, n = latents(), noise.heun_sigmas(18), jax.random.normal(key(3), (18, 3, 2))

    def sample(x, levels, scale, loop="auto"):
        def denoise(x, sigma):
            return scale * network(x, sigma)

        return samplers.edm_heun(denoise, x, levels, s_churn=5.0, noise=n, loop=loop)

    variable = {
        "latents": lambda value, **loop: sample(value, sigmas, 1.0, **loop),
        "sigmas": lambda value, **loop: sample(np.asarray(z), value, 1.0, **loop),
        "captured": lambda value, **loop: sample(z, sigmas, value, **loop),
    }[traced]
    value = {"latents": z, "sigmas": jnp.asarray(sigmas), "captured": jnp.float32(1)}[traced]
    compiled = jax.jit(variable).lower(value)
    assert compiled.as_text().count("stablehlo.tanh") == 1
    unrolled = jax.jit(functools.partial(variable, loop="unroll")).lower(value)
    assert unrolled.as_text().count("stablehlo.tanh") == 35
    np.testing.assert_allclose(
        compiled.compile()(value), sample(z, sigmas, 1.0), rtol=1e-5, atol=1e-5
    )


def test_outside_jit_the_denoiser_gets_numbers():
    recorder = Recorder(gaussian())  # reads σ, which a traced loop would not let it
    samplers.edm_heun(recorder, latents(), noise.heun_sigmas(3))
    assert len(recorder.sigmas) == 5


def test_scan_and_loop_have_one_gradient():
    def total(scale, loop):
        z, sigmas = latents(), noise.heun_sigmas(4, 0.1, 5.0)
        return samplers.edm_heun(
            lambda x, sigma: scale * network(x, sigma), z, sigmas, loop=loop
        ).sum()

    scanned, unrolled = (jax.grad(total)(0.8, loop) for loop in ("scan", "unroll"))
    assert np.isfinite(unrolled)
    np.testing.assert_allclose(scanned, unrolled, rtol=1e-4)


@pytest.mark.parametrize("loop", ["scan", "unroll"])
def test_the_type_is_that_of_the_latents(loop):
    churn = {"s_churn": 3.0, "rng": key(2)}
    sigmas, z = noise.heun_sigmas(5, 0.01, 20.0), latents()
    single = samplers.edm_heun(network, z, sigmas, loop=loop, **churn)
    asked = []

    def denoise(x, sigma):
        asked.append((x.dtype, sigma.dtype))
        return network(x, sigma).astype(jnp.float32)

    with jax.enable_x64(True):
        # The setting alone changes no draw and no image.
        same = samplers.edm_heun(network, z, sigmas, loop=loop, **churn)
        double = samplers.edm_heun(denoise, z.astype(jnp.float64), sigmas, loop=loop, **churn)
    assert (single.dtype, same.dtype, double.dtype) == (jnp.float32, jnp.float32, jnp.float64)
    np.testing.assert_allclose(same, single, rtol=1e-5, atol=1e-6)
    assert set(asked) == {(np.dtype("float64"),) * 2}
    for small in (jnp.bfloat16, jnp.float16):
        samples = samplers.edm_heun(network, z.astype(small), sigmas, loop=loop, **churn)
        assert samples.dtype == jnp.float32


def test_without_a_step_or_with_an_unknown_loop_it_says_so():
    with pytest.raises(ValueError, match="sigmas has 1 entries"):
        samplers.edm_heun(gaussian(), latents(), jnp.zeros(1))
    with pytest.raises(ValueError, match="loop='while'; known are: auto, scan, unroll"):
        samplers.edm_heun(gaussian(), latents(), noise.heun_sigmas(3), loop="while")


@pytest.mark.parametrize(
    "sigmas", [noise.heun_sigmas(4)[::-1], np.asarray([1.0, 0.0, 0.0]), jnp.asarray([2.0, 3, 0])]
)
def test_levels_that_do_not_fall_are_refused(sigmas):
    with pytest.raises(ValueError, match="must fall, and only the last may be 0"):
        samplers.edm_heun(gaussian(), latents(), sigmas)
