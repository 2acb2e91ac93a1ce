"""Numbers recorded by running published PyTorch code, and the rule that makes their weights.

The folder is $DIFFJAX_GOLDEN, or tests/golden where that is not set. A case is NAME.json, which
says what was run (`kind`, `config` and more), and NAME.npz: images are NCHW, and `X_f64` is X as a
64-bit run of the same code gave it. Tests find cases by what the .json says, never by the file's
name, and so take any folder of this format, cases that are no kind of theirs being skipped:

    DIFFJAX_GOLDEN=FOLDER python -m pytest -m golden

A .json without `kind` lists names and shapes of other cases' state dicts. Weights follow a rule
from their PyTorch names, so hardly any are stored.
"""

import functools
import json
import lzma
import os
import pathlib
import zlib
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import preconditioning
from diffjax.models import denoiser

# What the repository holds, and what the tests read.
OWN = pathlib.Path(__file__).parents[1] / "golden"
GOLDEN = pathlib.Path(os.environ.get("DIFFJAX_GOLDEN") or OWN)

# `config.precond` of the networks that `Case.denoiser` builds.
PRECONDS = tuple(preconditioning.BY_EDM_NAME)
LARGE = 10_000_000  # parameters

# Cases that a test has asked for; `tests/test_golden_coverage.py` names the others.
asked_for: set[str] = set()


@functools.cache
def _read(folder: pathlib.Path) -> tuple[dict[str, dict], list[Any]]:
    """Contents of the folder's .json files: cases by name, and lists of names."""
    if not folder.is_dir():
        raise NotADirectoryError(f"DIFFJAX_GOLDEN={folder} is no folder.")
    files = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    for path in sorted(folder.glob("*.json.xz")):  # lists of names, long and alike
        files[path.name.removesuffix(".json.xz")] = json.loads(lzma.decompress(path.read_bytes()))
    cases = {name: meta for name, meta in files.items() if "kind" in meta}
    return cases, [meta for name, meta in files.items() if name not in cases]


def known() -> dict[str, dict]:
    """The .json of each case in the folder, by name."""
    return _read(GOLDEN)[0]


@functools.cache
def state_dicts(folder: pathlib.Path = GOLDEN) -> dict[str, dict[str, tuple[int, ...]]]:
    """Names and shapes of the state dicts of cases, as the folder's lists give them."""
    found = {}
    for names in _read(folder)[1]:
        for case, like in names.get("same_as", {}).items():
            shapes = dict(names["state_dict"][like])
            found[case] = {name: tuple(shape) for name, shape in shapes.items()}
    return found


class Case:
    """One case: `meta`, its .json, and its arrays."""

    def __init__(self, name: str, folder: pathlib.Path = GOLDEN) -> None:
        self.name, self.folder = name, folder
        self.meta = _read(folder)[0][name]

    @functools.cached_property
    def names(self) -> list[str]:
        """Names of the arrays, in the file's order."""
        path = self.folder / f"{self.name}.npz"
        if not path.exists():
            return []
        with np.load(path) as arrays:
            return arrays.files

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{self.name}.npz") as arrays:
            return dict(arrays)

    def __contains__(self, key: str) -> bool:
        return key in self.names or f"{key}_f64" in self.names

    def __getitem__(self, key: str) -> jax.Array:
        """What a test passes on: the array as JAX takes it, images as NHWC."""
        return jnp.asarray(self._nhwc(self.arrays[key]))

    def raw(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def exact(self, key: str) -> np.ndarray:
        """What a test compares with: the 64-bit run's array where there is one."""
        return self.arrays.get(f"{key}_f64", self.arrays.get(key))

    def expected(self, key: str) -> np.ndarray:
        """The same, images as NHWC."""
        return self._nhwc(self.exact(key))

    @property
    def labels(self) -> jax.Array | None:
        """One-hot classes; None for an unconditional case."""
        for key in ("class_labels", "labels"):
            if key in self.names and self.arrays[key].shape[-1]:
                return jnp.asarray(self.arrays[key])
        return None

    @property
    def augment_labels(self) -> jax.Array | None:
        key = "augment_labels"
        return self[key] if key in self.names else None

    @property
    def kwargs(self) -> dict[str, Any]:
        """Arguments of the network's constructor."""
        return self.meta["config"]["kwargs"]

    @property
    def precond(self) -> str:
        return self.meta["config"]["precond"]

    @property
    def prefix(self) -> str:
        """What the rule puts before the names of the network's weights."""
        return self.meta.get("prefix", "")

    @property
    def init_kwargs(self) -> dict[str, Any]:
        return {"class_name": self.precond, **self.kwargs}

    def denoiser(self, **settings: Any) -> denoiser.NetworkDenoiser:
        return denoiser.from_edm_kwargs(self.init_kwargs, **settings)

    @property
    def output_bound(self) -> float:
        """Relative L2 error to allow for D: EDM's alone isn't scaled by σ."""
        return 1e-5 if self.precond == "EDMPrecond" else 3e-5

    def _nhwc(self, array: np.ndarray) -> np.ndarray:
        size = self.kwargs["img_resolution"]
        if array.shape[-3:] == (self.kwargs["img_channels"], size, size) and array.ndim >= 4:
            return np.moveaxis(array, -3, -1)
        return array


def is_large(meta: dict) -> bool:
    """Whether a case's network takes long, so that its tests are marked `slow`."""
    return meta.get("num_params", 0) > LARGE


def cases(
    kind: str,
    *,
    where: Callable[[Case], bool] = lambda case: True,
    each: Callable[[Case], Iterable[Any]] | None = None,
    slow: Callable[[dict], bool] = is_large,
    **wanted: Any,
) -> list:
    """Parameters for `pytest.mark.parametrize`: names of cases, marked `golden`.

    Args:
      kind: of the cases.
      where: which of them to take.
      each: parts of a case, such as the runs of a sampler: the parameters are then
        (name, part), and the part is in the test's name too.
      slow: which cases, by their .json, are marked `slow` besides.
      **wanted: what the .json, its `config` or the network's arguments there must say: a value, or
        several to choose from.
    """
    params = []
    for name, meta in known().items():
        if meta["kind"] != kind or not all(_says(meta, *item) for item in wanted.items()):
            continue
        case = Case(name)
        if not where(case):
            continue
        marks = [pytest.mark.golden, *([pytest.mark.slow] if slow(meta) else [])]
        found = [(name,)] if each is None else [(name, part) for part in each(case)]
        params += [
            pytest.param(*values, id="-".join(map(str, values)), marks=marks) for values in found
        ]
        if found:
            asked_for.add(name)
    return params


def state_dict_params() -> list:
    """Parameters (name, names and shapes) for each case whose state dict is listed."""
    return [
        pytest.param(name, shapes, id=name, marks=pytest.mark.golden)
        for name, shapes in state_dicts().items()
        if _says(known().get(name, {}), "precond", PRECONDS)
    ]


def _says(meta: dict, key: str, wanted: Any) -> bool:
    config = meta.get("config") or {}
    for place in (meta, config, config.get("kwargs", {})):
        if key in place:
            several = isinstance(wanted, Collection) and not isinstance(wanted, str)
            return place[key] in wanted if several else place[key] == wanted
    return False


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
