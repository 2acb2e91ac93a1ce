"""Diff-Instruct on CIFAR-10 without classes (Luo et al., NeurIPS 2023).

    python -m diffjax.main --config=configs/di_cifar.py

The settings are those of the authors' released code.
Hardware: 4 GPUs or TPU chips, 32 images each; on one, `--config.accumulation=4`.
Time: 0.38 TFLOP an image, 7.6e19 in all: 2 days on 4 devices if each sustains 100 TFLOP/s, which is
assumed, not measured.
Result: FID 4.53 in one evaluation (the teacher: 1.97 in 35), the published figure as later papers
quote it, not measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """Diff-Instruct's released settings."""
    config = bases.distillation("diff_instruct")
    config.teacher = "edm-cifar10-32x32-uncond-vp"
    config.dropout = 0.13
    config.augment_probability = 0.12
    config.init_sigma = 1.0
    config.generator.learning_rate = config.fake_score.learning_rate = 1e-5
    config.batch_size = 128
    config.duration_kimg = 200_000.0
    config.ema_halflife_kimg = 500.0
    config.evaluate.reference = "cifar10-32x32"
    return config
