"""Refine the DCGAN of the digits, by either method: a few minutes on two CPU cores.

python -m diffjax.main --config=examples/dcgan_config.py:diff_instruct
python -m diffjax.main --config=examples/dcgan_config.py:sid
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config(method: str = "diff_instruct") -> ConfigDict:
    """Settings for a generator that is good already: low rates, a fake score that learns first."""
    config = bases.distillation(method)
    config.teacher = "digits"
    config.student = "dcgan:generator"
    config.generator.update(learning_rate=1e-4, b1=0.5, frozen_kimg=6.4, decay_kimg=38.4)
    config.fake_score.update(learning_rate=4e-4, b1=0.9)
    if method == "sid":
        config.alpha = 1.0
    config.batch_size = 128
    config.duration_kimg = 76.8
    config.ema_halflife_kimg = 5.0
    config.updates_per_call = 1  # on a CPU convolutions within a loop are slow
    config.log_kimg = 2.56
    config.grid_kimg = 38.4
    config.grid.update(rows=10, columns=10)
    config.checkpoint_kimg = 76.8
    config.evaluate.update(reference="digits", features="pixels", count=1797, batch_size=600)
    config.evaluate.update(metrics=("fd", "precision", "recall"), best="fd", every_kimg=25.6)
    return config
