"""SiD-LSG's trajectories, guided and of two steps, against its released code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion.process import Process
from diffjax.methods.draws import Batch, Draws, once
from diffjax.methods.score_distillation import asked_in
from diffjax.methods.sid import SiD
from diffjax.models import denoiser, few_steps
from diffjax.models.few_steps import StepGenerator
from diffjax.models.generator import DenoiserGenerator
from diffjax.models.guidance import Guided
from diffjax.training import ema, optimizer, state, update
from tests.support import golden_cases, trajectories


class Models:
    """Networks of a case: the stub of a text-conditional U-Net, over its process."""

    def __init__(self, case):
        options, kwargs = case.meta["options"], dict(case.kwargs)
        kwargs["img_channels"] = kwargs.pop("in_channels")
        kwargs.pop("out_channels")
        made = denoiser.from_edm_kwargs(
            {"class_name": "EDMPrecond", "model_type": "SongUNet", **kwargs}
        )
        self.network, self.weights = made.network, functools.partial(golden_cases.weights, made)
        self.process = Process.ddpm(alphas_cumprod=case.raw("alphas_cumprod"))
        predicts = {"epsilon": "eps", "v_prediction": "v"}[options["prediction_type"]]
        self.denoise = self.process.denoiser(self._called, predicts)
        self.shape = made.image_shape
        prompts = case.raw("prompt_embeddings").mean(axis=1)
        self.prompts, self.null = prompts, prompts[options["unconditional_prompt_id"]]

    def _called(self, params, x, t, cond):
        return self.network.apply(params, x, t.astype(jnp.float32), cond)

    def __call__(self, params, x, sigma, labels=None, augment_labels=None, train=False, rng=None):
        return self.denoise(params, x, sigma, labels)

    def guided(self, scale):
        return self if scale == 1 else Guided(self, scale, self.null)

    def sigma(self, timesteps):
        return self.process.sigma(jnp.asarray(timesteps, jnp.int32))

    def generator(self, options):
        init_sigma = float(self.sigma(options["init_timestep"]))
        if options["num_steps"] == 1:
            return DenoiserGenerator(self, init_sigma)
        sigmas = few_steps.spaced(self.process, init_sigma, options["num_steps"])
        return StepGenerator(self, sigmas, outputs="last", backward="all_steps")


def nhwc(array):
    return jnp.asarray(np.moveaxis(array, -3, -1))


def replayed(case, method, iteration):
    """The recorded draws of an iteration, as the update takes them."""
    prompts = method.networks["fake_score"].prompts
    levels = {"fake": method.fake_score_sigma(), "gen": method.generator_sigma()}
    ids = case.raw("prompt_ids")[iteration]
    has_dropout = "fake_prompt_ids_used" in case
    used = {"fake": case.raw("fake_prompt_ids_used")[iteration] if has_dropout else ids[0]}
    used["gen"] = ids[1]

    def turn(prefix):
        z = nhwc(case.raw(f"{prefix}_z")[iteration])
        if case.meta["options"]["num_steps"] > 1:
            # [R, K - 1, B, ...], as the code draws it.
            later = jnp.moveaxis(nhwc(case.raw(f"{prefix}_step_noise")[iteration]), 1, 2)
            z = {"first": z, "later": later}
        times, options = case.raw(f"{prefix}_timesteps")[iteration], case.meta["options"]
        assert levels[prefix].indices == (options["tmin"], options["tmax"])
        draws = Draws(
            z=z,
            sigma=levels[prefix].at(times),
            noise=nhwc(case.raw(f"{prefix}_noise")[iteration]),
            labels=jnp.asarray(prompts[used[prefix]]),
            dropout=jax.random.split(jax.random.key(0), len(ids[0])),
        )
        return once(draws)

    return {"fake_score": turn("fake"), "generator": turn("gen")}


def build(case, models):
    """The update that a case's options describe."""
    options = case.meta["options"]
    method = SiD(
        networks={
            "teacher": models.guided(options["kappa4"]),
            "fake_score": models,
            asked_in("fake_score"): models.guided(options["kappa1"]),
            asked_in("generator"): models.guided(options["kappa2_3"]),
            "generator": models.generator(options),
        },
        batch=Batch(models.shape, options["batch_gpu"] * options["rounds"], options["rounds"]),
        alpha=options["alpha"],
        fake_score_loss_scale=options["loss_scaling"],
        generator_loss_scale=options["loss_scaling_G"],
        generator_levels="uniform_time",
        fake_score_levels="uniform_time",
        fake_score_weighting="eps",
    )
    b1, b2 = options["betas"]
    return update.Update(
        method=method,
        optimizers={
            "fake_score": optimizer.adam(options["lr"], b1=b1, b2=b2, eps=options["eps"]),
            "generator": optimizer.adam(options["glr"], b1=b1, b2=b2, eps=options["eps"]),
        },
        averages=ema.Averages(
            options["ema_halflife_kimg"] * 1000, options["ema_rampup_ratio"] or None
        ),
    )


