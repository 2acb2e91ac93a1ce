"""Uni-Instruct's trajectories against its released code, by the ratio that it has."""

import jax
import numpy as np
import pytest

from tests.support import compiling, golden_cases, sida_loop

DIVERGENCES = {  # by the code's names: ours, and whether the adversarial term counts
    "Forward-KL": ("forward_kl", True),
    "Jeffrey-KL": ("jeffreys", True),
    "Forward-Clean": ("forward_kl", False),
    "None": ("none", True),
}


def runs(case):
    return case.meta["options"]["divergence"] in DIVERGENCES


def of_generator(setup, inputs, draws, before, after):
    """Samples of the generator's turn, what the networks say of them, and the loss's gradient."""
    method = setup.method
    trees = {**inputs, "generator": before.params["generator"]}
    trees["fake_score"] = after.params["fake_score"]  # whose turn comes first
    of_round = jax.tree.map(lambda leaf: leaf[0, 0], draws["generator"])
    x = method.training_samples(trees, of_round)

    def loss(x):
        return method.generator_loss_scale * method.generator_loss(trees, x, of_round)[0].mean()

    y = x + of_round.sigma[:, None, None, None] * of_round.noise
    d_teacher, d_fake = (
        method.networks[name](trees[name], y, of_round.sigma, labels=of_round.labels)
        for name in ("teacher", "fake_score")
    )
    return x, d_teacher, d_fake, jax.grad(loss)(x)


@pytest.mark.parametrize(
    "name",
    golden_cases.cases(
        "trajectory",
        algo="uni_instruct",
        precond=golden_cases.PRECONDS,
        where=runs,
        slow=lambda meta: True,  # half a minute each
    ),
)
def test_trajectory(name):
    case = golden_cases.Case(name)
    options = case.meta["options"]
    divergence, is_adversarial = DIVERGENCES[options["divergence"]]
    settings = {"divergence": divergence, "ratio": "released"}
    settings["reduce_variance"] = bool(options["variance_reduction"])
    settings |= {} if is_adversarial else {"gan_scale": 0.0}
    largest = np.abs(case.exact("gen_loss")).max()
    examine = jax.jit(of_generator, static_argnums=0, compiler_options=compiling.AS_USERS)
    for iteration, setup, *trees, metrics in sida_loop.iterations(
        case, "uni_instruct", as_users=True, **settings
    ):
        before = trees[-2]
        loss = metrics["generator_loss"] * options["loss_scaling_G"]
        if int(before.images) > options["gan_from_nimg"] and is_adversarial:
            loss -= metrics["gan"] * options["loss_scaling_G_gan"]
        expected = case.exact("reported_gen_loss")[iteration]
        if divergence != "none" or int(before.images) <= options["gan_from_nimg"]:
            assert abs(loss - expected) <= 2e-4 * largest
        found = dict(
            zip(
                ("gen_images", "y_real", "y_fake", "grad_images"),
                examine(setup, *trees),
                strict=True,
            )
        )
        for key, value in found.items():
            bound = 1e-4 if key == "grad_images" else 5e-5
            expected = case.expected(key)[iteration, 0]
            assert golden_cases.relative_l2(value, expected) <= bound, (iteration, key)
