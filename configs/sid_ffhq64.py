"""SiD on FFHQ 64x64 (Zhou et al., Score identity Distillation, ICML 2024).

    python -m diffjax.main --config=configs/sid_ffhq64.py

The settings are those of the authors' released code. The generator's Adam has b1 = 0.9 here, unlike
everywhere else. Published in float16; here bfloat16 computes and parameters are float32, with the
published epsilon for half precision, 1e-6.
Hardware: 8 GPUs of 80 GB or 8 TPU chips, 32 images each in a round of accumulation.
Time: 0.92 TFLOP an image, 4.6e20 in all: 3 days on 8 devices if each sustains 200 TFLOP/s, which is
assumed, not measured.
Result: FID 1.550 in one evaluation (the teacher: 2.39 in 79): the paper's, not measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SiD's published settings, alpha 1.2."""
    config = bases.distillation("sid")
    config.teacher = "edm-ffhq-64x64-uncond-vp"
    config.dropout = 0.05
    config.augment_probability = 0.15
    config.alpha = 1.2
    config.init_sigma = 2.5
    config.generator.learning_rate = config.fake_score.learning_rate = 1e-5
    config.generator.b1 = 0.9
    config.generator.eps = config.fake_score.eps = 1e-6
    config.dtype = "bfloat16"
    config.batch_size = 512
    config.accumulation = 2
    config.duration_kimg = 500_000.0
    config.ema_halflife_kimg = 500.0
    config.heun.steps = 40
    config.evaluate.reference = "ffhq-64x64"
    return config
