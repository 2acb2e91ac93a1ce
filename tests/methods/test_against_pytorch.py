"""Losses and trajectories of some iterations against SiD's and Diff-Instruct's released code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses
from diffjax.diffusion import noise
from diffjax.methods.draws import Draws, once
from diffjax.models.generator import DenoiserGenerator
from diffjax.training import optimizer
from tests.support import distilling, golden_cases, trajectories

loss_cases = functools.partial(golden_cases.cases, "losses", precond=golden_cases.PRECONDS)


@functools.cache
def loss_case(name):
    case = golden_cases.Case(name)
    model = case.denoiser()
    prefixes = case.meta["prefixes"]
    teacher, fake = (golden_cases.weights(model, prefixes[which]) for which in ("true", "fake"))
    return case, jax.jit(functools.partial(model, labels=case.labels)), teacher, fake


def diffuse(case, x, name, sigma):
    return x + sigma[:, None, None, None] * case[f"{name}_noise"]


def assert_close(actual, expected, bound=3e-5):
    assert golden_cases.relative_l2(actual, expected) <= bound


def lognormal_sigma(case, name):
    sigma = noise.lognormal_sigma(jnp.asarray(case.raw(f"{name}_rnd_normal").reshape(-1)))
    assert_close(sigma, case.exact(f"{name}_sigma").reshape(-1))
    return sigma


def is_kept(case):
    """[B], False for the images with NaN, whose losses the published loops leave out."""
    return ~np.isnan(case.raw("images")).any(axis=(1, 2, 3))


def assert_values(case, key, values):
    """Compare losses of examples; those that are left out must not look finite."""
    expected = case.exact(key)
    assert_close(values[is_kept(case)], expected.reshape(expected.shape[0], -1).sum(axis=1))
    assert np.isnan(values[~is_kept(case)]).all()


def assert_image_gradient(case, key, gradient):
    expected, kept = case.expected(key), is_kept(case)
    assert_close(gradient[kept], expected[kept])
    np.testing.assert_array_equal(*(np.isnan(g).any(axis=(1, 2, 3)) for g in (gradient, expected)))


def alphas(case):
    every = range(len(case.meta["alphas"]))
    return [index for index in every if f"sid_g_loss_a{index}" in case]


@pytest.mark.parametrize(("name", "index"), loss_cases(each=alphas))
def test_sid_generator_loss(name, index):
    case, model, teacher, fake = loss_case(name)
    alpha = case.meta["alphas"][index]
    u = case.raw("sid_g_rand_t").reshape(-1) * case.meta["tmax"] / 1000
    sigma = noise.karras_sigma(jnp.asarray(u))
    assert_close(sigma, case.exact("sid_g_sigma").reshape(-1))

    def loss(x):
        y = diffuse(case, x, "sid_g", sigma)
        values = losses.sid(x, model(teacher, y, sigma), model(fake, y, sigma), alpha=alpha)
        return values.sum(), values

    gradient, values = jax.grad(loss, has_aux=True)(case["images"])
    assert_values(case, f"sid_g_loss_a{index}", values)
    assert_image_gradient(case, f"grad_sid_g_images_a{index}", gradient)


@pytest.mark.parametrize("name", loss_cases(where=lambda case: "di_g_loss" in case))
def test_diff_instruct_generator_loss(name):
    case, model, teacher, fake = loss_case(name)
    sigma = lognormal_sigma(case, "di_g")

    def loss(x):
        y = diffuse(case, x, "di_g", sigma)
        values = losses.diff_instruct(x, model(teacher, y, sigma), model(fake, y, sigma))
        return values.sum(), values

    gradient, values = jax.grad(loss, has_aux=True)(case["images"])
    assert_values(case, "di_g_loss", values)
    assert_image_gradient(case, "grad_di_g_images", gradient)


def fake_losses(case):
    return [which for which in ("sid_f", "di_f") if f"{which}_loss" in case]


@pytest.mark.parametrize(("name", "which"), loss_cases(each=fake_losses))
def test_fake_score_loss(name, which):
    case, model, _, fake = loss_case(name)
    sigma = lognormal_sigma(case, which)

    def loss(params):
        x = case["images"]
        d_fake = model(params, diffuse(case, x, which, sigma), sigma)
        values = losses.denoising(x, d_fake, weight=noise.edm_weight(sigma))
        return values.sum(), values

    gradient, values = jax.grad(loss, has_aux=True)(fake)
    assert_values(case, f"{which}_loss", values)
    by_name = golden_cases.by_torch_name(gradient)
    for i, parameter in enumerate(case.meta["grad_param_names"]):
        if is_kept(case).all():
            assert_close(by_name[parameter], case.exact(f"grad_{which}_p{i}"))
        else:
            share = case.meta["nan_param_grad_fraction"][i]
            assert np.isnan(by_name[parameter]).mean() == share, parameter


def replayed_labels(case, iteration):
    """Labels of an iteration's rounds, {prefix: [R, B, K] or None}.

    Either the two networks' by name, or [call, B, K] in the order of calls: rounds of the fake
    score, then, unless these take the last of those, rounds of the generator.
    """
    if "fake_labels" in case:
        return {name: case.raw(f"{name}_labels")[iteration] for name in ("fake", "gen")}
    if case.labels is None:
        return {"fake": None, "gen": None}
    iters, rounds = (case.meta["options"][key] for key in ("iters", "rounds"))
    calls = np.reshape(case.labels, (iters, -1, *case.labels.shape[-2:]))[iteration]
    assert len(calls) in (rounds, 2 * rounds)
    fake, own = calls[:rounds], calls[rounds:]
    assert len(own) or case.meta["algo"] == "di"
    return {"fake": fake, "gen": own if len(own) else np.repeat(fake[-1:], rounds, axis=0)}


def replayed_draws(case, iteration):
    """The recorded draws of one iteration, as the update takes them."""

    def normals(key):
        return noise.lognormal_sigma(jnp.asarray(case.raw(key)[iteration][..., 0, 0, 0]))

    if case.meta["algo"] == "sid":
        u = jnp.asarray(case.raw("gen_rand_t")[iteration][..., 0, 0, 0])
        generator_sigma = noise.karras_sigma(u * case.meta["options"]["tmax"] / 1000)
    else:
        generator_sigma = normals("gen_rnd_normal")
    rounds = generator_sigma.shape[0]
    keys = jax.random.split(jax.random.key(0), rounds)  # for dropout, whose rate is 0
    labels = replayed_labels(case, iteration)

    def turn(prefix, sigma):
        return once(
            Draws(
                z=case[f"{prefix}_z"][iteration],
                sigma=sigma,
                noise=case[f"{prefix}_noise"][iteration],
                labels=None if labels[prefix] is None else jnp.asarray(labels[prefix]),
                dropout=keys,
            )
        )

    return {
        "fake_score": turn("fake", normals("fake_rnd_normal")),
        "generator": turn("gen", generator_sigma),
    }


def build(case, model):
    """The update that a case's options describe, and factors on its two losses."""
    options = case.meta["options"]
    if case.meta["algo"] == "sid":
        method, settings = "sid", {"alpha": options["alpha"], "t_max": options["tmax"]}
        fake_scale, generator_scale = options["loss_scaling"], options["loss_scaling_G"]
    else:
        method, settings = "diff_instruct", {}
        # The names are Diff-Instruct's: `sgls` is of its score network, the fake score.
        fake_scale, generator_scale = options["sgls"], options["loss_scaling"]

    def adam(learning_rate, betas):
        b1, b2 = options.get(betas, (0.0, 0.999))
        return optimizer.adam(options[learning_rate], b1=b1, b2=b2, eps=options.get("eps", 1e-8))

    setup = distilling.build(
        method,
        teacher=model,
        fake_score=model,
        generator=DenoiserGenerator(model, options["init_sigma"]),
        fake_score_optimizer=adam("lr", "betas_fake"),
        generator_optimizer=adam("glr", "betas_gen"),
        batch_size=options["batch_gpu"] * options["rounds"],
        rounds=options["rounds"],
        shape=model.image_shape,
        label_dim=model.label_dim,
        ema_halflife=options["ema_halflife_kimg"] * 1000,
        ema_rampup=options["ema_rampup_ratio"],
        fake_score_loss_scale=fake_scale,
        generator_loss_scale=generator_scale,
        unroll=case.meta["algo"] == "di",  # so that both ways of accumulating are tested
        **settings,
    )
    return setup, fake_scale, generator_scale


