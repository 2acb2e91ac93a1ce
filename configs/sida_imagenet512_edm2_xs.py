"""SiDA on ImageNet 512x512 with classes, of EDM2-XS (Zhou et al., ICLR 2025, arXiv:2410.14919).

    python -m diffjax.main --config=configs/sida_imagenet512_edm2_xs.py

The settings are those of the authors' released code. The network is of latents, [64, 64, 4], and it
compares with real ones: img512-sd.zip is what EDM2's `dataset_tool.py encode` makes of them.
Published in float16; here bfloat16 computes, with the published epsilon of 1e-6.
Measures are of pictures, which need a decoder of latents; imagenet-512x512.zip are 512-pixel images
as EDM2's dataset_tool writes them.
Hardware: 8 devices, 64 latents each in a round, as in the authors' runs; not measured.
Time: not measured; it was not run here.
For SiD²A start from a SiD student of this teacher, `--config.generator.initial`.
Result: FID 2.156 in one evaluation is the best of SiDA and SiD²A, by the authors' README; not
measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SiDA's published settings for EDM2."""
    config = bases.with_edm2(bases.distillation("sida"))
    config.teacher = "edm2-img512-xs-fid"
    config.data = "img512-sd.zip"
    config.alpha = 1.0
    config.init_sigma = 2.5
    config.generator.learning_rate = config.fake_score.learning_rate = 5e-5
    config.generator.eps = config.fake_score.eps = 1e-6
    config.fake_score.gan_scale = 100.0
    config.fake_score.max_grad_value = 0.0
    config.dtype = "bfloat16"
    config.batch_size = 2048
    config.accumulation = 4
    config.duration_kimg = 200_000.0
    config.ema_halflife_kimg = 2000.0
    config.heun.steps = 32
    config.evaluate.reference = "imagenet-512x512.zip"
    config.updates_per_call = 1
    config.log_kimg = 32.768
    config.checkpoint_kimg = 4915.2
    return config
