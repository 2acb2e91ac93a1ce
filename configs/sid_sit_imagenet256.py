"""SiD on ImageNet 256x256 with classes, of SiT-XL/2 (Ma et al., arXiv:2401.08740).

    python -m diffjax.main --config=configs/sid_sit_imagenet256.py

No settings of SiD on this network are published. These are our own: SiD's for images with alpha 1,
in bfloat16 with its epsilon of 1e-6, and a shorter run. The network is of latents, [32, 32, 4], of
Stable Diffusion's autoencoder times 0.18215, which config.decoder undoes. The teacher isn't guided.
imagenet-256x256.zip are 256-pixel images as EDM2's dataset_tool writes them.
Hardware: 8 devices of 80 GB, 16 latents each in a round: 45 GiB on one H200
  with attention = "cudnn", at 132 latents/s; 32 each, 62 GiB, at 144.
Time: not measured; on one H200 it would be 4.0 to 4.4 days, of its updates alone.
Result: not known; the teacher's FID with guidance is 2.06 by its paper.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SiD's settings for images, alpha 1, of a larger batch."""
    config = bases.distillation("sid")
    config.teacher = "sit-xl-2-256"
    config.alpha = 1.0
    config.init_sigma = 2.5
    config.generator.learning_rate = config.fake_score.learning_rate = 1e-5
    config.generator.eps = config.fake_score.eps = 1e-6
    config.dtype = "bfloat16"
    config.batch_size = 1024
    config.accumulation = 8
    config.duration_kimg = 50_000.0
    config.ema_halflife_kimg = 1000.0
    config.heun.steps = 32
    config.evaluate.reference = "imagenet-256x256.zip"
    config.updates_per_call = 4
    config.log_kimg = 32.768
    config.checkpoint_kimg = 2048.0
    return config
