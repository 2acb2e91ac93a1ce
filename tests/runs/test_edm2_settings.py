"""How configs say that networks of EDM2 are trained, and what is refused."""

import json
import re
import runpy
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.runs import bases, building, checks, networks, optimizers
from diffjax.runs.train import train
from tests.runs.test_edm2 import config, make_teacher, steps, trained

CONFIGS = Path(__file__).parents[2] / "configs"
SIZES = ("xs", "s", "m", "l", "xl", "xxl")


def load(name):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return make_teacher(tmp_path_factory.mktemp("edm2"))


@pytest.mark.parametrize("size", SIZES)
def test_the_published_settings(size):
    """Of SiD's code for EDM2, and those in which it differs from EDM's networks."""
    made = load(f"sid_imagenet512_edm2_{size}")
    exp = building.build(made)
    assert (exp.method.p_mean, exp.method.p_std) == (-0.4, 1.0)
    assert exp.method.uncertainty_weighting
    assert set(exp.update.overwritten) == {"fake_score", "generator"}
    assert made.duration_kimg == (100_000 if size == "xxl" else 200_000)
    assert (made.batch_size, made.ema_halflife_kimg, made.alpha) == (2048, 2000, 1.0)
    rates = (made.generator.learning_rate, made.fake_score.learning_rate)
    assert (rates, made.generator.b1, made.generator.b2) == ((5e-5, 5e-5), 0.0, 0.999)
    assert made.dropout == networks.teacher(made.teacher).init_kwargs["dropout"]


@pytest.mark.parametrize("size", SIZES)
def test_the_published_settings_with_data(size):
    """SiDA's differ from SiD's in what the discriminator needs; S isn't weighted."""
    made, sid = (load(f"{method}_imagenet512_edm2_{size}") for method in ("sida", "sid"))
    shared = ("teacher", "dropout", "alpha", "init_sigma", "dtype", "batch_size", "accumulation")
    for field in (*shared, "duration_kimg", "ema_halflife_kimg"):
        assert made[field] == sid[field], field
    is_small = size == "s"
    assert made.edm2.uncertainty_weighting is made.edm2.force_normalization is not is_small
    assert (made.fake_score.gan_scale, made.fake_score.max_grad_value) == (100, 0)
    assert (made.generator.gan_scale, made.generator.loss_scale) == (1e-4, 100)
    assert (made.generator.frozen_kimg, made.gan_from_kimg) == (100, 200)
    assert made.generator.learning_rate == made.fake_score.learning_rate == 5e-5
    assert made.updates_per_call == 1  # since latents are streamed


def test_the_rate_falls_with_the_root_of_the_updates():
    made = bases.with_edm2(bases.denoising(), decay_updates=4.0)
    made.optimizer.update(learning_rate=0.01, rampup_kimg=2 * made.batch_size / 1000)
    rate = optimizers._learning_rate(made, made.optimizer, 0.01)
    seen = jnp.asarray([0, 1, 2, 4, 16], jnp.uint32) * made.batch_size
    np.testing.assert_allclose(rate(seen), [0, 0.005, 0.01, 0.01, 0.005], rtol=1e-6)


def test_settings_that_are_none():
    with pytest.raises(ValueError, match=r"edm2\.p_men is no field; there are: p_mean, p_std"):
        bases.with_edm2(bases.distillation("sid"), p_men=1.0)
    made = bases.with_edm2(bases.distillation("sid"), p_std=0.0)
    made.teacher = "digits"
    with pytest.raises(ValueError, match=r"config\.edm2\.p_std=0\.0: a positive number"):
        checks.check(made)


def test_they_are_of_edm2_alone():
    made = bases.with_edm2(bases.distillation("sid"))
    made.teacher = "digits"
    message = "config.edm2 says how networks of EDM2 are trained, and digits is another"
    with pytest.raises(ValueError, match=re.escape(message)):
        building.build(made)
    made = bases.with_edm2(bases.distillation("fgm"))
    made.teacher = "edm2-img64-s-fid"
    message = r"config\.edm2: method='fgm' doesn't train networks of EDM2 in their own way"
    with pytest.raises(ValueError, match=message):
        building.build(made)


def test_a_teacher_without_log_variance_is_not_weighted_by_it(tmp_path):
    made = load("teacher_digits")
    made = bases.with_edm2(made)
    with pytest.raises(ValueError, match=r"config\.edm2\.uncertainty_weighting=True but the"):
        building.build(made)


def test_a_run_is_weighted_and_its_weights_are_overwritten(teacher, tmp_path):
    made = bases.with_edm2(config(teacher, images_=8))
    train(made, str(tmp_path / "run"))
    assert steps(tmp_path / "run") == [1, 2]
    found = trained(tmp_path / "run")
    assert found.init_kwargs["force_normalization"] is True
    exp = building.build(bases.with_edm2(config(teacher), force_normalization=False))
    assert not exp.update.overwritten
    assert exp.method.networks["log_variance"] == exp.method.networks["fake_score"].log_variance


def test_an_edm2_is_trained_from_nothing(tmp_path):
    made = bases.with_edm2(load("teacher_digits"), decay_updates=2.0)
    made.network.update(class_name="Precond", model_type="EDM2UNet", augment_dim=0)
    made.network.update(model_channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=())
    made.optimizer.update(learning_rate=0.01, b2=0.99, rampup_kimg=0.0)
    made.batch_size, made.duration_kimg, made.updates_per_call = 8, 0.024, 1
    made.log_kimg = made.checkpoint_kimg = 0.008
    made.grid_kimg = made.evaluate.every_kimg = 0.0
    made.grid.update(rows=1, columns=2)
    made.heun.steps, made.ema_halflife_kimg, made.mesh.data = 2, 0.01, 1
    train(made, str(tmp_path / "run"))
    found = trained(tmp_path / "run")
    assert (found.init_kwargs["class_name"], found.card.kind) == ("Precond", "denoiser")
    assert found.params["params"]["out_gain"] != 0
    assert found.params["params"]["logvar"]["linear"]["kernel"].shape == (128, 1)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) and not line["skipped"] for line in lines)
    made.network.augment_dim = 9
    with pytest.raises(ValueError, match="unknown argument 'augment_dim'"):
        building.build(made)
