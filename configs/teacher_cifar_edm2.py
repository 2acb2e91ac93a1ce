"""A small EDM2 on CIFAR-10, as its authors train (Karras et al., arXiv:2312.02696).

    python -m diffjax.main --config=configs/teacher_cifar_edm2.py

Its data set, cifar10-32x32.zip, is what EDM's dataset_tool.py makes; --config.dataset=tfds:cifar10
does as well. Magnitude-preserving layers, forced weight normalisation, uncertainty weighting, and a
learning rate that falls with the square root of the updates are EDM2's; the noise levels are those
of its networks for 64 pixels. Rates and lengths are chosen for a run of minutes. The average is
EDM's; EDM2's, of any length afterwards, are kept besides by --config.edm2.power_stds=0.05,0.1.
Hardware: one GPU, or several. docs/results has what was measured, after 1.54 million images
(--config.duration_kimg=1536). The 6.66 million below were not run.
"""

from ml_collections import ConfigDict

from diffjax.runs import bases


def get_config() -> ConfigDict:
    """13.7M parameters, unconditional, 11.2 GFLOP an evaluation; teacher_cifar_small has 10.7."""
    config = bases.with_edm2(bases.denoising(), p_mean=-0.8, p_std=1.6, decay_updates=2000.0)
    config.dataset = "cifar10-32x32.zip"
    config.x_flip = True
    config.network.update(class_name="Precond", model_type="EDM2UNet", augment_dim=0, dropout=0.1)
    config.network.update(model_channels=64, channel_mult=(2, 2, 2), num_blocks=4)
    config.network.update(attn_resolutions=(16,))
    config.optimizer.update(learning_rate=0.01, b2=0.99, rampup_kimg=100.0)
    config.duration_kimg = 6_656.0
    config.evaluate.reference = "cifar10-32x32"
    config.grid_kimg = 1024.0
    config.checkpoint_kimg = 2048.0
    return config
