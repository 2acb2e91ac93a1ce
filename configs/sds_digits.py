"""SDS on scikit-learn's 8x8 digits: ten points of each class, from the teacher that is shipped.

    python -m diffjax.main --config=configs/sds_digits.py

Hardware: a CPU, for a minute. docs/methods/sds.md has what comes of it.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """A table of 100 points, of which each column of a grid is a class."""
    config = bases.distillation("sds")
    config.teacher = "digits"
    config.student = "diffjax.models.points:points"
    config.generator.learning_rate = 1e-2
    config.generator.b1 = 0.9
    config.batch_size = 400
    config.duration_kimg = 240.0
    config.ema_halflife_kimg = 5.0
    config.updates_per_call = 1
    config.log_kimg = 4.0
    config.grid_kimg = 40.0
    config.grid.update(rows=10, columns=10)
    config.checkpoint_kimg = 80.0
    config.evaluate.update(reference="digits", features="pixels", count=1797, batch_size=600)
    config.evaluate.update(metrics=("fd", "precision", "recall"), best="fd", every_kimg=80.0)
    config.sample.batch_size = 128
    return config
