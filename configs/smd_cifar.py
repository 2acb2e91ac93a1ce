"""SMD on CIFAR-10 without classes (Jayashankar et al., Score-of-Mixture Training, ICML 2025).

    python -m diffjax.main --config=configs/smd_cifar.py

The settings are those of the authors' paper and released code, arXiv:2502.09609. It compares with
real images: cifar10-32x32.zip is what EDM's dataset_tool makes of the data set. No average is kept,
so that its half-life is one image. Of 150,000 iterations (their scripts say 400,000) every fifth
moves the generator. Dropout isn't told; here it is 0.
Hardware: 7 GPUs, 40 images each, as DMD2's; or one of 80 GB with `--config.accumulation=4`.
Time: not measured; an update has one of the generator and five of the fake score.
Result: not known: the table with its FID wasn't at hand. The text says that it is less than
Diff-Instruct's and DMD2's.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SMD's published settings."""
    config = bases.distillation("smd")
    config.teacher = "edm-cifar10-32x32-uncond-vp"
    config.data = "cifar10-32x32.zip"
    config.head_channels = 256
    config.generator.learning_rate = config.fake_score.learning_rate = 5e-5
    config.init_sigma = 80.0
    config.batch_size = 280
    config.duration_kimg = 8400.0
    config.ema_halflife_kimg = 0.001
    config.evaluate.reference = "cifar10-32x32"
    config.updates_per_call = 1
    return config
