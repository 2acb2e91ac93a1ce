"""SMD's losses against its released code, with the attribute that it doesn't set."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import methods
from diffjax.methods.draws import Batch, Draws
from diffjax.models.discriminator import Headed
from diffjax.models.generator import DenoiserGenerator
from diffjax.networks.discriminator_head import DiscriminatorHeads
from tests.support import golden_cases, heads

cases = golden_cases.cases("smd_losses", precond=golden_cases.PRECONDS)
GRADIENT = 1e-4  # relative error allowed


def assert_close(actual, expected, bound=3e-5):
    assert golden_cases.relative_l2(actual, expected) <= bound


@functools.cache
def set_up(name):
    case = golden_cases.Case(name)
    model, options = case.denoiser(dropout=0.0), case.meta["options"]
    channels = case.meta["head"]["channels"]
    headed = Headed(model, DiscriminatorHeads(channels=channels), model)
    head = heads.weights(headed, case.meta["prefixes"]["head"])
    method = methods.get("smd")(
        networks={
            "teacher": model,
            "fake_score": headed,
            "generator": DenoiserGenerator(model, 80.0),
            "features": headed.features,
            "head": headed.logits,
        },
        batch=Batch(model.image_shape, case.meta["batch"], label_dim=model.label_dim),
        gan_scale=options["gan_weight"],
        joint_training=options["joint_training"],
        head_channels=channels,
    )
    fake = golden_cases.weights(model, case.meta["prefixes"]["fake"])
    params = {
        "teacher": golden_cases.weights(model, case.meta["prefixes"]["true"]),
        "fake_score": {"network": fake, "head": head},
    }
    return case, method, params


def given(case, method, step, **others):
    def sigma(name):
        return method.fake_score_sigma().at(jnp.asarray(case.raw(f"{name}_timesteps").reshape(-1)))

    skew = case.exact("g_alphas" if step == "g" else "i_alphas")
    more = {"skew": jnp.asarray(skew, jnp.float32)}
    if step == "f":
        more |= {"critic_sigma": sigma("i"), "critic_noise": case["i_noise"]}
        others |= {"real": case["real_images"], "real_labels": case.labels}
    return Draws(
        z=None,
        sigma=sigma(step),
        noise=case[f"{step}_noise"],
        labels=case.labels,
        dropout=jax.random.key(0),
        more=more,
        **others,
    )


@pytest.mark.parametrize("name", cases)
def test_generators_loss(name):
    case, method, params = set_up(name)
    options = case.meta["options"]
    levels, asked = method.fake_score_sigma(), method.generator_sigma()
    assert levels.points == options["num_train_timesteps"]
    assert (asked.first, asked.last) == (options["min_step"], options["max_step"])
    assert_close(levels.at(jnp.arange(levels.points)), case.exact("karras_sigmas"))

    def loss(x):
        return method.generator_loss(params, x, given(case, method, "g"))[0].mean()

    value, of_images = jax.jit(jax.value_and_grad(loss))(case["images"])
    np.testing.assert_allclose(value, case.exact("g_loss"), rtol=3e-5)
    assert_close(of_images, case.expected("grad_g_images"), GRADIENT)


@pytest.mark.parametrize("name", cases)
def test_fake_scores_loss(name):
    case, method, params = set_up(name)
    draws = given(case, method, "f")

    @functools.partial(jax.jit, static_argnums=1)
    def of(own, term):
        def loss(own):
            values, figures = method.fake_score_loss(
                {**params, "fake_score": own}, case["images"], draws
            )
            return figures["critic"].mean() if term == "critic" else values.mean()

        return jax.value_and_grad(loss)(own)

    critic, of_critic = of(params["fake_score"], "critic")
    whole, of_whole = of(params["fake_score"], "whole")
    parts = [case.exact(f"loss_interpolated_{which}_mean") for which in ("fake", "real")]
    np.testing.assert_allclose(critic, sum(parts), rtol=3e-5)
    np.testing.assert_allclose(whole, case.exact("loss_fake_mean") + sum(parts), rtol=3e-5)
    of_critic, of_whole = map(heads.by_torch_name, (of_critic, of_whole))
    silent = case.meta["stats"]["no_gradient_from_interpolated"]
    for i, parameter in enumerate(case.meta["grad_param_names"]):
        expected = case.exact(f"grad_i_p{i}")
        if parameter in silent:
            assert not np.any(of_critic[parameter])
        else:
            assert_close(of_critic[parameter], expected, GRADIENT)
        if f"grad_f_p{i}" in case:
            expected = expected + case.exact(f"grad_f_p{i}")
            assert_close(of_whole[parameter], expected, GRADIENT)
