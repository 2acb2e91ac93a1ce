"""Refine the GAN that dropped modes, by either method: half a minute on two CPU cores.

python -m diffjax.main --config=examples/dropped_modes_config.py:diff_instruct
python -m diffjax.main --config=examples/dropped_modes_config.py:sid
"""

from eight_gaussians_config import get_config as eight_gaussians
from ml_collections import ConfigDict


def get_config(method: str = "diff_instruct") -> ConfigDict:
    """Settings of the eight Gaussians, another student and another fake score."""
    config = eight_gaussians(method)
    config.teacher = "dropped_modes:teacher"
    config.student = "dropped_modes:generator"
    config.fake_score.network = "dropped_modes:fake_score"
    config.generator.frozen_kimg = 12.8  # a fresh fake score first learns what the GAN draws
    config.duration_kimg = 512.0
    config.generator.decay_kimg = 256.0
    config.ema_halflife_kimg = 20.0
    return config
