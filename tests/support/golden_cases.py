"""Numbers made by running the published PyTorch code, and the rule that makes their weights.

A case is `golden/NAME.npz`: float64 references (stored as float32 where large) and `meta`, a JSON
text with the network's constructor arguments. Images there are NCHW. Weights follow a rule from
their PyTorch names, so none are stored.
"""

import json
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.models import denoiser

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


class Case:
    def __init__(self, name):
        self.arrays = dict(np.load(GOLDEN / f"{name}.npz"))
        self.meta = json.loads(str(self.arrays.pop("meta")))

    def __contains__(self, key):
        return key in self.arrays

    def __getitem__(self, key):
        """The array, images as NHWC."""
        array = self.arrays[key]
        if array.ndim >= 4 and array.shape[-3] in (1, 3, 6):
            array = np.moveaxis(array, -3, -1)
        return jnp.asarray(array) if array.dtype != np.float64 else array

    def raw(self, key):
        return self.arrays[key]

    @property
    def init_kwargs(self):
        config = self.meta["config"]
        return {"class_name": config["precond"], **config["kwargs"]}

    def denoiser(self):
        return denoiser.from_edm_kwargs(self.init_kwargs)


def torch_name(path):
    """('params', 'enc_8x8_block0', 'conv0', 'kernel') -> model.enc.8x8_block0.conv0.weight."""
    names = [str(key.key) for key in path]
    if names[0] == "buffers" and names[-1] == "u":
        return "u"
    for side in ("enc", "dec"):
        if names[1].startswith(side + "_"):
            names[1:2] = [side, names[1].removeprefix(side + "_")]
    last = {"kernel": "weight", "scale": "weight"}.get(names[-1], names[-1])
    return ".".join(["model", *names[1:-1], last])


def from_torch(array):
    """A PyTorch weight in this package's layout."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def to_torch(array):
    """A weight of this package in PyTorch's layout."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def rule(name, shape):
    """The value of the array that PyTorch calls `name`, its `shape` being PyTorch's."""
    seed = zlib.crc32(name.encode("utf-8")) & 0x7FFFFFFF
    v = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    if name.endswith(".weight"):
        if len(shape) == 1:
            return np.float32(1) + np.float32(0.1) * v
        return v * np.float32(1 / np.sqrt(np.prod(shape[1:])))
    if name.endswith(".bias"):
        return np.float32(0.1) * v
    if name.endswith(".freqs"):
        return v * np.float32(16)
    raise ValueError(name)


def weights(model, prefix=""):
    """Parameters of a `NetworkDenoiser` by the rule."""

    def leaf(path, struct):
        name = torch_name(path)
        if name == "u":
            return model.preconditioning.buffers()["u"]
        shape = to_torch(np.empty(struct.shape)).shape
        return jnp.asarray(from_torch(rule(prefix + name, shape)))

    return jax.tree_util.tree_map_with_path(leaf, model.abstract_params())


def by_torch_name(tree):
    """{PyTorch name: NumPy array in PyTorch's layout} of a tree of parameters."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {torch_name(path): to_torch(np.asarray(leaf)) for path, leaf in leaves}


def relative_l2(actual, expected):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)
