"""SiD on scikit-learn's 8x8 digits, from the teacher that is shipped: the default job.

    python -m diffjax.main --config=configs/sid_digits.py

Hardware: a CPU, for minutes. docs/results has what was measured.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """The default job: offline, on a CPU, in minutes."""
    config = bases.distillation("sid")
    config.teacher = "digits"
    config.generator.learning_rate = 1e-4
    config.fake_score.learning_rate = 4e-4
    config.batch_size = 64
    config.duration_kimg = 64.0
    config.ema_halflife_kimg = 5.0
    config.updates_per_call = 1
    config.log_kimg = 1.28
    config.grid_kimg = 12.8
    config.grid.update(rows=10, columns=10)
    config.checkpoint_kimg = 25.6
    config.evaluate.update(reference="digits", features="pixels", count=1797, batch_size=600)
    config.evaluate.update(metrics=("fd", "precision", "recall"), best="fd", every_kimg=32.0)
    config.sample.batch_size = 128
    return config
