"""SiD on CIFAR-10 from the tiny teacher that is shipped: photographs on a CPU, in minutes.

    python -m diffjax.main --config=configs/sid_cifar_tiny.py

The teacher is diffjax/assets/cifar_tiny, which configs/teacher_cifar_tiny.py trained. The rates are
for a few hundred updates; the published 1e-5 are for hundreds of thousands.
Hardware: two CPU cores, or a GPU (there with --config.batch_size=256 --config.dtype=bfloat16
--config.updates_per_call=50, and lower rates). docs/results has what was measured.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """Class-conditional, 320 updates of 32 images."""
    config = bases.distillation("sid")
    config.teacher = "cifar_tiny"
    config.generator.learning_rate = 1e-4
    config.fake_score.learning_rate = 4e-4
    config.batch_size = 32
    config.duration_kimg = 10.24
    config.ema_halflife_kimg = 0.5
    config.updates_per_call = 1
    config.log_kimg = 0.32
    config.grid_kimg = 1.28
    config.grid.update(rows=10, columns=10)
    config.checkpoint_kimg = 2.56
    config.evaluate.reference = "cifar10-32x32"
    config.sample.batch_size = 128
    return config
