"""SIM on CIFAR-10 without classes (Luo et al., Score Implicit Matching, NeurIPS 2024).

    python -m diffjax.main --config=configs/sim_cifar.py

Published are init_sigma, in the authors' code, which samples only, and the FID. Chosen here: what
the distance is of, its c, noise levels as in SiD; batch, learning rates, EMA, dropout, augmentation
and duration as in SiD's CIFAR-10 run (configs/sid_cifar.py). No one has reported a run of these.
Hardware: 4 GPUs of 80 GB or 4 TPU chips, 64 images each; on one, `--config.accumulation=4`.
Time: that of SiD, whose passes it has; docs/performance has rates.
Result: FID 2.06 in one evaluation (the teacher: 1.97 in 35): the paper's, not measured here and not
promised for these settings.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SIM with settings chosen here."""
    config = bases.distillation("sim")
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
