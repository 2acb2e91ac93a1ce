"""f-distill's and DMD2's steps against FastGen's code, which runs both."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import methods
from diffjax.diffusion import noise
from diffjax.losses import _f_divergences
from diffjax.methods.draws import Batch, Draws
from diffjax.models.discriminator import Headed
from diffjax.models.generator import DenoiserGenerator
from diffjax.networks.discriminator_head import DiscriminatorHeads
from tests.support import golden_cases, heads

FORM = "discriminator_heads.{head}.{layer}"  # of the heads' names


def is_ours(case):
    options = case.meta["options"]
    return options["fake_score_pred_type"] == "x0" and options["time_dist_type"] == "polynomial"


cases = [
    param
    for kind in ("fastgen_fd", "fastgen_dmd2")
    for param in golden_cases.cases(kind, where=is_ours)
]


def assert_close(actual, expected, bound=3e-5):
    assert golden_cases.relative_l2(actual, expected) <= bound


@functools.cache
def set_up(name):
    """The case, the method as FastGen's options have it, and all parameters."""
    case = golden_cases.Case(name)
    model, options = case.denoiser(dropout=0.0), case.meta["options"]
    levels = 1 if case.meta["head"]["feature_indices"] is None else 0
    headed = Headed(model, DiscriminatorHeads(levels), model)
    head = heads.weights(headed, case.meta["prefixes"]["head"], FORM)
    weights = {
        role: golden_cases.weights(model, case.meta["prefixes"][role])
        for role in ("gen", "true", "fake")
    }
    method = methods.get("f_distill")(
        networks={
            "teacher": model,
            "fake_score": headed,
            "generator": DenoiserGenerator(model, case.meta["init_sigma"]),
            "features": model.features,
            "head": headed.logits,
        },
        batch=Batch(model.image_shape, case.meta["batch"], label_dim=model.label_dim),
        divergence=_f_divergences.full_name(options["f_div"] or "reverse_kl"),
        gan_scale=options["gan_loss_weight_gen"],
        r1_scale=options["gan_r1_reg_weight"],
        same_noise=options["gan_use_same_t_noise"],
        head_levels=levels,
        ratio_min=options["ratio_lower"],
        ratio_max=options["ratio_upper"],
        normalize_ratio=options["ratio_normalization"],
        ratio_decay=options["ratio_ema_rate"],
    )
    params = {
        "teacher": weights["true"],
        "generator": weights["gen"],
        "fake_score": {"network": weights["fake"], "head": head},
    }
    return case, method, params


def calls(name):
    count = golden_cases.Case(name).meta["options"]["calls"]
    return [""] if count == 1 else [f"_c{call}" for call in range(count)]


def grid(case):
    points, sigma_min, sigma_max, rho = case.meta["options"]["t_grid"]
    return noise.KarrasGrid(*case.meta["options"]["index_range"], points, sigma_min, sigma_max, rho)


def given(case, step, call):
    def sigma(name):
        return grid(case).at(jnp.asarray(case.raw(name)))

    real = case["real_images"] if step == "f" else None
    more = {}
    if f"f_eps_real{call}" in case and step == "f":
        more["real_noise"] = case[f"f_eps_real{call}"]
        more["real_sigma"] = sigma(f"f_t_real_index{call}")
    if f"f_r1_noise{call}" in case and step == "f":
        more["r1_noise"] = case[f"f_r1_noise{call}"]
    return Draws(
        z=case[f"{step}_z{call}"],
        sigma=sigma(f"{step}_t_index{call}"),
        noise=case[f"{step}_eps{call}"],
        labels=case.labels,
        dropout=jax.random.key(0),
        real=real,
        real_labels=case.labels,
        more=more,
    )


def grid_of(method, step):
    return method.generator_sigma() if step == "g" else method.fake_score_sigma()


