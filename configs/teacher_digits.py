"""An EDM teacher on scikit-learn's 8x8 digits: remakes the one that is shipped.

    python -m diffjax.main --config=configs/teacher_digits.py

The network is written to `runs/teacher_digits/network`, whose path a config can name as teacher.
Hardware: a CPU, or any accelerator (there with --config.updates_per_call=100), for minutes.
docs/results has what was measured.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """A class-conditional DDPM++ of 0.19M parameters."""
    config = bases.denoising()
    config.dataset = "digits"
    config.conditional = True
    config.network.update(model_channels=16, channel_mult=(1, 2), num_blocks=1)
    config.network.update(attn_resolutions=(4,), augment_dim=0, dropout=0.0)
    config.optimizer.rampup_kimg = 10.0
    config.dtype = "float32"
    config.batch_size = 128
    config.duration_kimg = 1024.0
    config.ema_halflife_kimg = 50.0
    config.updates_per_call = 1
    config.log_kimg = 12.8
    config.grid_kimg = config.checkpoint_kimg = 256.0
    config.evaluate.update(reference="digits", features="pixels", count=1797, batch_size=600)
    config.evaluate.update(metrics=("fd", "precision", "recall"), best="fd", every_kimg=256.0)
    config.sample.batch_size = 128
    return config
