"""DMD2 on ImageNet 64x64 with classes (Yin et al., NeurIPS 2024, arXiv:2405.14867).

    python -m diffjax.main --config=configs/dmd2_imagenet64.py

The settings are those of the authors' released code with the adversarial term from the start. It
compares with real images: imagenet-64x64.zip is what EDM's dataset_tool makes of the data set. No
average is kept, so that its half-life is one image. Dropout isn't told; here it is 0.
Hardware: published on 7 GPUs, 40 images each.
Time: not measured; an update has one of the generator and five of the fake score.
Result: FID 1.51 in one evaluation (the teacher: 1.36 in 511) after 193,500 iterations, every
fifth of which moves the generator: the paper's, not measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """DMD2's published settings."""
    config = bases.distillation("dmd2")
    config.teacher = "edm-imagenet-64x64-cond-adm"
    config.data = "imagenet-64x64.zip"
    config.init_sigma = 80.0
    config.head_channels = 768
    for learner in (config.generator, config.fake_score):
        learner.learning_rate = 2e-6
        learner.rampup_kimg = 140.0 / 5  # 500 of their updates
    config.dtype = "bfloat16"
    config.batch_size = 280
    config.duration_kimg = 10_836.0
    config.ema_halflife_kimg = 0.001
    config.heun.update(steps=256, s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003)
    config.evaluate.reference = "imagenet-64x64"
    config.updates_per_call = 1
    config.log_kimg = 28.0
    config.grid_kimg = 140.0
    config.checkpoint_kimg = 1400.0
    return config
