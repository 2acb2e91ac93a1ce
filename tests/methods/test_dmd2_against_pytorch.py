"""DMD2's losses and a trajectory against its released code."""

import dataclasses
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
from diffjax.training import ema, optimizer, state, update
from tests.support import golden_cases, heads, trajectories


def assert_close(actual, expected, bound=3e-5):
    assert golden_cases.relative_l2(actual, expected) <= bound


def make(case, model, batch, **settings):
    module = DiscriminatorHeads(channels=case.meta["head"]["channels"])
    headed = Headed(model, module, model)
    return methods.get("dmd2")(
        networks={
            "teacher": model,
            "fake_score": headed,
            "generator": DenoiserGenerator(model, 80.0),
            "features": headed.features,
            "head": headed.logits,
        },
        batch=Batch(model.image_shape, batch, label_dim=model.label_dim),
        **settings,
    ), headed


def grid_indices(case, key):
    return jnp.asarray(case.raw(key)).reshape(-1)


def labels_of(case, key):
    labels = case.raw(key) if key in case.names else np.zeros((0, 0))
    return jnp.asarray(labels) if labels.shape[-1] else None


@functools.cache
def loss_case(name):
    case = golden_cases.Case(name)
    model = case.denoiser(dropout=0.0)
    options, batch = case.meta["options"], case.meta["batch"]
    method, headed = make(case, model, batch, noised_gan=options["diffusion_gan"])
    prefixes = case.meta["prefixes"]
    params = {
        "teacher": golden_cases.weights(model, prefixes["true"]),
        "fake_score": {
            "network": golden_cases.weights(model, prefixes["fake"]),
            "head": heads.weights(headed, prefixes["head"]),
        },
    }
    return case, method, params


def noised(case, method, names):
    """Noise levels and noise of the recorded draws, as `more` has them."""
    grid, found = method._grid(0, 999), {}
    for of, key in names.items():
        if f"{key}_noise" in case:
            found |= {
                f"{of}_sigma": grid.at(grid_indices(case, f"{key}_timesteps")),
                f"{of}_noise": case[f"{key}_noise"],
            }
        else:  # a discriminator of clean images
            found |= {f"{of}_sigma": jnp.zeros(case.meta["batch"]), f"{of}_noise": case["images"]}
    return found


def draws_of(case, method, key, more, **others):
    return Draws(
        z=None,
        sigma=method._grid(0, 999).at(grid_indices(case, f"{key}_timesteps")),
        noise=case[f"{key}_noise"],
        labels=labels_of(case, "labels"),
        dropout=jax.random.key(0),
        more=noised(case, method, more),
        **others,
    )


loss_cases = golden_cases.cases("dmd2_losses", precond=golden_cases.PRECONDS)


@pytest.mark.parametrize("name", loss_cases)
def test_generator_loss(name):
    case, method, params = loss_case(name)
    draws = draws_of(case, method, "dm", {"gan": "gcls"})

    def loss(x, scale):
        scaled = dataclasses.replace(method, gan_scale=scale)
        values, figures = scaled.generator_loss(params, x, draws)
        return values.mean(), figures["gan"].mean()

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (matching, adversarial), of_matching = gradient(case["images"], 0.0)
    np.testing.assert_allclose(matching, case.exact("loss_dm"), rtol=3e-5)
    np.testing.assert_allclose(adversarial, case.exact("gen_cls_loss"), rtol=3e-5)
    assert_close(of_matching, case.expected("grad_dm_images"))
    (total, _), of_total = gradient(case["images"], case.meta["weights"]["gen_cls_loss_weight"])
    np.testing.assert_allclose(total, case.exact("gen_total"), rtol=3e-5)
    assert_close(of_total, case.expected("grad_gen_total_images"))


@pytest.mark.parametrize("name", loss_cases)
def test_fake_score_loss(name):
    case, method, params = loss_case(name)
    draws = draws_of(
        case,
        method,
        "fake",
        {"gan": "dfake", "real": "dreal"},
        real=case["real_images"],
        real_labels=labels_of(case, "real_labels"),
    )

    def loss(own, scale):
        scaled = dataclasses.replace(method, discriminator_scale=scale)
        trees = {**params, "fake_score": own}
        values, figures = scaled.fake_score_loss(trees, case["images"], draws)
        return values.mean(), figures["discriminator"].mean()

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (denoising, told), of_denoising = gradient(params["fake_score"], 0.0)
    np.testing.assert_allclose(denoising, case.exact("loss_fake_mean"), rtol=3e-5)
    np.testing.assert_allclose(told, case.exact("guidance_cls_loss"), rtol=3e-5)
    scale = case.meta["weights"]["cls_loss_weight"]
    (total, _), of_total = gradient(params["fake_score"], scale)
    np.testing.assert_allclose(total, case.exact("guidance_total"), rtol=3e-5)
    alone, whole = map(heads.by_torch_name, (of_denoising, of_total))
    for i, parameter in enumerate(case.meta["grad_param_names"]):
        if f"grad_fake_p{i}" in case:
            assert_close(alone[parameter], case.exact(f"grad_fake_p{i}"))
        assert_close(whole[parameter], case.exact(f"grad_total_p{i}"))
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(of_total)))
    np.testing.assert_allclose(norm, case.exact("guidance_grad_norm"), rtol=3e-4)


