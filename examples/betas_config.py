"""Distil the teacher of the spiral, by either method: a minute on two CPU cores.

python -m diffjax.main --config=examples/betas_config.py:sid
python -m diffjax.main --config=examples/betas_config.py:diff_instruct
"""

from eight_gaussians_config import get_config as eight_gaussians
from ml_collections import ConfigDict


def get_config(method: str = "sid") -> ConfigDict:
    """Settings of the eight Gaussians, and fewer images."""
    config = eight_gaussians(method)
    config.teacher = "betas:teacher"
    config.evaluate.reference = "betas:reference"
    config.duration_kimg = 512.0
    config.generator.decay_kimg = 400.0
    config.ema_halflife_kimg = 20.0
    return config
