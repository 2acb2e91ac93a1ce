"""Uni-Instruct under the forward KL divergence on CIFAR-10 with classes (Wang et al. 2025).

    python -m diffjax.main --config=configs/uni_instruct_cifar_cond.py

The loop's settings are those of SiDA, from whose code Uni-Instruct's comes, arXiv:2505.20755. The
density ratio is the paper's, exp of the logit, and not what the released code has in its place; how
the paper bounds it isn't known, nor its scale of the adversarial term, SiDA's here. It compares
with real images: cifar10-32x32.zip is what EDM's dataset_tool makes of the data set.
Hardware: 4 GPUs of 80 GB or 4 TPU chips, 64 images each; on one, `--config.accumulation=4`.
Time: not measured; an update is SiDA's. The published duration isn't known: SiDA's is here.
Result: FID 1.38 in one evaluation (the teacher: 1.79 in 35), as their project page has it for the
released code; not measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """Uni-Instruct with SiDA's published settings."""
    config = bases.distillation("uni_instruct")
    config.teacher = "edm-cifar10-32x32-cond-vp"
    config.data = "cifar10-32x32.zip"
    config.divergence = "forward_kl"
    config.dropout = 0.13
    config.augment_probability = 0.12
    config.init_sigma = 2.5
    config.generator.learning_rate = config.fake_score.learning_rate = 1e-5
    config.batch_size = 256
    config.duration_kimg = 300_000.0
    config.ema_halflife_kimg = 500.0
    config.evaluate.reference = "cifar10-32x32"
    config.grid.update(rows=10, columns=10)
    return config
