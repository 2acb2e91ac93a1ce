"""SiD on ImageNet 512x512 with classes, of EDM2-S (Zhou et al., arXiv:2410.14919).

    python -m diffjax.main --config=configs/sid_imagenet512_edm2_s.py

The settings are those of the authors' released code for data-free SiD. The network is of latents,
[64, 64, 4]. Published in float16; here bfloat16 computes, with the published epsilon of 1e-6.
Dropout isn't told: it is the teacher's. Measures are of pictures, which need a decoder of latents;
imagenet-512x512.zip are 512-pixel images as EDM2's dataset_tool writes them.
Hardware: 8 devices, 64 latents each in a round, as in the authors' runs with data.
Time: 184 images/s on one H200, 64 in a round (docs/performance); it was not run here.
Result: no FID of these runs is known here; the teacher's with guidance is 2.23.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SiD's published settings for EDM2, alpha 1."""
    config = bases.with_edm2(bases.distillation("sid"))
    config.teacher = "edm2-img512-s-fid"
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
    config.evaluate.reference = "imagenet-512x512.zip"
    config.updates_per_call = 4
    config.log_kimg = 32.768
    config.checkpoint_kimg = 4915.2
    return config
