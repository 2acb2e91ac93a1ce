"""SiDA's training loop as cases of SiDA and Uni-Instruct recorded it."""

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import methods
from diffjax.diffusion import noise
from diffjax.methods.draws import Batch, Draws, once
from diffjax.models import discriminator
from diffjax.models.generator import DenoiserGenerator
from diffjax.training import draws as drawing
from diffjax.training import ema, optimizer, state, update
from tests.support import compiling, golden_cases, trajectories


def make(model, batch, method, init_sigma=2.5, **settings):
    return methods.get(method)(
        networks={
            "teacher": model,
            "fake_score": model,
            "generator": DenoiserGenerator(model, init_sigma),
            "features": model.features,
            "head": discriminator.channel_mean,
        },
        batch=Batch(model.image_shape, batch, label_dim=model.label_dim),
        **settings,
    )


def replayed(case, iteration, images):
    """The recorded draws of one iteration, as the update takes them."""

    def at(key):
        return case[key][iteration]

    sigma = noise.lognormal_sigma(at("fake_rnd_normal")[..., 0, 0, 0])
    u = at("gen_rand_t")[..., 0, 0, 0] * case.meta["options"]["tmax"] / 1000
    labels = (None, None)
    if case.labels is not None:
        labels = jnp.reshape(
            case.labels, (case.meta["options"]["iters"], 2, 1, *case.labels.shape[-2:])
        )[iteration]
    keys = jax.random.split(jax.random.key(0), 1)
    common = {"dropout": keys}
    fake_score = once(
        Draws(
            z=at("fake_z"),
            sigma=sigma,
            noise=at("fake_noise"),
            labels=labels[0],
            real=at("real_uint8").astype(jnp.float32) / 127.5 - 1,
            real_labels=labels[0],
            **common,
        )
    )
    generator = once(
        Draws(
            z=at("gen_z"),
            sigma=noise.karras_sigma(u),
            noise=at("gen_noise"),
            labels=labels[1],
            **common,
        )
    )
    draws = {"fake_score": fake_score, "generator": generator}
    return {name: drawing.told(each, images) for name, each in draws.items()}


def iterations(case, method, *, as_users=False, **settings):
    """Replay a trajectory, and compare all that its loops have in common.

    Args:
      case: the trajectory.
      method: the name of a method.
      as_users: whether XLA optimises as it does for users, which rounds less.
      **settings: of it, besides those that all have.

    Yields:
      (iteration, the `Update`, its inputs, draws, state before, state after, metrics).
    """
    options = case.meta["options"]
    assert options["rounds"] == 1
    model = case.denoiser(dropout=0.0)
    start = {
        which: golden_cases.weights(model, options["prefixes"][which]) for which in ("gen", "fake")
    }
    start["ema"] = start["gen"]
    inputs = {"teacher": golden_cases.weights(model, options["prefixes"]["true"])}

    def adam(rate, betas, **others):
        b1, b2 = options[betas]
        return optimizer.adam(options[rate], b1=b1, b2=b2, eps=options["eps"], **others)

    setup = update.Update(
        method=make(
            model,
            options["batch_gpu"],
            method,
            init_sigma=options["init_sigma"],
            t_max=options["tmax"],
            gan_from_kimg=options["gan_from_nimg"] / 1000,
            generator_loss_scale=options["loss_scaling_G"],
            fake_score_loss_scale=options["loss_scaling"],
            discriminator_scale=options["loss_scaling_D"] / options["loss_scaling"],
            **{"gan_scale": options["loss_scaling_G_gan"] / options["loss_scaling_G"], **settings},
        ),
        optimizers={
            "fake_score": adam("lr", "betas_fake", max_grad_value=options["clip_value"]),
            # It moves only after that number, and the first image of a run is its 0th.
            "generator": adam(
                "glr", "betas_gen", frozen=options["generator_frozen_until_nimg"] + 1
            ),
        },
        averages=ema.Averages(options["ema_halflife_kimg"] * 1000, options["ema_rampup_ratio"]),
    )
    params = {"generator": start["gen"], "fake_score": start["fake"]}
    current = state.create(params, setup.optimizers, setup.averaged)
    current = current.replace(images=jnp.uint32(options["start_nimg"]))
    step = jax.jit(setup, compiler_options=compiling.AS_USERS if as_users else None)
    for iteration in range(options["iters"]):
        before = current
        draws = replayed(case, iteration, before.images)
        current, metrics = step(before, inputs, draws)
        of_score = (metrics["fake_loss"] - metrics["discriminator"]) * options["loss_scaling"]
        np.testing.assert_allclose(of_score, case.exact("fake_loss")[iteration, 0], rtol=5e-5)
        told = metrics["discriminator"] * options["loss_scaling_D"]
        np.testing.assert_allclose(told, case.exact("disc_loss")[iteration, 0], rtol=5e-5)
        adversarial = metrics["gan"] * options["loss_scaling_G_gan"]
        np.testing.assert_allclose(adversarial, case.exact("gan_loss")[iteration, 0], rtol=5e-5)
        yield iteration, setup, inputs, draws, before, current, metrics
        now = {
            "gen": current.params["generator"],
            "ema": current.averages["generator"],
            "fake": current.params["fake_score"],
        }
        trajectories.assert_parameters(case, iteration, start, now)
        moved = jax.tree.leaves(current.opt["generator"])
        counts = [int(leaf) for leaf in moved if leaf.ndim == 0]
        steps = case.exact("optimizer_steps")[: iteration + 1, 1].sum()
        assert all(count == steps for count in counts), (counts, steps)
    assert int(current.images) == case.exact("nimg_after")[-1]