def replayed(case, method, iterations, generator):
    """Draws of an update: those of a generator's recorded step and of fake scores' after it."""
    grid = method._grid(0, 999)

    def at(key, index):
        return case[key][index]

    def sigma(key, index):
        return grid.at(jnp.asarray(case.raw(key)[index]).reshape(-1))

    def labels(key, index):
        return jax.nn.one_hot(case.raw(key)[index].reshape(-1), case.kwargs["label_dim"])

    def turn(key, index, more, *at_real):
        found = {}
        for of, name in more.items():
            found |= {
                f"{of}_sigma": sigma(f"{name}_timesteps", index),
                f"{of}_noise": at(f"{name}_noise", index),
            }
        iteration = iterations[0] if key == "dm" else index
        return Draws(
            z=at("z", iteration),
            sigma=sigma(f"{key}_timesteps", index),
            noise=at(f"{key}_noise", index),
            labels=labels("label_index", iteration),
            dropout=jax.random.key(0),
            real=at("real_images01", index) * 2 - 1 if at_real else None,
            real_labels=labels("real_label_index", index) if at_real else None,
            more=found,
        )

    def stacked(turns):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[:, None], *turns)

    fake = [turn("fake", i, {"gan": "dfake", "real": "dreal"}, True) for i in iterations]
    return {
        "generator": stacked([turn("dm", generator, {"gan": "gcls"})]),
        "fake_score": stacked(fake),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", golden_cases.cases("dmd2_trajectory", precond=golden_cases.PRECONDS)
)
def test_trajectory(name):
    case = golden_cases.Case(name)
    options = case.meta["options"]
    model = case.denoiser(dropout=0.0)
    prefixes, adamw = options["prefixes"], options["adamw"]
    _, headed = make(case, model, options["batch"])
    start = {which: golden_cases.weights(model, prefixes[which]) for which in ("gen", "fake")}
    head = heads.weights(headed, prefixes["head"])
    teacher = golden_cases.weights(model, prefixes["true"])

    def optimiser(rate):
        return optimizer.adam(
            options[rate],
            b1=adamw["betas"][0],
            b2=adamw["betas"][1],
            eps=adamw["eps"],
            weight_decay=adamw["weight_decay"],
            max_grad_norm=options["max_grad_norm"],
        )

    optimizers = {"generator": optimiser("generator_lr"), "fake_score": optimiser("guidance_lr")}
    params = {"generator": start["gen"], "fake_score": {"network": start["fake"], "head": head}}
    current = state.create(params, optimizers, ("generator",))
    firsts = [int(i) for i in case.raw("generator_iterations")]
    for row, (first, end) in enumerate(zip(firsts, [*firsts[1:], options["iters"]], strict=True)):
        iterations = list(range(first, end))
        method, _ = make(
            case,
            model,
            options["batch"],
            fake_score_updates=len(iterations),
            gan_scale=options["gen_cls_loss_weight"],
            discriminator_scale=options["cls_loss_weight"],
        )
        step = jax.jit(update.Update(method, optimizers, ema.Averages(1.0, None)))
        draws = replayed(case, method, iterations, row)
        current, metrics = step(current, {"teacher": teacher}, draws)
        total = case.exact("loss_dm")[row]
        total = total + options["gen_cls_loss_weight"] * case.exact("gen_cls_loss")[row]
        np.testing.assert_allclose(metrics["generator_loss"], total, rtol=2e-4)
        last = iterations[-1]
        told = case.exact("guidance_cls_loss")[last]
        np.testing.assert_allclose(metrics["discriminator"], told, rtol=5e-5)
        of_score = metrics["fake_loss"] - options["cls_loss_weight"] * metrics["discriminator"]
        np.testing.assert_allclose(of_score, case.exact("loss_fake_mean")[last], rtol=5e-5)
        norm = case.exact("guidance_grad_norm")[last]
        np.testing.assert_allclose(metrics["fake_grad_norm"], norm, rtol=1e-3)
        now = {
            "gen": current.params["generator"],
            "fake": current.params["fake_score"]["network"],
        }
        rates = {"gen": options["generator_lr"], "fake": options["guidance_lr"]}
        trajectories.assert_parameters(case, last, start, now, rates)
    assert int(current.step) == len(firsts)
