"""SiD-LSG's noise levels and weight, asked for in a config."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models
from diffjax.diffusion import noise
from diffjax.models import network_folder
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.runs import bases, building, checks
from tests.runs import test_steps_and_guidance as guided
from tests.support import dit_cases

KWARGS = {"img_resolution": 4, "img_channels": 4, "label_dim": 2, "patch_size": 2}
KWARGS |= {"hidden_size": 8, "depth": 1, "num_heads": 2}
ASKED = {
    "generator.noise_levels": "uniform_time",
    "fake_score.noise_levels": "uniform_time",
    "fake_score.weighting": "eps",
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    for name in ("SiT", "DiT"):
        kwargs = KWARGS | {"class_name": name}
        model = from_edm_kwargs(kwargs)
        network_folder.save_denoiser(folder / name, kwargs, dit_cases.weights(model))
    return folder


def config(teacher, **changes):
    made = bases.distillation("sid")
    made.teacher, made.batch_size, made.mesh.data = str(teacher), 4, 1
    return guided.set_fields(made, changes)


def test_a_tables_times_are_drawn_in_both_turns(teachers):
    method = building.build(config(teachers / "DiT", **ASKED, **{"guidance.teacher": 2.0})).method
    table = np.float32(models.Process.ddpm(betas=np.linspace(1e-4, 0.02, 1000)).table)
    for law in (method.generator_sigma(), method.fake_score_sigma()):
        assert law.indices == (20, 980)
        np.testing.assert_array_equal(law.at(np.arange(1000)), table)
    draws = jax.eval_shape(method.draw, jax.random.key(0))
    assert draws["generator"].sigma.shape == draws["fake_score"].sigma.shape == (1, 1, 4)
    plain = building.build(config(teachers / "DiT")).method
    assert isinstance(plain.generator_sigma(), noise.KarrasUniform)
    assert isinstance(plain.fake_score_sigma(), noise.LogNormal)


def test_a_flows_times_are_and_an_update_is_traced(teachers):
    exp = building.build(config(teachers / "SiT", **ASKED, time_range=(0.1, 0.5)))
    sigma = exp.method.generator_sigma()(jax.random.key(0), (4096,))
    t = np.asarray(sigma / (1 + sigma))
    low, high = 0.001 + np.asarray([0.1, 0.5]) * (0.995 - 0.001)
    assert low < t.min() < low + 0.003
    assert high - 0.003 < t.max() < high + 1e-6
    guided.traced(exp)


def test_the_fake_score_learns_the_noise(teachers):
    exp = building.build(config(teachers / "SiT", **{"fake_score.weighting": "eps"}))
    method = exp.method
    edms = dataclasses.replace(method, fake_score_weighting="edm")

    @jax.jit
    def both(params, x):
        turn = jax.tree.map(lambda leaf: leaf[0, 0], method.draw(jax.random.key(0)))["fake_score"]
        sigma = turn.sigma[:, None, None, None]
        y = x + sigma * turn.noise
        d = method.networks["fake_score"](params["fake_score"], y, turn.sigma, labels=turn.labels)
        wanted = jnp.sum(jnp.square((y - d) / sigma - turn.noise), axis=(1, 2, 3))
        return wanted, turn.sigma, *(m.fake_score_loss(params, x, turn)[0] for m in (method, edms))

    params = {"fake_score": exp.load_inputs()["teacher"]}
    wanted, sigma, of_eps, of_edm = both(params, jnp.ones((4, 4, 4, 4)) / 2)
    np.testing.assert_allclose(of_eps, wanted, rtol=1e-4)
    ratio = 1 + np.square(np.asarray(sigma) / method.sigma_data)
    np.testing.assert_allclose(of_edm, ratio * of_eps, rtol=1e-5)


@pytest.mark.parametrize(
    ("teacher", "changes", "message"),
    [
        ("digits", ASKED, r"generator\.noise_levels='uniform_time' draws .* and digits names none"),
        ("digits", {"generator.noise_levels": "lognormal"}, "known are: karras_uniform, uniform_t"),
        ("digits", {"fake_score.weighting": "v"}, r"weighting='v' is unknown; known are: edm, eps"),
        (
            "digits",
            {"time_range": (0.1, 0.9)},
            r"time_range=\(0\.1, 0\.9\) does nothing while none",
        ),
        (
            "DiT",
            {**ASKED, "time_range": (0.9, 0.1)},
            r"time_range=\(0\.9, 0\.1\): two numbers that",
        ),
        ("DiT", {**ASKED, "time_range": (0.1001, 0.1002)}, "leaves none of the 1000 times"),
        ("SiT", {**ASKED, "t_max": 400.0}, r"t_max=400\.0 does nothing while generator\.noise_lev"),
    ],
)
def test_what_can_not_be_is_told_in_one_line(teacher, changes, message, teachers):
    named = teacher if teacher == "digits" else teachers / teacher
    with pytest.raises(ValueError, match=message) as told:
        building.build(config(named, **changes))
    assert "\n" not in str(told.value)


def test_a_config_from_before_there_were_such_fields_is_as_it_was(teachers):
    made, old = config(teachers / "SiT"), config(teachers / "SiT")
    with old.unlocked():
        del old.time_range, old.generator.noise_levels
        del old.fake_score.noise_levels, old.fake_score.weighting
    assert checks.upgraded(old).to_dict() == made.to_dict()
