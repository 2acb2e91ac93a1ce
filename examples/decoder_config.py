"""Distil the teacher of the signals into a decoder, by either method: a minute on two CPU cores.

python -m diffjax.main --config=examples/decoder_config.py:sid
python -m diffjax.main --config=examples/decoder_config.py:diff_instruct
"""

from ml_collections import ConfigDict
from signals_config import get_config as signals


def get_config(method: str = "sid") -> ConfigDict:
    """Settings of the signals' own student, and twice the images: a fresh student knows nothing."""
    config = signals(method)
    config.student = "decoder:generator"
    config.duration_kimg = 1024.0
    config.generator.decay_kimg = 800.0
    return config
