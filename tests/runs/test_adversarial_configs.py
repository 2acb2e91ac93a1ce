"""Published settings of configs that compare with real images."""

import runpy
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[2] / "configs"

# alpha, rate, batch, Mimg, half-life in kimg, dropout, augmentation, epsilon.
SIDA = {
    "sida_cifar": (1.0, 1e-5, 256, 300, 500, 0.13, 0.12, 1e-8),
    "sida_cifar_cond": (1.0, 1e-5, 256, 300, 500, 0.13, 0.12, 1e-8),
    "sida_imagenet64": (1.0, 4e-6, 8192, 300, 2000, 0.1, 0.0, 1e-6),
    "sida_ffhq64": (1.0, 1e-5, 512, 200, 500, 0.05, 0.15, 1e-6),
    "sida_afhqv2_64": (1.0, 5e-6, 512, 200, 500, 0.05, 0.15, 1e-6),
}


def load(name):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()


@pytest.mark.parametrize("name", SIDA)
def test_sida(name):
    config = load(name)
    generator, fake_score = config.generator, config.fake_score
    assert (
        config.alpha,
        generator.learning_rate,
        config.batch_size,
        config.duration_kimg / 1000,
        config.ema_halflife_kimg,
        config.dropout,
        config.augment_probability,
        generator.eps,
    ) == SIDA[name]
    assert (fake_score.learning_rate, fake_score.eps) == (generator.learning_rate, generator.eps)
    assert (generator.b1, fake_score.b1, generator.b2, fake_score.b2) == (0, 0, 0.999, 0.999)
    assert (config.init_sigma, config.t_max, config.gan_from_kimg) == (2.5, 800, 200)
    assert (generator.frozen_kimg, generator.loss_scale, fake_score.loss_scale) == (100, 100, 1)
    # 0.01 of 100 in the released code, which scales both.
    assert generator.gan_scale * generator.loss_scale == pytest.approx(0.01)
    assert (fake_score.gan_scale, fake_score.max_grad_value, fake_score.updates) == (1, 1, 1)
    assert config.data == f"{config.evaluate.reference}.zip"


def test_dmd2():
    config = load("dmd2_imagenet64")
    assert (config.batch_size, config.init_sigma, config.head_channels) == (7 * 40, 80, 768)
    assert config.duration_kimg * 1000 == 193_500 / 5 * config.batch_size
    for learner in (config.generator, config.fake_score):
        assert (learner.learning_rate, learner.b1, learner.b2) == (2e-6, 0.9, 0.999)
        assert (learner.weight_decay, learner.max_grad_norm) == (0.01, 10)
    assert (config.generator.gan_scale, config.fake_score.gan_scale) == (3e-3, 1e-2)
    assert (config.fake_score.updates, config.share_samples, config.noised_gan) == (5, True, True)
