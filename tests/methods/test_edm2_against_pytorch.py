"""SiD's and SiDA's trajectories on EDM2's networks against their released code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import methods
from diffjax.diffusion import noise
from diffjax.methods.draws import Batch, Draws, once
from diffjax.models import discriminator
from diffjax.models.generator import DenoiserGenerator
from diffjax.training import draws as drawing
from diffjax.training import ema, optimizer, state, update
from tests.support import edm2_cases, golden_cases

BRANCH = "EDM2 (sida branch)"


def case_and_model(name):
    """A case, and its denoiser, whose `force_normalization` is as the recorded run had it."""
    case = golden_cases.Case(name)
    options = case.meta["options"]
    forces = options["force_normalization"] or not options["use_gan"]
    kwargs = {"class_name": "Precond", **case.kwargs, "force_normalization": forces}
    return case, golden_cases.denoiser.from_edm_kwargs(kwargs, dropout=0.0)


def twice_but_the_decoder(model):
    """What SiDA's two passes leave, of which that on real latents ends with the encoder.

    It matters where weights are not normalised yet, by 1e-5 of them: in a first update. Runs of
    this package overwrite once.
    """

    def overwrite(params):
        once = model.normalized(params)
        twice = model.normalized(once)
        kept = {name: tree for name, tree in once["params"].items() if name.startswith("dec_")}
        return {**twice, "params": {**twice["params"], **kept}}

    return overwrite


def build(case, model):
    """The update that a case's options describe."""
    options = case.meta["options"]
    batch = Batch(
        model.image_shape,
        options["batch_gpu"] * options["rounds"],
        options["rounds"],
        label_dim=model.label_dim,
    )
    settings = {
        "alpha": options["alpha"],
        "t_max": options["tmax"],
        "p_mean": options["P_mean"],
        "p_std": options["P_std"],
        "uncertainty_weighting": options["return_logvar"],
        "fake_score_loss_scale": options["loss_scaling"],
        "generator_loss_scale": options["loss_scaling_G"],
    }
    if options["use_gan"]:
        settings |= {
            "gan_scale": options["loss_scaling_G_gan"] / options["loss_scaling_G"],
            "discriminator_scale": options["loss_scaling_D"] / options["loss_scaling"],
        }
    method = methods.get("sida" if options["use_gan"] else "sid")(
        networks={
            "teacher": model,
            "fake_score": model,
            "generator": DenoiserGenerator(model, options["init_sigma"]),
            "features": model.features,
            "head": discriminator.channel_mean,
            "log_variance": model.log_variance,
        },
        batch=batch,
        **settings,
    )
    frozen = 100_001 if options["use_gan"] else 0
    b1 = options["g_beta1"]
    overwritten = {}
    if model.overwrites_weights:
        overwritten = dict.fromkeys(("fake_score", "generator"), model.normalized)
    if model.overwrites_weights and options["use_gan"]:
        overwritten["fake_score"] = twice_but_the_decoder(model)
    return update.Update(
        method=method,
        optimizers={
            "fake_score": optimizer.adam(options["lr"]),
            "generator": optimizer.adam(options["glr"], b1=b1, frozen=frozen),
        },
        averages=ema.Averages(options["ema_halflife_kimg"] * 1000, options["ema_rampup_ratio"]),
        overwritten=overwritten,
        prepared=dict.fromkeys(("fake_score", "generator"), model.prepared),
    )


def replayed(case, iteration, images):
    """The recorded draws of one iteration, as the update takes them."""
    options = case.meta["options"]

    def at(key):
        return jnp.asarray(case.raw(key)[iteration])

    def turn(prefix, sigma):
        has_real = prefix == "fake" and options["use_gan"]
        return Draws(
            z=case[f"{prefix}_z"][iteration],
            sigma=sigma,
            noise=case[f"{prefix}_noise"][iteration],
            labels=at(f"{prefix}_labels"),
            dropout=jax.random.split(jax.random.key(0), options["rounds"]),
            real=case["real_images"][iteration] if has_real else None,
            real_labels=at("fake_labels") if has_real else None,
        )

    normals = at("fake_rnd_normal")[..., 0, 0, 0]
    u = at("gen_rand_t")[..., 0, 0, 0] * options["tmax"] / 1000
    fake_sigma = noise.lognormal_sigma(normals, options["P_mean"], options["P_std"])
    draws = {
        "fake_score": once(turn("fake", fake_sigma)),
        "generator": once(turn("gen", noise.karras_sigma(u))),
    }
    return {name: drawing.told(each, images) for name, each in draws.items()}