def is_slow(meta):
    """All but one trajectory of each method, and of each way of accumulating."""
    has_rounds = meta["options"]["rounds"] > 1
    return has_rounds != (meta["algo"] == "sid")


@pytest.mark.parametrize(
    "name",
    golden_cases.cases(
        "trajectory", algo=("sid", "di"), precond=golden_cases.PRECONDS, slow=is_slow
    ),
)
def test_trajectory(name):
    case = golden_cases.Case(name)
    options = case.meta["options"]
    model = case.denoiser(dropout=0.0)  # as in all recorded trajectories
    prefixes = options["prefixes"]
    teacher = golden_cases.weights(model, prefixes["true"])
    start = {
        "gen": golden_cases.weights(model, prefixes["gen"]),
        "fake": golden_cases.weights(model, prefixes["fake"]),
    }
    start["ema"] = start["gen"]
    setup, fake_scale, generator_scale = build(case, model)
    current = distilling.start(setup, start["gen"], start["fake"])
    current = current.replace(images=jnp.uint32(options["start_nimg"]))
    step = jax.jit(distilling.step(setup))
    largest = np.abs(case.exact("gen_loss").sum(axis=1)).max()
    for iteration in range(options["iters"]):
        current, metrics = step(current, teacher, replayed_draws(case, iteration))
        expected = case.exact("fake_loss")[iteration].sum()
        np.testing.assert_allclose(metrics["fake_loss"] * fake_scale, expected, rtol=5e-5)
        expected = case.exact("gen_loss")[iteration].sum()
        difference = abs(metrics["generator_loss"] * generator_scale - expected)
        assert difference <= 2e-4 * largest
        # rtol: norms of the sum over all parameters, from norms of each
        np.testing.assert_allclose(
            metrics["generator_grad_norm"],
            np.linalg.norm(case.exact("gen_grad_norm")[iteration]),
            rtol=1e-3,
        )
        now = {
            "gen": current.params["generator"],
            "ema": current.averages["generator"],
            "fake": current.params["fake_score"],
        }
        trajectories.assert_parameters(case, iteration, start, now)
    assert int(current.images) == case.exact("nimg_after")[-1]
