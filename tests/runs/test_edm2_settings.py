"""How configs say that networks of EDM2 are trained, and what is refused."""

import re
import runpy
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.runs import bases, building, checks, networks
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


def test_the_rate_falls_with_the_root_of_the_updates():
    made = bases.with_edm2(bases.denoising(), decay_updates=4.0)
    made.optimizer.update(learning_rate=0.01, rampup_kimg=2 * made.batch_size / 1000)
    rate = building._learning_rate(made, made.optimizer, 0.01)
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
