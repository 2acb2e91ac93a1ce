"""A CIFAR-10 teacher small enough to ship and to distil on a CPU.

    python -m diffjax.main --config=configs/teacher_cifar_tiny.py

Its data set, cifar10-32x32.zip, is what EDM's dataset_tool.py makes; --config.dataset=tfds:cifar10
does as well. Most of its parameters are at 8x8 and 4x4, where they cost a CPU little. It is too
small to overfit, so there is no dropout and no augmentation but mirroring.
Hardware: one GPU, for minutes. The network that is shipped as cifar_tiny was trained so; its model
card has what was measured.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """2.8M parameters, class-conditional, 0.32 GFLOP an evaluation."""
    config = bases.denoising()
    config.dataset = "cifar10-32x32.zip"
    config.conditional = True
    config.x_flip = True
    config.network.update(model_channels=16, channel_mult=(1, 2, 4, 8), num_blocks=1)
    config.network.update(attn_resolutions=(8,), augment_dim=0, dropout=0.0)
    config.optimizer.rampup_kimg = 100.0
    config.duration_kimg = 12_800.0
    config.updates_per_call = 50
    config.log_kimg = 102.4
    config.checkpoint_kimg = 4096.0
    config.evaluate.reference = "cifar10-32x32"
    return config
