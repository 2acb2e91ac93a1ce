"""SiD on ImageNet 64x64 with classes, a student of four steps (few-step SiD, Zhou et al. 2025).

    python -m diffjax.main --config=configs/sid_imagenet64_4step.py

The settings are sid_imagenet64's, and of the steps our own: those of few-step SiD aren't known.
Hardware: 8 GPUs of 80 GB, 16 images each in a round of accumulation; on 64 devices
`--config.accumulation=8` does the same. `--config.attention=cudnn` leaves memory for larger rounds.
Time: a sample in training takes three evaluations more than sid_imagenet64's.
Result: none is published, and none was measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SiD's published settings, and four steps, at noise levels 2.5, 1.875, 1.25, 0.625."""
    config = bases.distillation("sid")
    config.teacher = "edm-imagenet-64x64-cond-adm"
    config.dropout = 0.1
    config.alpha = 1.2
    config.init_sigma = 2.5
    config.generator.steps = 4
    config.generator.learning_rate = config.fake_score.learning_rate = 4e-6
    config.generator.eps = config.fake_score.eps = 1e-6
    config.dtype = "bfloat16"
    config.batch_size = 8192
    config.accumulation = 64
    config.duration_kimg = 1_000_000.0
    config.ema_halflife_kimg = 2000.0
    config.heun.update(steps=256, s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003)
    config.evaluate.reference = "imagenet-64x64"
    config.updates_per_call = 4
    config.log_kimg = 32.768
    config.checkpoint_kimg = 4915.2
    return config
