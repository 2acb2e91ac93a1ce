"""SMD on ImageNet 64x64 with classes (Jayashankar et al., Score-of-Mixture Training, ICML 2025).

    python -m diffjax.main --config=configs/smd_imagenet64.py

The settings are those of the authors' paper and released code, arXiv:2502.09609. It compares with
real images: imagenet-64x64.zip is what EDM's dataset_tool makes of the data set. No average is
kept, so that its half-life is one image. Of 200,000 iterations (their scripts say 400,000) every
fifth moves the generator. Dropout isn't told; here it is 0.
Hardware: published on 7 GPUs, 40 images each.
Time: not measured; an update has one of the generator and five of the fake score.
Result: FID 1.48 in one evaluation (the teacher: 1.36 in 511): the paper's, not measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SMD's published settings."""
    config = bases.distillation("smd")
    config.teacher = "edm-imagenet-64x64-cond-adm"
    config.data = "imagenet-64x64.zip"
    config.head_channels = 768
    config.generator.learning_rate = config.fake_score.learning_rate = 2e-6
    config.dtype = "bfloat16"
    config.init_sigma = 80.0
    config.batch_size = 280
    config.duration_kimg = 11_200.0
    config.ema_halflife_kimg = 0.001
    config.heun.update(steps=256, s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003)
    config.evaluate.reference = "imagenet-64x64"
    config.updates_per_call = 1
    config.log_kimg = 28.0
    config.grid_kimg = 140.0
    config.checkpoint_kimg = 1400.0
    return config
