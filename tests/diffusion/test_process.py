import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import predictions
from diffjax.diffusion.process import Process
from tests.support import golden_cases

BETAS = np.linspace(1e-4, 0.02, 1000)
PROCESSES = {
    "edm": Process.edm,
    "ve": lambda: Process.ve(0.01, 50.0),
    "vp": lambda: Process.vp(),
    "vp_of_a_function": lambda: Process.vp(lambda t: 0.1 + 19.9 * t, t_max=1.0),
    "flow_data_at_0": Process.rectified_flow,
    "flow_data_at_1": lambda: Process.rectified_flow(data_at=1),
    "cosine": Process.cosine,
    "ddpm": lambda: Process.ddpm(BETAS),
    "ddpm_interpolated": lambda: Process.ddpm(betas=BETAS, interpolate=True),
    # Found by the table, and falling with t; then with an infinite and a zero end.
    "of_functions": lambda: Process(jnp.sqrt, lambda t: 2 - t, t_min=0.001, t_max=1.99),
    "of_ends": lambda: Process(lambda t: 1 - t, lambda t: t, t_min=0.0, t_max=1.0),
}
PREDICTIONS = ("x0", "eps", "v", "velocity", "score")
PAIRS = [
    (name, predicts)
    for name in PROCESSES
    for predicts in PREDICTIONS
    if not (name.startswith("ddpm") and predicts == "velocity")
]


@pytest.fixture(scope="module")
def processes():
    return {name: make() for name, make in PROCESSES.items()}


