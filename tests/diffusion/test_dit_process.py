"""SiT's paths, samplers and losses, and DiT's, against numbers from their PyTorch code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.convert import edm_state_dict
from diffjax.diffusion import ddpm, flow_samplers, interpolants, predictions
from diffjax.models.denoiser import from_edm_kwargs
from tests.support import dit_cases, edm2_cases, golden_cases

OURS = {"Linear": "linear", "GVP": "gvp", "VP": "vp", "noise": "eps"}
FORMS = ("constant", "SBDM", "sigma", "linear", "decreasing", "increasing-decreasing")


def cases(kind, each=None):
    parts = 1 if each is None else 2
    return edm2_cases.or_skip(golden_cases.cases(kind, each=each), parts=parts)


def runs(case):
    return [run for run in case.meta["runs"] if f"{run}_x" in case or f"{run}_loss" in case]


def assert_close(found, expected, bound):
    assert golden_cases.relative_l2(found, expected) <= bound


@pytest.mark.parametrize(
    ("name", "path"), cases("sit_paths", lambda case: list(interpolants.PATHS))
)
def test_paths(name, path):
    """In float64, which the recorded formulas are exact in."""
    case = golden_cases.Case(name)
    with jax.enable_x64(True):
        arrays = {
            key: jnp.asarray(case.exact(key), jnp.float64)
            for key in ("t", "x1_data", "x0_noise", "velocity_in", "score_in")
        }
        t, data, eps = (arrays[key] for key in ("t", "x1_data", "x0_noise"))
        process = interpolants.process(path)

        def close(found, key, bound=1e-6):
            expected = case.exact(f"{path}_{key}")
            scale = np.abs(expected).max()
            np.testing.assert_allclose(
                np.broadcast_to(found, expected.shape), expected, rtol=0, atol=bound * scale
            )

        def wide(values):
            return jnp.expand_dims(values, tuple(range(1, data.ndim)))

        (a, da), (s, ds) = (
            [wide(value) for value in predictions.with_derivative(each, t)]
            for each in (process.a, process.s)
        )
        for key, found in {"alpha": a, "sigma": s, "d_alpha": da, "d_sigma": ds}.items():
            close(found.reshape(case.exact(f"{path}_{key}").shape), key, 1e-4)
        x_t = a * data + s * eps
        close(x_t, "xt")
        close(da * data + ds * eps, "ut", 1e-4)
        w = interpolants.drift_variance(path, t)
        close(w.reshape(case.exact(f"{path}_drift_var").shape), "drift_var")
        for form in FORMS:
            found = interpolants.diffusion(path, form, t)
            key = f"diffusion_{form.replace('increasing-', 'inccreasing-')}"
            close(found.reshape(case.exact(f"{path}_{key}").shape), key)
        given = {"velocity": arrays["velocity_in"], "score": arrays["score_in"]}
        score = interpolants.score(path, "velocity", given["velocity"], x_t, t)
        close(score, "score_from_velocity", 1e-5)
        close(-s * score, "noise_from_velocity", 1e-5)
        velocity = interpolants.velocity(path, "score", given["score"], x_t, t)
        close(velocity, "velocity_from_score", 1e-5)
        # ε and back: that of the true velocity is the noise itself.
        noise = -s * interpolants.score(path, "velocity", da * data + ds * eps, x_t, t)
        np.testing.assert_allclose(noise, eps, atol=1e-9)
        assert_close(interpolants.velocity(path, "eps", eps, x_t, t), da * data + ds * eps, 1e-9)
        assert_close(interpolants.score(path, "eps", eps, x_t, t), -eps / s, 1e-12)


def model_of(case, path, predicts, **settings):
    kwargs = dit_cases.init_kwargs(case.meta["config"])
    if kwargs["class_name"] == "SiT":
        kwargs |= {"path": path, "predicts": predicts}
    model = from_edm_kwargs({**kwargs, **settings})
    return model, dit_cases.weights(model, case.prefix)


def denoiser_parts(case):
    keys = [key.removesuffix("_f64") for key in case.names]
    return sorted({key.removesuffix("_D") for key in keys if key.endswith("_D")})


@pytest.mark.parametrize(("name", "part"), cases("process_network", denoiser_parts))
def test_a_network_as_a_denoiser(name, part):
    case = golden_cases.Case(name)
    is_sit = case.meta["config"]["model"].startswith("SiT")
    settings = {} if is_sit else {"interpolate": False}
    model, params = model_of(case, part, "velocity", **settings)
    bound = 1e-5 if is_sit else 5e-5
    x, sigma = dit_cases.nhwc(case.raw("x")), jnp.float32(case.raw("sigma"))
    labels = dit_cases.classes(model, case.raw("y"))
    denoise = jax.jit(model)

    def compare(found, key):
        if f"{part}_{key}" in case:
            assert_close(dit_cases.nchw(found), case.exact(f"{part}_{key}"), bound)

    compare(denoise(params, x, sigma, labels), "D")
    compare(denoise(params, x, sigma), "D_null")
    guided = interpolants.guided(
        lambda x, t, labels: denoise(params, x, sigma, labels), case.meta["cfg_scale"]
    )
    compare(guided(x, sigma, labels), "D_cfg3")
    if "probe" in case:
        probe = dit_cases.nhwc(case.raw("probe"))
        grad = jax.grad(lambda x: jnp.sum(model(params, x, sigma, labels) * probe))
        compare(jax.jit(grad)(x), "grad_x")
    t = model.preconditioning(sigma, params["buffers"]).c_noise
    np.testing.assert_allclose(t, case.raw(f"{part}_t"), rtol=2e-6)
    if not is_sit:  # levels between the table's are told as such
        between, _ = model_of(case, part, "", interpolate=True)
        out = jax.jit(between)(params, x, sigma, labels)
        assert_close(dit_cases.nchw(out), case.exact(f"{part}_D"), 1e-3)


def guided_or_plain(case, run, model, params):
    """The run's network with its classes: (x, t) -> prediction."""
    net = jax.jit(dit_cases.raw_network(model, params))
    labels = dit_cases.classes(model, case.raw("y"))
    if "cfg" in run:
        net = interpolants.guided(net, run["cfg"])
    channels = None if case.meta["config"]["model"].startswith("DiT") else model.shape[-1]
    return lambda x, t: net(x, t, labels)[..., :channels]


