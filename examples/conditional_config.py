"""Distil the teacher of the blobs with a condition, by either method: a minute on two CPU cores.

python -m diffjax.main --config=examples/conditional_config.py:sid
python -m diffjax.main --config=examples/conditional_config.py:diff_instruct
"""

from eight_gaussians_config import get_config as eight_gaussians
from ml_collections import ConfigDict


def get_config(method: str = "sid") -> ConfigDict:
    """Settings of the eight Gaussians, and half the images."""
    config = eight_gaussians(method)
    config.teacher = "conditional:teacher"
    config.evaluate.reference = "conditional:reference"
    config.duration_kimg = 1024.0
    config.generator.decay_kimg = 800.0
    config.ema_halflife_kimg = 20.0
    return config