def levels(process, count=61):
    """Noise levels over the range, those of the table where they snap to it."""
    if process.table is not None and process.t_of_sigma(jnp.ones(1)).dtype == jnp.int32:
        return process.table[:: len(process.table) // count]
    return np.geomspace(max(process.sigma_min, 1e-3), min(process.sigma_max, 500), count)


def gaussian(process, predicts, sd):
    """Exact network for data ~ N(0, sd²): its expectation given x_t is linear in x_t."""

    def net(params, x_t, t, cond):
        def at(function, t=t):
            return jnp.broadcast_to(jnp.asarray(function(t), x_t.dtype), t.shape)

        a, s = at(process.a), at(process.s)
        variance = a**2 * sd**2 + s**2
        x0, eps = a * sd**2 / variance, s / variance
        if predicts == "velocity":
            one = jnp.ones_like(t)
            slopes = [
                jax.jvp(lambda t, f=f: at(f, t), (t,), (one,))[1] for f in (process.a, process.s)
            ]
            factor = slopes[0] * x0 + slopes[1] * eps
        else:
            factor = {"x0": x0, "eps": eps, "v": a * eps - s * x0, "score": -1 / variance}[predicts]
        return factor[:, None] * x_t

    return net


@pytest.mark.parametrize(("name", "predicts"), PAIRS)
def test_every_prediction_on_every_process_is_the_exact_denoiser(processes, name, predicts):
    process, sd = processes[name], 0.7
    sigma = jnp.asarray(levels(process), jnp.float32)
    scale = np.sqrt(sd**2 + np.asarray(sigma, np.float64)[:, None] ** 2)
    normal = np.random.RandomState(0).standard_normal((len(sigma), 4))
    y = jnp.asarray(scale * normal, jnp.float32)
    denoise = process.denoiser(gaussian(process, predicts, sd), predicts)
    found = jax.jit(denoise)({}, y, sigma, None)
    assert found.dtype == jnp.float32
    expected = sd**2 * np.asarray(y, np.float64) / scale**2
    # What float32 can hold: outputs that are multiplied by σ carry their rounding along.
    np.testing.assert_allclose(found / scale, expected / scale, atol=2e-6)
    few = np.asarray(sigma) < 50
    np.testing.assert_allclose(found[few], expected[few], atol=2e-5)


@pytest.mark.parametrize("name", PROCESSES)
def test_time_and_noise_level_are_inverse(processes, name):
    process = processes[name]
    with jax.enable_x64(True):
        sigma = jnp.asarray(levels(process, 500))
        t = jax.jit(process.t_of_sigma)(sigma)
        slack = 1e-12 * process.t_max
        assert process.t_min - slack <= t.min() <= t.max() <= process.t_max + slack
        np.testing.assert_allclose(process.sigma(t), sigma, rtol=1e-11)
    single = jax.eval_shape(process.t_of_sigma, jax.ShapeDtypeStruct((3,), jnp.float32))
    assert single.dtype in (jnp.float32, jnp.int32)


def test_range_of_noise_levels():
    def ends(process):
        return process.sigma_min, process.sigma_max

    np.testing.assert_allclose(ends(Process.edm()), (0.002, 80), rtol=1e-12)
    np.testing.assert_allclose(ends(Process.ve(0.01, 50)), (0.01, 50), rtol=1e-12)
    for data_at in (0, 1):
        flow = Process.rectified_flow(data_at)
        np.testing.assert_allclose(ends(flow), (0.001 / 0.999, 0.995 / 0.005), rtol=1e-12)
    np.testing.assert_allclose(Process.vp().sigma_max, np.sqrt(np.expm1(10)), rtol=1e-12)


def test_vp_of_a_number_and_of_functions_agree():
    with jax.enable_x64(True):
        t = jnp.asarray([1e-4, 0.03, 0.5, 0.77, 1.0])
        for beta, integral in (
            (0.8, 0.8 * t),
            (lambda t: 0.8, 0.8 * t),
            (lambda t: jnp.exp(2 * t), jnp.expm1(2 * t) / 2),
        ):
            process = Process.vp(beta, t_max=1.0)
            np.testing.assert_allclose(process.a(t), np.exp(-integral / 2), rtol=1e-13)
            np.testing.assert_allclose(process.sigma(t) ** 2, np.expm1(integral), rtol=1e-12)


def test_a_process_can_be_made_while_something_is_traced():
    def scaled(sigma):
        return Process.vp(lambda t: 1 + t, t_max=2.0).t_of_sigma(sigma)

    np.testing.assert_allclose(jax.jit(scaled)(jnp.ones(2)), scaled(jnp.ones(2)), rtol=1e-6)


def test_the_network_is_told_time_as_it_knows_it():
    told = []

    def net(params, x_t, t, cond):
        told.append((t, cond))
        return x_t

    y, sigma = jnp.ones((2, 3)), jnp.asarray([1.0, 3.0])
    Process.rectified_flow().denoiser(net, "x0", time_scale=1000)({}, y, sigma, "c")
    np.testing.assert_allclose(told[-1][0], [500, 750], rtol=1e-6)
    assert told[-1][1] == "c"
    table = Process.ddpm(BETAS)
    table.denoiser(net, "eps")({}, y, table.table[np.asarray([0, 998])] * 1.001, None)
    assert told[-1][0].dtype == jnp.int32
    np.testing.assert_array_equal(told[-1][0], [0, 998])
    # Far outside of the table: its ends.
    table.denoiser(net, "eps")({}, y, jnp.asarray([1e-9, 1e9]), None)
    np.testing.assert_array_equal(told[-1][0], [0, 999])


def test_sigma_data_is_the_gain_of_x0_and_no_more():
    y, sigma = jnp.asarray([[0.3, -2.0], [5.0, 1.0]]), jnp.asarray([0.5, 4.0])
    for predicts in PREDICTIONS:
        told, untold = (
            Process.vp().denoiser(lambda p, x, t, c: jnp.cos(x), predicts, sigma_data=sigma_data)
            for sigma_data in (3.0, None)
        )
        np.testing.assert_array_equal(told({}, y, sigma, None), untold({}, y, sigma, None))
        assert (told.gain(4.0) == untold.gain(4.0)) == (predicts != "x0")
        if predicts == "x0":
            assert told.gain(4.0) == 3


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("name", ["vp", "flow_data_at_1", "ve"])
def test_gain_is_the_change_of_the_output(processes, name, predicts):
    process = processes[name]
    sigma = float(levels(process)[30])
    denoise = process.denoiser(lambda params, x, t, c: params + 0 * x, predicts)
    y, level = jnp.ones((1, 1)), jnp.full(1, sigma)
    with jax.enable_x64(True):
        change = denoise(1.0, y, level, None) - denoise(0.0, y, level, None)
    wanted = abs(change[0, 0])
    if predicts == "score":  # whose network divides by s
        wanted /= process.s(process.t_of_sigma(jnp.float32(sigma)))
    np.testing.assert_allclose(denoise.gain(sigma), wanted, rtol=1e-4)
    assert isinstance(denoise.gain(sigma), float)


def test_any_type_of_input_and_gradients():
    denoise = Process.vp().denoiser(lambda p, x, t, c: p * x, "eps")
    y = jnp.ones((2, 3, 1))
    assert denoise(1.0, y.astype(jnp.bfloat16), jnp.asarray([1, 2]), None).dtype == jnp.float32
    np.testing.assert_allclose(denoise(1.0, y, 2, None), denoise(1.0, y, jnp.full(2, 2.0), None))
    gradient = jax.grad(lambda y: denoise(1.0, y, jnp.ones(2), None).sum())(y)
    np.testing.assert_allclose(gradient, 1 - 1 / np.sqrt(2), rtol=1e-6)


def case_denoiser(process, case, prefix=""):
    """D of the recorded network outputs, by prediction."""
    output = jnp.asarray(case.raw("network_output"))
    y = jnp.asarray(case.raw(f"{prefix}edm_input"))
    sigma = jnp.asarray(case.raw(f"{prefix}sigma"))
    seen = []

    def net(params, x_t, t, cond):
        seen.append((x_t, t))
        return output

    def denoised(predicts):
        return process.denoiser(net, predicts)({}, y, sigma, None)

    return denoised, seen


def assert_equal(found, expected):
    assert np.asarray(found).dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", golden_cases.cases("process_ddpm"))
def test_ddpm_against_published_schedulers(name):
    case = golden_cases.Case(name)
    with jax.enable_x64(True):
        for schedule in case.meta["schedules"]:
            prefix = f"{schedule}_"
            betas = case.raw(f"{prefix}betas")
            for process in (
                Process.ddpm(betas=betas),
                Process.ddpm(alphas_cumprod=case.raw(f"{prefix}alphas_cumprod"), interpolate=True),
            ):
                np.testing.assert_allclose(
                    process.table, case.raw(f"{prefix}sigma_table"), rtol=1e-11
                )
                denoised, seen = case_denoiser(process, case, prefix)
                for ours, theirs in (("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")):
                    expected = case.raw(f"{prefix}{theirs}_D")
                    np.testing.assert_allclose(
                        denoised(ours), expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max()
                    )
                x_t, t = seen[-1]
                np.testing.assert_allclose(t, case.raw("t"), rtol=1e-12, atol=1e-10)
                assert_equal(x_t, case.raw(f"{prefix}network_input"))
            sigma = jnp.asarray(case.raw(f"{prefix}query_sigma"))
            between = Process.ddpm(betas, interpolate=True).t_of_sigma(sigma)
            np.testing.assert_allclose(
                between, case.raw(f"{prefix}query_t_interp"), rtol=1e-12, atol=1e-9
            )
            nearest = Process.ddpm(betas).t_of_sigma(sigma)
            np.testing.assert_array_equal(nearest, case.raw(f"{prefix}query_t_nearest"))


@pytest.mark.parametrize("name", golden_cases.cases("process_flow"))
def test_flow_against_published_schedulers(name):
    case = golden_cases.Case(name)
    with jax.enable_x64(True):
        denoised, seen = case_denoiser(Process.rectified_flow(), case)
        assert_equal(denoised("velocity"), case.raw("D_v_noise_minus_data"))
        assert_equal(denoised("x0"), case.raw("D_x0"))
        assert_equal(denoised("eps"), case.raw("D_eps"))
        assert_equal(seen[-1][1], case.raw("t_of_sigma"))
        assert_equal(seen[-1][0], case.raw("network_input"))
        denoised, seen = case_denoiser(Process.rectified_flow(data_at=1), case)
        assert_equal(denoised("velocity"), case.raw("D_v_data_minus_noise"))
        assert_equal(seen[-1][1], 1 - case.raw("t_of_sigma"))


def sit_paths():
    def log_mean(t):
        return -0.25 * (1 - t) ** 2 * 19.9 - 0.5 * (1 - t) * 0.1

    angle = np.pi / 2
    given = {
        "linear": (lambda t: t, lambda t: 1 - t),
        "gvp": (lambda t: jnp.sin(angle * t), lambda t: jnp.cos(angle * t)),
        "vp": (lambda t: jnp.exp(log_mean(t)), lambda t: jnp.sqrt(-jnp.expm1(2 * log_mean(t)))),
    }
    found = {name: Process(*each, t_min=0.001, t_max=0.999) for name, each in given.items()}
    return found, {"linear": Process.rectified_flow(1), "gvp": Process.cosine()} | {
        "vp": Process.vp(lambda t: 0.1 + 19.9 * t, t_max=1.0)
    }


@pytest.mark.parametrize("name", golden_cases.cases("process_sit"))
def test_functions_of_the_user_against_published_paths(name):
    case = golden_cases.Case(name)
    with jax.enable_x64(True):
        ours, named = sit_paths()
        for path in ours:
            denoised, seen = case_denoiser(ours[path], case, f"{path}_")
            for predicts, theirs in (("velocity",) * 2, ("eps", "noise"), ("score",) * 2):
                expected = case.raw(f"{path}_{theirs}_D")
                assert_equal(denoised(predicts), expected)
            x_t, t = seen[-1]
            assert_equal(t, case.raw("t"))
            assert_equal(x_t, case.raw(f"{path}_network_input"))
            # The named process is the same, its time running the other way in two of them.
            denoised, _ = case_denoiser(named[path], case, f"{path}_")
            for predicts, theirs in (("eps", "noise"), ("score", "score")):
                assert_equal(denoised(predicts), case.raw(f"{path}_{theirs}_D"))


@pytest.mark.parametrize("interpolate", [False, True])
def test_a_table_is_read_without_a_loop(interpolate):
    # ONNX files of students hold it, and jax2onnx knows neither `jnp.searchsorted` nor its loop.
    traced = jax.make_jaxpr(Process.ddpm(BETAS, interpolate=interpolate).t_of_sigma)(jnp.ones(3))
    assert not {"scan", "while", "sort", "le_to", "lt_to"} & set(re.findall(r"\w+", str(traced)))


def test_a_beta_of_numpy_is_read():
    process = Process.vp(lambda t: np.interp(t, [0.0, 1.0], [0.1, 20.0]), t_max=1.0)
    expected = Process.vp(lambda t: 0.1 + 19.9 * t, t_max=1.0)
    assert process.sigma_max == pytest.approx(expected.sigma_max, rel=1e-6)


@pytest.mark.parametrize(
    ("predicts", "nearest"),
    [("epsilon", "eps"), ("velocty", "velocity"), ("X0", "x0"), ("v_prediction", "v")],
)
def test_an_unknown_prediction_is_told_the_nearest(predicts, nearest):
    with pytest.raises(ValueError, match=f"none of x0, eps.*did you mean '{nearest}'"):
        Process.edm().denoiser(lambda *_: None, predicts)


FALLING = np.asarray([0.99, 0.9, 0.8, 0.5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Process.ddpm(), "neither of betas and alphas_cumprod"),
        (lambda: Process.ddpm(BETAS, FALLING), "both of betas and alphas_cumprod"),
        (
            lambda: Process.ddpm(alphas_cumprod=[0.99, 0.9, 0.8, 0.85]),
            r"Process.ddpm: alphas_cumprod increases at 3; it must fall from about 1 "
            r"\(are these betas\?\)",
        ),
        (lambda: Process.ddpm(alphas_cumprod=BETAS), "increases at 1"),
        (lambda: Process.ddpm(alphas_cumprod=BETAS[::-1]), "begins at 0.02"),
        (lambda: Process.ddpm(alphas_cumprod=[*FALLING, 0]), r"\[4\]=0 .*leave it out"),
        (lambda: Process.ddpm(alphas_cumprod=[1.0, 0.9]), r"\[0\]=1 is outside"),
        (lambda: Process.ddpm(alphas_cumprod=[0.9, np.nan]), r"\[1\]=nan is outside"),
        (lambda: Process.ddpm(alphas_cumprod=[0.9, 0.9]), "stays the same at 1"),
        (lambda: Process.ddpm(alphas_cumprod=0.9), "N at least 2"),
        (lambda: Process.ddpm([0.1, 1.2]), r"betas\[1\]=1.2 is outside \(0, 1\)"),
        (lambda: Process.ddpm([0.1, 1.0]), r"betas\[1\]=1 .*leave it out"),
        (lambda: Process.ddpm([0.1, 0.0]), r"betas\[1\]=0 is outside"),
        (lambda: Process.ddpm(FALLING), "are these alphas_cumprod"),
        (lambda: Process.rectified_flow(data_at=2), "data_at=2 must be 0"),
        (lambda: Process.rectified_flow(t_max=1.0), "t_max=1.0"),
        (lambda: Process.ve(2.0, 1.0), "sigma_min < sigma_max"),
        (lambda: Process.vp(-1.0), "beta=-1.0 must be positive"),
        (lambda: Process.vp(lambda t: 1 - t, t_max=2.0), "beta is -.* at t=1;"),
        (lambda: Process.vp(t_max=0.0), "t_max=0.0"),
        (
            lambda: Process(jnp.ones_like, lambda t: t * (1 - t), t_min=0.1, t_max=0.9),
            "isn't monotone: it is 0.25 at t=0.49",
        ),
        (
            lambda: Process(jnp.ones_like, lambda t: t - 1, t_min=0.0, t_max=2.0),
            "sigma = s/a is -1 at t=0; a and s must be positive",
        ),
        (
            lambda: Process(np.cos, np.sin, t_min=0.1, t_max=1.0),
            "Process: a must be a function of t in jax.numpy, elementwise .TracerArrayConv",
        ),
        (
            lambda: Process(jnp.cos, 1.0, t_min=0.1, t_max=1.0),
            "Process: s must be a function of t .*'float' object is not callable",
        ),
        (lambda: Process.vp("linear"), "beta is 'linear'; it must be a number or a function of t"),
        (lambda: Process.vp(BETAS), "beta is of type ndarray; .* is Process.ddpm's"),
        (lambda: Process.vp(lambda t, u: t), "Process.vp: beta must be a function of t"),
        (lambda: Process.ve("a", 1.0), "Process.ve: sigma_min is 'a'; it must be a number"),
        (lambda: Process.ddpm("linear"), "betas must be a list of numbers, not 'linear'"),
        (lambda: Process(jnp.cos, jnp.sin, t_min=1.0, t_max=0.5), "t_min=1.0 must be less"),
        (lambda: Process.edm().denoiser(None, "eps"), "net is NoneType"),
        (lambda: Process.edm().denoiser(print, "eps", time_scale=0), "time_scale=0"),
        (lambda: Process.edm().denoiser(print, "eps", sigma_data=-1), "sigma_data=-1"),
        (lambda: Process.ddpm(BETAS).denoiser(print, "velocity"), "a table hasn't"),
        (lambda: Process.edm().denoiser(print, "eps", time_scale="2"), "time_scale is '2'"),
        (lambda: Process.vp(t_max="1"), "t_max is '1'; it must be a number"),
        (lambda: Process(jnp.cos, jnp.sin, t_min=None, t_max=1.0), "t_min is of type NoneType"),
        (lambda: told_time(lambda sigma: sigma), r"t_of_sigma\(.* it must be the inverse of s/a"),
        (lambda: told_time(0.5), "t_of_sigma must be a function of t"),
    ],
)
def test_nonsense_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def told_time(t_of_sigma):
    return Process(jnp.cos, jnp.sin, t_min=0.01, t_max=1.5, t_of_sigma=t_of_sigma)


def test_times_on_a_grid_are_an_inverse():
    told_time(lambda sigma: jnp.round(jnp.arctan(sigma) * 20) / 20)


def test_shapes_that_would_broadcast_are_refused():
    denoise = Process.edm().denoiser(lambda p, x, t, c: x[:, 0], "eps")
    with pytest.raises(ValueError, match=r"returned \[4, 8\] for x_t \[4, 1, 8\].*vmap missing"):
        denoise({}, jnp.ones((4, 1, 8)), jnp.ones(4), None)
    with pytest.raises(ValueError, match=r"sigma has shape \[4, 1\]"):
        denoise({}, jnp.ones((4, 1, 8)), jnp.ones((4, 1)), None)


def test_every_prediction_has_a_conversion():
    assert set(predictions._CONVERSIONS) == set(PREDICTIONS)
