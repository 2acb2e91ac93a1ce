"""SiD on CIFAR-10 with classes, of a guided teacher (guidance of SiD-LSG, Zhou et al. 2024).

    python -m diffjax.main --config=configs/sid_cifar_cond_guided.py

The settings are sid_cifar_cond's, and of the guidance our own: the teacher, which has learnt no
answer without a class, is led away from the unconditional one, at noise levels where that does most
(Kynkaanniemi et al. 2024, arXiv:2404.07724). A student takes one evaluation a sample all the same.
Hardware: 4 GPUs of 80 GB or 4 TPU chips, 64 images each; on one, `--config.accumulation=4`.
Time: an update has a third network to ask, forward and backward.
Result: none is published, and none was measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """SiD's published settings, its teacher guided by 1.5."""
    config = bases.distillation("sid")
    config.teacher = "edm-cifar10-32x32-cond-vp"
    config.guidance.teacher = 1.5
    config.guidance.interval = (0.2, 5.0)
    config.guidance.negative = "edm-cifar10-32x32-uncond-vp"
    config.dropout = 0.13
    config.augment_probability = 0.12
    config.alpha = 1.2
    config.init_sigma = 2.5
    config.generator.learning_rate = config.fake_score.learning_rate = 1e-5
    config.batch_size = 256
    config.duration_kimg = 800_000.0
    config.ema_halflife_kimg = 500.0
    config.evaluate.reference = "cifar10-32x32"
    config.grid.update(rows=10, columns=10)
    return config
