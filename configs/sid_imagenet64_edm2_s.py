"""SiD on ImageNet 64x64 with classes, of EDM2-S: settings from 512x512.

    python -m diffjax.main --config=configs/sid_imagenet64_edm2_s.py

Nothing is published for SiD on these networks. The settings are those of its authors' code for
EDM2's latents of ImageNet 512x512 (Zhou et al., arXiv:2410.14919), and the fake score's noise
levels those with which EDM2 trained the teacher. Dropout is the teacher's.
Hardware: 8 devices, 64 images each in a round of accumulation.
Time: 184 images/s on one H200, 64 in a round (docs/performance); it was not run here.
Result: none; the teacher's FID is 1.58 in 63 evaluations.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SiD's settings for EDM2's latents, alpha 1."""
    config = bases.with_edm2(bases.distillation("sid"), p_mean=-0.8, p_std=1.6)
    config.teacher = "edm2-img64-s-fid"
    config.alpha = 1.0
    config.init_sigma = 2.5
    config.generator.learning_rate = config.fake_score.learning_rate = 5e-5
    config.generator.eps = config.fake_score.eps = 1e-6
    config.dtype = "bfloat16"
    config.batch_size = 2048
    config.accumulation = 4
    config.duration_kimg = 200_000.0
    config.ema_halflife_kimg = 2000.0
    config.heun.steps = 32
    config.evaluate.reference = "imagenet-64x64"
    config.updates_per_call = 4
    config.log_kimg = 32.768
    config.checkpoint_kimg = 4915.2
    return config
