"""FGM on CIFAR-10 without classes (Huang et al., Flow Generator Matching, 2024).

    python -m diffjax.main --config=configs/fgm_cifar.py

Only the FID is published, of a teacher trained by flow matching; here it is EDM's, read as a flow.
Chosen here: init_sigma, batch, learning rates, EMA, dropout, augmentation and duration as in
SiD's CIFAR-10 run (configs/sid_cifar.py). No one has reported a run of these.
Hardware: 4 GPUs of 80 GB or 4 TPU chips, 64 images each; on one, `--config.accumulation=4`.
Time: that of SiD, whose passes it has; docs/performance has rates.
Result: FID 3.08 in one evaluation (the paper's, of another teacher), as later papers quote it, not
measured here and not promised for these settings.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """FGM with settings chosen here."""
    config = bases.distillation("fgm")
    config.teacher = "edm-cifar10-32x32-uncond-vp"
    config.dropout = 0.13
    config.augment_probability = 0.12
    config.init_sigma = 2.5
    config.generator.learning_rate = config.fake_score.learning_rate = 1e-5
    config.batch_size = 256
    config.duration_kimg = 500_000.0
    config.ema_halflife_kimg = 500.0
    config.evaluate.reference = "cifar10-32x32"
    return config
