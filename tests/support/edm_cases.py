"""What the tests of conversion share: genuine pickles, and small networks to fabricate others."""

import functools
import hashlib
import lzma
import pickletools

import numpy as np

from diffjax.convert import edm
from diffjax.files import torch_storage
from tests.support import golden_cases

# Pickles that EDM's code wrote: this repository's own, for tests that need a genuine file.
GENUINE = ("edm_pickle_uncond", "edm_pickle_uncond_ordereddict")
KWARGS = {
    "class_name": "EDMPrecond",
    "img_resolution": 4,
    "img_channels": 1,
    "label_dim": 0,
    "model_type": "SongUNet",
    "model_channels": 4,
    "channel_mult": [1, 1],
    "num_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def own(name):
    """A case of this repository, whatever folder the tests read."""
    return golden_cases.Case(name, golden_cases.OWN)


def shapes(case):
    """Names and shapes of a genuine pickle's arrays."""
    return {name: tuple(shape) for name, shape in case.meta["params"] + case.meta["buffers"]}


def array(case, name, shape):
    """The array of a case's network that PyTorch calls `name`."""
    if name.endswith("resample_filter"):
        taps = np.asarray(case.kwargs.get("resample_filter", [1, 1]), np.float64)
        return (np.outer(taps, taps) / taps.sum() ** 2).reshape(shape).astype(np.float32)
    if name == "u":
        return np.asarray(case.denoiser().preconditioning.buffers()["u"])
    return golden_cases.rule(case.prefix + name, tuple(shape))


def genuine_pickle(case, array=array):
    """A pickle that EDM's code wrote, `array` giving the values in it.

    This repository keeps its files with the weights taken out: they are put together again and
    checked to be what they were, to the byte.
    """
    path = case.folder / case.meta["file"]
    if path.exists():
        return path.read_bytes()
    data = bytearray(lzma.decompress(path.with_name(f"{path.name}.xz").read_bytes()))
    for end, (name, shape) in zip(storage_ends(data), case.meta["state_dict"], strict=True):
        raw = array(case, name, shape).tobytes()
        data[end - len(raw) : end] = raw
    assert hashlib.sha256(data).hexdigest() == case.meta["sha256"]
    return bytes(data)


def storage_ends(data):
    """Where each stored array ends in a pickle, in the file's order."""
    headers = {"BINBYTES": 5, "SHORT_BINBYTES": 2}
    return [
        at + headers[op.name] + len(arg)
        for op, arg, at in pickletools.genops(bytes(data))
        if op.name in headers and arg.startswith(torch_storage.LEGACY_SIGNATURE)
    ]


@functools.cache
def small_network():
    """(init_kwargs, state_dict) of the smallest network worth converting."""
    return KWARGS, random_state_dict(KWARGS)


def random_state_dict(kwargs):
    """Random weights of the network's own names and shapes."""
    rng = np.random.default_rng(0)
    return {
        name: np.full(shape, 0.25, np.float32)
        if name.endswith("resample_filter")
        else rng.standard_normal(shape, np.float32)
        for name, shape in edm.state_dict_shapes(kwargs).items()
    }
