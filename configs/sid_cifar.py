"""SiD on CIFAR-10 without classes (Zhou et al., Score identity Distillation, ICML 2024).

    python -m diffjax.main --config=configs/sid_cifar.py

The settings are those of the authors' released code.
Hardware: 4 GPUs of 80 GB or 4 TPU chips, 64 images each; on one, `--config.accumulation=4`.
Time: docs/performance has rates. 100 Mimg already come close to the result.
Result: FID 1.923 in one evaluation (the teacher: 1.97 in 35): the paper's, not measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SiD's published settings, alpha 1.2."""
    config = bases.distillation("sid")
    config.teacher = "edm-cifar10-32x32-uncond-vp"
    config.dropout = 0.13
    config.augment_probability = 0.12
    config.alpha = 1.2
    config.init_sigma = 2.5
    config.generator.learning_rate = config.fake_score.learning_rate = 1e-5
    config.batch_size = 256
    config.duration_kimg = 500_000.0
    config.ema_halflife_kimg = 500.0
    config.evaluate.reference = "cifar10-32x32"
    return config
