"""Runs of seconds that save after every update: what the tests here disturb."""

from ml_collections import ConfigDict

from tests.runs.test_train import BATCH, miniature

UPDATES = 12
KINDS = ("teacher", "sid")


def get_config(kind: str) -> ConfigDict:
    config = miniature(f"{kind}_digits", updates=UPDATES)
    if kind == "teacher":  # a small network, which is traced in little time
        config.network.model_channels = 8
        config.network.channel_mult = (1,)
        config.network.attn_resolutions = ()
    config.checkpoint_kimg = BATCH / 1000
    config.grid_kimg = 6 * BATCH / 1000
    config.evaluate.every_kimg = 4 * BATCH / 1000
    config.evaluate.metrics = ("fd",)
    config.keep_checkpoints = 2
    return config