@pytest.mark.parametrize(("name", "run"), cases("sit_sampler", runs))
def test_sits_samplers(name, run):
    case = golden_cases.Case(name)
    options = case.meta["runs"][run]
    path = OURS[options.get("path", "Linear")]
    predicts = options.get("prediction", "velocity")
    predicts = OURS.get(predicts, predicts)
    model, params = model_of(case, path, predicts)
    predict = guided_or_plain(case, options, model, params)
    x = dit_cases.nhwc(case.raw("latents"))
    times = np.linspace(options["t0"], options["t1"], options["num_steps"])
    method = {"heun2": "heun", "Heun": "heun"}.get(options["method"], "euler")
    if options["kind"] == "ode":

        def velocity(x, t):
            return interpolants.velocity(path, predicts, predict(x, t), x, t)

        found = flow_samplers.flow(velocity, x, times, method=method)
    else:
        noise = dit_cases.nhwc(case.raw(f"{run}_noise"))[:, : len(x)]
        last = options.get("last_step", "Mean")
        found = flow_samplers.diffusion(
            predict,
            x,
            times,
            noise,
            path=path,
            form=options["form"],
            norm=options.get("norm", 1.0),
            method=method,
            last=(last or "").lower(),
        )
    assert_close(dit_cases.nchw(found), case.exact(f"{run}_x"), 5e-5)


