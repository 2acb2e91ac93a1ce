"""SiD on scikit-learn's 8x8 digits: a student of two steps, of a guided teacher.

    python -m diffjax.main --config=configs/sid_2step_guided_digits.py

The settings are sid_digits's, and of steps and guidance our own. The teacher that is shipped has
learnt no answer without a class: zeros in its place ask a weaker denoiser, as autoguidance does.
Hardware: a CPU, for minutes. docs/guides/steps-and-guidance.md has what was measured.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """Two steps, at noise levels 2.5 and 1.25, and guidance by 1.5."""
    config = bases.distillation("sid")
    config.teacher = "digits"
    config.generator.steps = 2
    config.guidance.update(teacher=1.5, null="zeros")
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
