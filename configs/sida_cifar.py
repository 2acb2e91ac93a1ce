"""SiDA on CIFAR-10 without classes (Zhou et al., ICLR 2025, arXiv:2410.14919).

    python -m diffjax.main --config=configs/sida_cifar.py

The settings are those of the authors' released code. It compares with real images:
cifar10-32x32.zip is what EDM's dataset_tool makes of the data set.
Hardware: 4 GPUs of 80 GB or 4 TPU chips, 64 images each; on one, `--config.accumulation=4`.
Time: not measured; an update is SiD's, and the fake score looks at real images too.
For SiD²A start from a SiD student of this teacher, `--config.generator.initial`, for 100 Mimg.
Result: FID 1.52 in one evaluation (the teacher: 1.97 in 35), quoted by Uni-Instruct's authors; not
measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SiDA's published settings."""
    config = bases.distillation("sida")
    config.teacher = "edm-cifar10-32x32-uncond-vp"
    config.data = "cifar10-32x32.zip"
    config.dropout = 0.13
    config.augment_probability = 0.12
    config.alpha = 1.0
    config.init_sigma = 2.5
    config.generator.learning_rate = config.fake_score.learning_rate = 1e-5
    config.batch_size = 256
    config.duration_kimg = 300_000.0
    config.ema_halflife_kimg = 500.0
    config.evaluate.reference = "cifar10-32x32"
    return config
