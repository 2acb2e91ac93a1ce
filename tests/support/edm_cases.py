"""What the tests of conversion share: genuine pickles, and small networks to fabricate others."""

import functools
import hashlib
import json
import lzma
import pickletools

import numpy as np

from diffjax.convert import edm
from tests.support import golden_cases

# SHA-256 of the genuine files; the repository keeps them with the weights taken out.
GENUINE = {
    "edm_pickle_uncond": "4963deb29df1295841206a7eca75df0c4bcd55fadafc4e0c973ac0be08240238",
    "edm_pickle_uncond_ordereddict": (
        "746d2a7b1b2a2c02c82dcd072e3638d6f88cd37fce349f6d710dfffca32436a7"
    ),
}
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


def genuine():
    """The case of the genuine pickles: x, sigma and D, and names and shapes in the files' order."""
    return golden_cases.Case("edm_pickle_uncond")


def genuine_array(name, shape):
    """The array of the genuine pickles that PyTorch calls `name`."""
    if name.endswith("resample_filter"):
        return np.full(shape, 0.25, np.float32)
    return golden_cases.rule("pkl." + name, tuple(shape))


def genuine_pickle(name):
    """A pickle that EDM's code wrote, put together again and checked to be that to the byte."""
    data = bytearray(lzma.decompress((golden_cases.GOLDEN / f"{name}.pkl.xz").read_bytes()))
    strings = [
        (at, arg) for op, arg, at in pickletools.genops(bytes(data)) if op.name == "BINBYTES"
    ]
    shapes = genuine().meta["shapes"]
    for (at, string), (array_name, shape) in zip(strings, shapes.items(), strict=True):
        raw = genuine_array(array_name, shape).tobytes()
        end = at + 5 + len(string)
        data[end - len(raw) : end] = raw
    assert hashlib.sha256(data).hexdigest() == GENUINE[name]
    return bytes(data)


@functools.cache
def shapes():
    """{case: {"config", "shapes"}} of PyTorch's state dicts, as EDM's code gives them."""
    path = golden_cases.GOLDEN / "state_dict_shapes.json.xz"
    return json.loads(lzma.decompress(path.read_bytes()))


def init_kwargs(case):
    config = shapes()[case]["config"]
    return {"class_name": config["precond"], **config["kwargs"]}


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
