"""Refine the GAN of `cifar_gan.py` by a diffusion model of CIFAR-10 with classes.

python -m diffjax.main --config=examples/cifar_gan_config.py:diff_instruct
python -m diffjax.main --config=examples/cifar_gan_config.py:sid
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config(method: str = "diff_instruct") -> ConfigDict:
    """Settings for minutes on one GPU."""
    config = bases.distillation(method)
    config.teacher = "edm-cifar10-32x32-cond-vp"
    config.student = "cifar_gan:generator"
    config.dtype = "bfloat16"
    config.batch_size = 256
    config.generator.update(learning_rate=5e-4, frozen_kimg=51.2)
    config.fake_score.update(learning_rate=1e-4, max_grad_norm=1000.0)
    config.duration_kimg = 512.0
    config.ema_halflife_kimg = 20.0
    config.ema_rampup = 0.0
    config.updates_per_call = 50
    config.log_kimg = 12.8
    config.grid_kimg = 256.0
    config.checkpoint_kimg = 128.0
    config.grid.update(rows=10, columns=10)
    config.evaluate.reference = "cifar10-32x32"
    return config
