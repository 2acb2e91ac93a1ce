"""SiD on CIFAR-10 with classes, a student of four steps (few-step SiD, Zhou et al. 2025).

    python -m diffjax.main --config=configs/sid_cifar_cond_4step.py

The settings are sid_cifar_cond's, and of the steps our own: those of few-step SiD aren't known.
Hardware: 4 GPUs of 80 GB or 4 TPU chips, 64 images each; on one, `--config.accumulation=4`.
Time: a sample in training takes three evaluations more than sid_cifar_cond's.
Result: none is published, and none was measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SiD's published settings, and four steps, at noise levels 2.5, 1.875, 1.25, 0.625."""
    config = bases.distillation("sid")
    config.teacher = "edm-cifar10-32x32-cond-vp"
    config.dropout = 0.13
    config.augment_probability = 0.12
    config.alpha = 1.2
    config.init_sigma = 2.5
    config.generator.steps = 4
    config.generator.learning_rate = config.fake_score.learning_rate = 1e-5
    config.batch_size = 256
    config.duration_kimg = 800_000.0
    config.ema_halflife_kimg = 500.0
    config.evaluate.reference = "cifar10-32x32"
    config.grid.update(rows=10, columns=10)
    return config
