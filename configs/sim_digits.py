"""SIM on scikit-learn's 8x8 digits, from the teacher that is shipped.

    python -m diffjax.main --config=configs/sim_digits.py

The generator asks its network where SiD's does. Hardware: a CPU, for minutes.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """Offline, on a CPU, in minutes."""
    config = bases.distillation("sim")
    config.teacher = "digits"
    config.generator.learning_rate = 1e-4
    config.fake_score.learning_rate = 4e-4
    config.batch_size = 128
    config.duration_kimg = 102.4
    config.ema_halflife_kimg = 5.0
    config.updates_per_call = 1
    config.log_kimg = 1.28
    config.grid_kimg = 12.8
    config.grid.update(rows=10, columns=10)
    config.checkpoint_kimg = 25.6
    config.evaluate.update(reference="digits", features="pixels", count=1797, batch_size=600)
    config.evaluate.update(metrics=("fd", "precision", "recall"), best="fd", every_kimg=51.2)
    config.sample.batch_size = 128
    return config
