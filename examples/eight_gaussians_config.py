"""Distil the teacher of eight Gaussians, by either method: a minute or two on two CPU cores.

python -m diffjax.main --config=examples/eight_gaussians_config.py:sid
python -m diffjax.main --config=examples/eight_gaussians_config.py:diff_instruct
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config(method: str = "sid") -> ConfigDict:
    """Settings for a small network; published ones are for large U-Nets."""
    config = bases.distillation(method)
    config.teacher = "eight_gaussians:teacher"
    config.init_sigma = 0.4  # a copy of the teacher begins with sharp borders between modes
    config.generator.update(learning_rate=1e-3, b1=0.5, decay_kimg=1700.0)
    config.fake_score.update(learning_rate=1e-3, b1=0.9, updates=2)
    if method == "sid":
        config.alpha = 0.5
        config.generator.learning_rate = 5e-4
    config.batch_size = 256
    config.duration_kimg = 2048.0
    config.ema_halflife_kimg = 100.0  # as the modes' weights sway
    config.ema_rampup = 0.0
    config.updates_per_call = 100
    config.log_kimg = 51.2
    config.grid_kimg = 512.0
    config.checkpoint_kimg = 512.0
    config.evaluate.update(reference="eight_gaussians:reference", metrics=("swd", "moments"))
    config.evaluate.update(count=10_000, batch_size=1000, best="swd")
    return config
