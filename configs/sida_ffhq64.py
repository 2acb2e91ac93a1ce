"""SiDA on FFHQ 64x64 (Zhou et al., ICLR 2025, arXiv:2410.14919).

    python -m diffjax.main --config=configs/sida_ffhq64.py

The settings are those of the authors' released code. It compares with real images:
ffhq-64x64.zip is what EDM's dataset_tool makes of the data set.
Published in float16; here bfloat16 computes, with the published epsilon of 1e-6.
Hardware: as for SiD on these data, which the config of that name says.
Time: not measured; an update is SiD's, and the fake score looks at real images too.
For SiD²A start from a SiD student of this teacher, `--config.generator.initial`, for 100 Mimg.
Result: FID 1.040 in one evaluation, of SiD²A (the teacher: 2.39 in 79): the paper's, not
measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SiDA's published settings."""
    config = bases.distillation("sida")
    config.teacher = "edm-ffhq-64x64-uncond-vp"
    config.data = "ffhq-64x64.zip"
    config.dropout = 0.05
    config.augment_probability = 0.15
    config.alpha = 1.0
    config.init_sigma = 2.5
    config.generator.learning_rate = config.fake_score.learning_rate = 1e-5
    config.batch_size = 512
    config.duration_kimg = 200_000.0
    config.ema_halflife_kimg = 500.0
    config.evaluate.reference = "ffhq-64x64"
    config.generator.eps = config.fake_score.eps = 1e-6
    config.dtype = "bfloat16"
    config.accumulation = 2
    config.heun.steps = 40
    return config