@pytest.mark.parametrize("name", cases)
def test_noise_levels(name):
    case, method, _ = set_up(name)
    for call in calls(name):
        for step in ("g", "f"):
            assert grid_of(method, step) == grid(case)
            expected = case.exact(f"{step}_t{call}").reshape(-1)
            assert_close(given(case, step, call).sigma, expected)


@pytest.mark.parametrize("name", cases)
def test_generators_step(name):
    case, method, params = set_up(name)
    means = jnp.ones(case.meta["options"]["bin_num"])
    keeps_means = any(turn.learner == "ratio_means" for turn in method.turns())

    @jax.jit
    def step(params, draws):
        x, pullback = jax.vjp(
            lambda own: method.training_samples({**params, "generator": own}, draws),
            params["generator"],
        )
        means = params["ratio_means"]
        if keeps_means:
            of_means = jax.grad(
                lambda own: method.ratio_loss({**params, "ratio_means": own}, x, draws)[0].mean()
            )
            means = means - of_means(means)
        trees = {**params, "ratio_means": means}

        def loss(x):
            values, figures = method.generator_loss(trees, x, draws)
            return values.mean(), (values, figures)

        of_images, (values, figures) = jax.grad(loss, has_aux=True)(x)
        (of_generator,) = pullback(of_images)
        return x, values, figures, of_images, of_generator, means

    for call in calls(name):
        draws = given(case, "g", call)
        x, values, figures, of_images, gradient, means = step(
            {**params, "ratio_means": means}, draws
        )
        assert_close(x, case.expected(f"g_images{call}"))
        np.testing.assert_allclose(values.mean(), case.exact(f"g_total_loss{call}"), rtol=3e-5)
        gan = case.exact(f"g_gan_loss_gen{call}")
        np.testing.assert_allclose(figures["gan"].mean(), gan, rtol=3e-5)
        # Recorded `grad_g_images` have the terms twice, as PyTorch adds gradients up.
        parts = [case.expected(f"grad_g_{part}_images{call}") for part in ("match", "gan")]
        assert_close(of_images, parts[0] + method.gan_scale * parts[1], 1e-4)
        of_weights = golden_cases.by_torch_name(gradient)
        for i, parameter in enumerate(case.meta["grad_param_names"]):
            assert_close(of_weights[parameter], case.exact(f"grad_g_p{i}{call}"), 1e-4)
        if f"bins_after{call}" in case and keeps_means:
            np.testing.assert_allclose(means, case.exact(f"bins_after{call}"), rtol=1e-5)


@pytest.mark.parametrize("name", cases)
def test_fake_scores_step(name):
    case, method, params = set_up(name)

    @jax.jit
    def step(params, draws):
        x = method.evaluation_samples(params, draws)

        def loss(own):
            values, figures = method.fake_score_loss({**params, "fake_score": own}, x, draws)
            return values.mean(), (values, figures)

        return x, *jax.grad(loss, has_aux=True)(params["fake_score"])

    for call in calls(name):
        x, gradient, (values, figures) = step(params, given(case, "f", call))
        assert_close(x, case.expected(f"f_images{call}"))
        np.testing.assert_allclose(values.mean(), case.exact(f"f_total_loss{call}"), rtol=3e-5)
        told = case.exact(f"f_gan_loss_disc{call}")
        np.testing.assert_allclose(figures["discriminator"].mean(), told, rtol=3e-5)
        if f"f_gan_loss_ar1{call}" in case:
            penalty = case.exact(f"f_gan_loss_ar1{call}")
            np.testing.assert_allclose(figures["r1"].mean(), penalty, rtol=3e-5)
        found = heads.by_torch_name(gradient, FORM)
        for i, parameter in enumerate(case.meta["grad_param_names"]):
            expected = case.exact(f"grad_f_p{i}{call}")
            assert_close(found[f"fake_unet.{parameter}"], expected, 1e-4)
        for i, parameter in enumerate(case.meta["head_grad_param_names"]):
            assert_close(found[parameter], case.exact(f"grad_f_head_p{i}{call}"), 1e-4)