@pytest.mark.parametrize(("name", "run"), cases("dit_sampler", runs))
def test_dits_samplers(name, run):
    case = golden_cases.Case(name)
    options = case.meta["runs"][run]
    model, params = model_of(case, "", "")
    respacing = options["respacing"]
    kept = ddpm.kept_steps(int(respacing.removeprefix("ddim")), even=respacing.startswith("ddim"))
    schedule = "cosine" if "cos" in options.get("schedule", "") else "linear"
    steps = ddpm.spaced(kept, schedule)
    np.testing.assert_array_equal(steps.t, case.raw(f"{run}_timestep_map"))
    for ours, theirs in {
        "alphas_cumprod": "alphas_cumprod",
        "betas": "betas",
        "log_variance": "posterior_log_variance_clipped",
        "of_x0": "posterior_mean_coef1",
        "of_x_t": "posterior_mean_coef2",
    }.items():
        expected = case.raw(f"{run}_{theirs}")
        np.testing.assert_allclose(getattr(steps, ours), expected, rtol=1e-9)
    x = dit_cases.nhwc(case.raw("latents"))
    noise = jnp.zeros((len(kept), *x.shape))
    if f"{run}_noise" in case:
        noise = dit_cases.nhwc(case.raw(f"{run}_noise"))[:, : len(x)]
    found = ddpm.sample(
        guided_or_plain(case, options, model, params),
        x,
        steps,
        noise,
        method=options["kind"],
        eta=options.get("eta", 0.0),
        clip=options.get("clip", False),
    )
    assert_close(dit_cases.nchw(found), case.exact(f"{run}_x"), 5e-5)


def grads_close(case, model, grads, prefix, bound):
    by_name = edm_state_dict.from_params(model, grads)
    for i, torch_name in enumerate(case.meta["grad_param_names"]):
        if f"{prefix}grad_p{i}" in case:
            assert_close(by_name[torch_name], case.exact(f"{prefix}grad_p{i}"), bound)


@pytest.mark.parametrize(("name", "run"), cases("sit_loss", runs))
def test_sits_losses(name, run):
    case = golden_cases.Case(name)
    options = case.meta["runs"][run]
    path, predicts = OURS[options["path"]], options["prediction"]
    predicts = OURS.get(predicts, predicts)
    model, params = model_of(case, path, predicts)
    x, noise = (dit_cases.nhwc(case.raw(key)) for key in ("x1", "noise"))
    low, high = options["interval"]
    t = jnp.float32(case.raw("uniform")) * (high - low) + low
    labels = dit_cases.classes(model, case.raw("y"))

    def losses(params):
        net = dit_cases.raw_network(model, params)
        loss = interpolants.training_losses(
            lambda x_t, t: net(x_t, t, labels)[..., : x.shape[-1]],
            x,
            noise,
            t,
            path=path,
            predicts=predicts,
            weight=options["loss_weight"] or "none",
        )
        return loss.mean(), loss

    (_, found), grads = jax.jit(jax.value_and_grad(losses, has_aux=True))(params)
    assert_close(found, case.exact(f"{run}_loss"), 1e-5)
    grads_close(case, model, grads, f"{run}_", 3e-5)


@pytest.mark.parametrize("name", cases("dit_loss"))
def test_dits_loss(name):
    case = golden_cases.Case(name)
    model, params = model_of(case, "", "")
    x, noise = (dit_cases.nhwc(case.raw(key)) for key in ("x_start", "noise"))
    labels = dit_cases.classes(model, case.raw("y"))

    def losses(params):
        net = dit_cases.raw_network(model, params)
        found = ddpm.training_losses(
            lambda x_t, t: net(x_t, t, labels), x, noise, jnp.asarray(case.raw("t"))
        )
        return sum(found).mean(), found

    (_, found), grads = jax.jit(jax.value_and_grad(losses, has_aux=True))(params)
    for values, key in zip((*found, sum(found)), ("mse", "vb", "loss"), strict=True):
        assert_close(values, case.exact(key), 1e-5)
    grads_close(case, model, grads, "", 2e-4)