def assert_generators_turn(case, models, iteration, params, draws, method):
    """Compare samples, both scores and the gradient of the samples, a round at a time."""
    options = case.meta["options"]
    method = method.in_turn_of("generator")
    size = options["batch_gpu"] * options["rounds"]
    each = jax.tree.map(lambda leaf: leaf[0], draws["generator"])

    @jax.jit
    def turn(params, draws):
        x = method.training_samples(params, draws)
        y = x + draws.sigma[:, None, None, None] * draws.noise
        asked = {
            name: method.networks[name](params[name], y, draws.sigma, labels=draws.labels)
            for name in ("teacher", "fake_score")
        }

        def loss(x):
            return (
                options["loss_scaling_G"] / size * method.generator_loss(params, x, draws)[0].sum()
            )

        return x, asked["teacher"], asked["fake_score"], jax.grad(loss)(x)

    for index in range(options["rounds"]):
        found = turn(params, jax.tree.map(lambda leaf, i=index: leaf[i], each))
        names = ("gen_images", "y_real", "y_fake", "grad_images")
        for name, value, bound in zip(names, found, (5e-5, 2e-4, 2e-4, 5e-4), strict=True):
            expected = np.moveaxis(case.exact(name)[iteration][index], -3, -1)
            assert golden_cases.relative_l2(value, expected) <= bound, (iteration, name)


CASES = golden_cases.cases("lsg_trajectory", slow=lambda meta: True)


@pytest.mark.parametrize("name", CASES)
def test_trajectory(name):
    case = golden_cases.Case(name)
    options, models = case.meta["options"], Models(case)
    setup = build(case, models)
    prefixes = case.meta["prefixes"]
    teacher, fake, generator = (models.weights(prefixes[each]) for each in ("true", "fake", "gen"))
    start = {"gen": generator, "ema": generator, "fake": fake}
    current = state.create(
        {"fake_score": fake, "generator": generator}, setup.optimizers, setup.averaged
    ).replace(images=jnp.uint32(options["start_nimg"]))
    step = jax.jit(setup)
    largest = np.abs(case.exact("gen_loss").sum(axis=1)).max()
    for iteration in range(len(case.raw("gen_z"))):
        draws, before = replayed(case, setup.method, iteration), current.params
        current, metrics = step(current, {"teacher": teacher}, draws)
        params = {**current.params, "teacher": teacher, "generator": before["generator"]}
        assert_generators_turn(case, models, iteration, params, draws, setup.method)
        expected = case.exact("fake_loss")[iteration].sum()
        np.testing.assert_allclose(
            metrics["fake_loss"] * options["loss_scaling"], expected, rtol=3e-5
        )
        expected = case.exact("gen_loss")[iteration].sum()
        difference = abs(metrics["generator_loss"] * options["loss_scaling_G"] - expected)
        assert difference <= 2e-4 * largest
        now = {
            "gen": current.params["generator"],
            "ema": current.averages["generator"],
            "fake": current.params["fake_score"],
        }
        trajectories.assert_parameters(case, iteration, start, now)
    assert int(current.images) == case.exact("nimg_after")[-1]