def assert_parameters(case, iteration, start, now, model):
    """Compare networks with the recorded ones, by how far they moved."""
    options = case.meta["options"]
    for which, params in now.items():
        rate = options["lr" if which == "fake" else "glr"]
        after, before = (edm2_cases.by_torch_name(model, tree) for tree in (params, start[which]))
        for i, name in enumerate(case.meta["param_names"]):
            delta = after[name].astype(np.float64) - before[name]
            off = np.abs(delta - case.exact(f"{which}_p{i}_delta")[iteration])
            assert (off >= 0.1 * rate).mean() <= 1e-3, (iteration, which, name, off.max() / rate)
        names = case.meta["fake_param_names" if which == "fake" else "gen_param_names"]
        for j, name in enumerate(names):
            norm = np.linalg.norm(after[name].astype(np.float64) - before[name])
            expected = case.exact(f"{which}_delta_norm")[iteration][j]
            np.testing.assert_allclose(norm, expected, rtol=2e-3, atol=1e-6, err_msg=name)


def is_slow(meta):
    """All but one, which has forced normalisation and log-variances."""
    options = meta["options"]
    return options["use_gan"] or not options["return_logvar"]


trajectories = golden_cases.cases("trajectory", algo=("sid", "sida"), precond=BRANCH, slow=is_slow)


@pytest.mark.parametrize("name", edm2_cases.or_skip(trajectories))
def test_trajectory(name):
    case, model = case_and_model(name)
    options = case.meta["options"]
    start = {
        which: edm2_cases.weights(model, options["prefixes"][which]) for which in ("gen", "fake")
    }
    start["ema"] = start["gen"]
    teacher = edm2_cases.weights(model, options["prefixes"]["true"])
    setup = build(case, model)
    params = {"generator": start["gen"], "fake_score": start["fake"]}
    current = state.create(params, setup.optimizers, setup.averaged)
    current = current.replace(images=jnp.uint32(options["start_nimg"]))
    step = jax.jit(setup)

    def recorded(key, iteration):
        return case.exact(key)[iteration].sum()

    largest = np.abs(case.exact("gen_loss").sum(axis=1)).max()
    for iteration in range(options["iters"]):
        seen = current.images
        current, metrics = step(current, {"teacher": teacher}, replayed(case, iteration, seen))
        found = metrics["fake_loss"]
        loss = metrics["generator_loss"] * options["loss_scaling_G"]
        if options["use_gan"]:
            told = metrics["discriminator"]
            scaled = told * options["loss_scaling_D"]
            np.testing.assert_allclose(scaled, recorded("D_loss", iteration), rtol=5e-5)
            found = found - told * options["loss_scaling_D"] / options["loss_scaling"]
            if case.raw("gan_used")[iteration]:
                adversarial = metrics["gan"] * options["loss_scaling_G_gan"]
                np.testing.assert_allclose(adversarial, recorded("gan_loss", iteration), rtol=5e-5)
                loss = 2 * loss - adversarial
        found = found * options["loss_scaling"]
        np.testing.assert_allclose(found, recorded("fake_loss", iteration), rtol=5e-5)
        assert abs(loss - recorded("gen_loss", iteration)) <= 1e-4 * largest
        now = {
            "gen": current.params["generator"],
            "ema": current.averages["generator"],
            "fake": current.params["fake_score"],
        }
        assert_parameters(case, iteration, start, now, model)
    assert int(current.images) == case.exact("nimg_after")[-1]
