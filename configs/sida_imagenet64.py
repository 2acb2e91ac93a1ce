"""SiDA on ImageNet 64x64 with classes (Zhou et al., ICLR 2025, arXiv:2410.14919).

    python -m diffjax.main --config=configs/sida_imagenet64.py

The settings are those of the authors' released code. It compares with real images:
imagenet-64x64.zip is what EDM's dataset_tool makes of the data set.
Published in float16; here bfloat16 computes, with the published epsilon of 1e-6.
Hardware: as for SiD on these data, which the config of that name says.
Time: not measured; an update is SiD's, and the fake score looks at real images too.
For SiD²A start from a SiD student of this teacher, `--config.generator.initial`, for 100 Mimg.
Result: FID 1.35 in one evaluation (the teacher: 1.36 in 511), quoted by Uni-Instruct's authors; not
measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SiDA's published settings."""
    config = bases.distillation("sida")
    config.teacher = "edm-imagenet-64x64-cond-adm"
    config.data = "imagenet-64x64.zip"
    config.dropout = 0.1
    config.augment_probability = 0.0
    config.alpha = 1.0
    config.init_sigma = 2.5
    config.generator.learning_rate = config.fake_score.learning_rate = 4e-6
    config.batch_size = 8192
    config.duration_kimg = 300_000.0
    config.ema_halflife_kimg = 2000.0
    config.evaluate.reference = "imagenet-64x64"
    config.generator.eps = config.fake_score.eps = 1e-6
    config.dtype = "bfloat16"
    config.accumulation = 64
    config.heun.update(steps=256, s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003)
    config.updates_per_call = 1
    config.log_kimg = 32.768
    config.checkpoint_kimg = 4915.2
    return config
