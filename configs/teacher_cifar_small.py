"""A quarter of EDM's CIFAR-10 teacher: DDPM++ with 64 base channels.

    python -m diffjax.main --config=configs/teacher_cifar_small.py

Its data set, cifar10-32x32.zip, is what EDM's dataset_tool.py makes; --config.dataset=tfds:cifar10
does as well. The rates are for a run of minutes: a shorter ramp-up and a faster average.
Hardware: one GPU, or several. docs/results has what was measured, after 6.66 million images
(--config.duration_kimg=6656). The 20 million below were not run.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """14.0M parameters, unconditional."""
    config = bases.denoising()
    config.dataset = "cifar10-32x32.zip"
    config.network.update(model_channels=64, dropout=0.1)
    config.augment_probability = 0.12
    config.optimizer.rampup_kimg = 500.0
    config.duration_kimg = 20_000.0
    config.evaluate.reference = "cifar10-32x32"
    config.grid_kimg = 1024.0
    config.checkpoint_kimg = 2048.0
    return config
