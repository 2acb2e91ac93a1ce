"""What the tests of StyleGAN2 share: the rule of recorded cases' weights, and small networks."""

import functools
import hashlib
import lzma
import pickletools
import zlib

import numpy as np

from diffjax.convert import stylegan2
from tests.support import fabricate, golden_cases

KWARGS = {
    "z_dim": 6,
    "c_dim": 3,
    "w_dim": 5,
    "img_resolution": 8,
    "img_channels": 2,
    "mapping_kwargs": {"num_layers": 2},
    "synthesis_kwargs": {"channel_base": 32, "channel_max": 6, "conv_clamp": 3.0},
}


def rule(name, shape, kind="plain"):
    """The value of the array that PyTorch calls `name`, its `shape` being PyTorch's."""
    if name.endswith("resample_filter"):
        taps = np.array({2: [1, 1], 4: [1, 3, 3, 1]}[shape[0]], np.float32)
        return np.outer(taps, taps) / taps.sum() ** 2
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    v = np.asarray(random.standard_normal(tuple(shape))).astype(np.float32)
    if name.endswith("affine.bias"):
        v = np.float32(1) + np.float32(0.1) * v
    elif name.endswith((".bias", ".noise_strength", ".w_avg")):
        v = np.float32(0.1) * v
    if kind == "mapinit" and name.startswith("mapping.fc"):
        v = v * np.float32(100)
    return v


def arrays(meta):
    """The state dict of a case, by its .json."""
    kind = meta.get("weights_rule", "plain")
    return {name: rule(name, shape, kind) for name, shape in meta["state_dict"].items()}


def network(kwargs, kind="mapinit", **settings):
    """(network, variables, state dict), the weights by the rule."""
    net = stylegan2.build(kwargs, **settings)
    state_dict = {n: rule(n, s, kind) for n, s in stylegan2.state_dict_shapes(net).items()}
    return net, stylegan2.to_variables(net, state_dict), state_dict


def genuine_pickle(case):
    """A pickle that the published code wrote.

    This repository keeps it with the weights taken out: they are put in again and checked to be
    what they were, to the byte.
    """
    path = case.folder / f"{case.name}.pkl"
    if path.exists():
        return path.read_bytes()
    data = bytearray(lzma.decompress(path.with_name(f"{path.name}.xz").read_bytes()))
    weights = arrays(case.meta)
    strings = [
        (at, arg) for op, arg, at in pickletools.genops(bytes(data)) if op.name == "BINBYTES"
    ]
    for (at, string), name in zip(strings, case.meta["strings"], strict=True):
        raw = weights[name].tobytes()
        end = at + 5 + len(string)
        data[end - len(raw) : end] = raw
    assert hashlib.sha256(data).hexdigest() == case.meta["sha256"]
    return bytes(data)


@functools.cache
def small_pickle():
    """A pickle as the released ones are: two networks beside the averaged one, and more."""
    _, _, state_dict = network(KWARGS)
    return pickle_of(KWARGS, state_dict)


def pickle_of(kwargs, state_dict, **entries):
    """The file of a generator."""
    nested = {
        name: fabricate.Call("dnnlib.util.EasyDict", items=value, opcode=b"\x81")
        if isinstance(value, dict)
        else value
        for name, value in kwargs.items()
    }
    generator = fabricate.network({"class_name": "Generator", **nested}, state_dict)
    discriminator = fabricate.persistent("Discriminator", fabricate.module_state())
    options = fabricate.Call("dnnlib.util.EasyDict", items={"path": "x.zip"}, opcode=b"\x81")
    contents = {
        "training_set_kwargs": options,
        "augment_pipe": fabricate.persistent("AugmentPipe", fabricate.module_state()),
        "G": None,
        "D": discriminator,
        "G_ema": generator,
    }
    return fabricate.pickle_bytes(contents | entries)


def own(name):
    """A case of this repository, whatever folder the tests read."""
    return golden_cases.Case(name, golden_cases.OWN)
