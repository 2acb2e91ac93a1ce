"""Losses and five-iteration trajectories against SiD's and Diff-Instruct's released code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses
from diffjax.diffusion import noise
from diffjax.distill import draws as draws_lib
from diffjax.distill import methods, state, update
from diffjax.models.generator import DenoiserGenerator
from diffjax.training import optimizer
from tests.support import golden_cases


@functools.cache
def loss_case():
    case = golden_cases.Case("loss_ddpmpp_uncond")
    model = case.denoiser()
    teacher = golden_cases.weights(model, "true.")
    fake = golden_cases.weights(model, "fake.")
    return case, jax.jit(model), teacher, fake


def diffuse(case, x, name, sigma):
    return x + sigma[:, None, None, None] * case[f"{name}_noise"]


def assert_close(actual, expected, bound=3e-5):
    assert golden_cases.relative_l2(actual, expected) <= bound


@pytest.mark.parametrize("index", [0, 1, 2])
def test_sid_generator_loss(index):
    case, model, teacher, fake = loss_case()
    alpha = case.meta["alphas"][index]
    u = case.raw("sid_g_rand_t").reshape(-1) * case.meta["tmax"] / 1000
    sigma = noise.karras_sigma(jnp.asarray(u))
    assert_close(sigma, case.raw("sid_g_sigma").reshape(-1))

    def loss(x):
        y = diffuse(case, x, "sid_g", sigma)
        values = losses.sid(x, model(teacher, y, sigma), model(fake, y, sigma), alpha=alpha)
        return values.sum(), values

    gradient, values = jax.grad(loss, has_aux=True)(case["images"])
    expected = np.asarray(case.raw(f"sid_g_loss_a{index}"))
    assert_close(values, expected.reshape(expected.shape[0], -1).sum(axis=1))
    assert_close(gradient, case[f"grad_sid_g_images_a{index}"])


def test_diff_instruct_generator_loss():
    case, model, teacher, fake = loss_case()
    sigma = noise.lognormal_sigma(jnp.asarray(case.raw("di_g_rnd_normal").reshape(-1)))
    assert_close(sigma, case.raw("di_g_sigma").reshape(-1))

    def loss(x):
        y = diffuse(case, x, "di_g", sigma)
        values = losses.diff_instruct(x, model(teacher, y, sigma), model(fake, y, sigma))
        return values.sum(), values

    gradient, values = jax.grad(loss, has_aux=True)(case["images"])
    expected = np.asarray(case.raw("di_g_loss"))
    assert_close(values, expected.reshape(expected.shape[0], -1).sum(axis=1))
    assert_close(gradient, case["grad_di_g_images"])


@pytest.mark.parametrize("name", ["sid_f", "di_f"])
def test_fake_score_loss(name):
    case, model, _, fake = loss_case()
    sigma = noise.lognormal_sigma(jnp.asarray(case.raw(f"{name}_rnd_normal").reshape(-1)))
    assert_close(sigma, case.raw(f"{name}_sigma").reshape(-1))

    def loss(params):
        x = case["images"]
        d_fake = model(params, diffuse(case, x, name, sigma), sigma)
        values = losses.denoising(x, d_fake, weight=noise.edm_weight(sigma))
        return values.sum(), values

    gradient, values = jax.grad(loss, has_aux=True)(fake)
    expected = np.asarray(case.raw(f"{name}_loss"))
    assert_close(values, expected.reshape(expected.shape[0], -1).sum(axis=1))
    by_name = golden_cases.by_torch_name(gradient)
    for i, parameter in enumerate(case.meta["grad_param_names"]):
        assert_close(by_name[parameter], case.raw(f"grad_{name}_p{i}"))


def replayed_draws(case, method, iteration):
    """The recorded draws of one iteration, as the update takes them."""

    def images(key):
        return jnp.moveaxis(jnp.asarray(case.raw(key)[iteration]), -3, -1)

    def normals(key):
        return noise.lognormal_sigma(jnp.asarray(case.raw(key)[iteration][..., 0, 0, 0]))

    if method == "sid":
        u = jnp.asarray(case.raw("gen_rand_t")[iteration][..., 0, 0, 0])
        generator_sigma = noise.karras_sigma(u * case.meta["options"]["tmax"] / 1000)
    else:
        generator_sigma = normals("gen_rnd_normal")
    rounds = generator_sigma.shape[0]
    keys = jax.random.split(jax.random.key(0), rounds)  # for dropout, whose rate is 0

    def network(prefix, sigma):
        return draws_lib.NetworkDraws(
            z=images(f"{prefix}_z"),
            sigma=sigma,
            noise=images(f"{prefix}_noise"),
            labels=None,
            dropout=keys,
        )

    fake = network("fake", normals("fake_rnd_normal"))
    return draws_lib.Draws(
        fake_score=jax.tree.map(lambda x: x[None], fake),
        generator=network("gen", generator_sigma),
    )


@pytest.mark.parametrize(
    ("name", "unroll"),
    [
        pytest.param("traj_sid_shared", False, marks=pytest.mark.slow),
        ("traj_di_shared", False),
        ("traj_sid_distinct_rounds2", False),
        pytest.param("traj_di_distinct_rounds2", True, marks=pytest.mark.slow),
    ],
)
def test_trajectory(name, unroll):
    case = golden_cases.Case(name)
    options = case.meta["options"]
    method = name.split("_")[1]
    model = case.denoiser()
    prefixes = options["prefixes"]
    teacher = golden_cases.weights(model, prefixes["true"])
    start = {
        "gen": golden_cases.weights(model, prefixes["gen"]),
        "fake": golden_cases.weights(model, prefixes["fake"]),
    }
    start["ema"] = start["gen"]
    batch = options["batch_gpu"] * options["rounds"]
    generator_loss_scale = options["loss_scaling_G"] if method == "sid" else 1
    setup = update.Distillation(
        teacher=model,
        fake_score=model,
        generator=DenoiserGenerator(model, options["init_sigma"]),
        method=methods.sid(options["alpha"]) if method == "sid" else methods.diff_instruct(),
        fake_score_optimizer=optimizer.adam(options["lr"]),
        generator_optimizer=optimizer.adam(options["glr"]),
        batch_size=batch,
        ema_halflife=options["ema_halflife_kimg"] * 1000,
        ema_rampup=options["ema_rampup_ratio"],
        fake_score_loss_scale=options["loss_scaling"],
        generator_loss_scale=generator_loss_scale,
        unroll=unroll,
    )
    current = state.create(
        start["gen"],
        start["fake"],
        generator_optimizer=setup.generator_optimizer,
        fake_score_optimizer=setup.fake_score_optimizer,
    )
    current = current.replace(step=jnp.int32(options["start_nimg"] // batch))
    step = jax.jit(setup.update)
    largest = np.abs(case.raw("gen_loss").sum(axis=1)).max()
    for iteration in range(options["iters"]):
        current, metrics = step(current, teacher, replayed_draws(case, method, iteration))
        expected = case.raw("fake_loss")[iteration].sum()
        np.testing.assert_allclose(metrics["fake_loss"], expected, rtol=5e-5)
        expected = case.raw("gen_loss")[iteration].sum()
        difference = abs(metrics["generator_loss"] * generator_loss_scale - expected)
        assert difference <= 2e-4 * largest
        # rtol: norms of the sum over all parameters, from norms of each
        np.testing.assert_allclose(
            metrics["generator_grad_norm"],
            np.linalg.norm(case.raw("gen_grad_norm")[iteration]),
            rtol=1e-3,
        )
        now = {
            "gen": current.generator,
            "ema": current.generator_ema,
            "fake": current.fake_score,
        }
        for which, params in now.items():
            after, before = map(golden_cases.by_torch_name, (params, start[which]))
            for i, parameter in enumerate(case.meta["param_names"]):
                delta = after[parameter].astype(np.float64) - before[parameter]
                off = np.abs(delta - case.raw(f"{which}_p{i}_delta")[iteration])
                far = off >= 0.1 * options["glr"]
                assert far.mean() <= 1e-3, (iteration, which, parameter)
            for j, parameter in enumerate(case.meta["all_param_names"]):
                if parameter.endswith("qkv.bias"):
                    continue
                norm = np.linalg.norm(after[parameter].astype(np.float64) - before[parameter])
                expected = case.raw(f"{which}_delta_norm")[iteration][j]
                np.testing.assert_allclose(norm, expected, rtol=2e-2, atol=1e-6, err_msg=parameter)
    assert int(current.step) * batch == case.raw("nimg_after")[-1]
