"""EDM's CIFAR-10 teacher, DDPM++ at its published setting (Karras et al. 2022, Table 7).

    python -m diffjax.main --config=configs/teacher_cifar.py

Its data set, cifar10-32x32.zip, is what EDM's dataset_tool.py makes; --config.dataset=tfds:cifar10
does as well.
Hardware: 8 GPUs in EDM's own runs; any number that divides the batch.
Time: not measured; it was not run here.
Result: FID 1.97 unconditional in 35 evaluations: the paper's, not measured here.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """55.7M parameters, unconditional, 200 million images."""
    config = bases.denoising()
    config.dataset = "cifar10-32x32.zip"
    config.network.update(model_channels=128, channel_mult=(2, 2, 2), num_blocks=4, dropout=0.13)
    config.augment_probability = 0.12
    config.optimizer.learning_rate = 1e-3
    config.optimizer.rampup_kimg = 10_000.0
    config.batch_size = 512
    config.duration_kimg = 200_000.0
    config.ema_halflife_kimg = 500.0
    config.evaluate.reference = "cifar10-32x32"
    return config
