"""PyTorch state dicts as NumPy arrays, from files of `torch.save(module.state_dict(), path)`.

Formats (both by PyTorch's `torch/serialization.py`): a zip archive since torch 1.6; before, a
stream of four pickles, the names of the storages and their raw data. In either the pickle describes
tensors as views of storages that lie outside of it, so tensors are noted first and made at the end.
Nothing in the file is run.
"""

import dataclasses
import io
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from diffjax.files import kinds, restricted_pickle, torch_storage, writing

MAX_FILE_BYTES = 16 * 2**30
_WANTED = "diffjax reads state dicts that torch.save wrote, as .pth and .pt files hold them"


@dataclasses.dataclass(frozen=True)
class _StorageId:
    """Description of a storage: element type, key of the raw data, number of elements."""

    dtype: np.dtype
    key: str
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """View of a storage that isn't read yet."""

    storage: _StorageId
    view: tuple[Any, Any, Any]  # offset, size and stride, not checked yet


class _OrderedDict(dict[Any, Any], restricted_pickle.Stateful):
    """Dictionary whose attributes, the version numbers of modules, aren't needed."""

    def set_state(self, state: Any) -> None:
        pass


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a state dict without running anything in the file.

    Args:
      path: of a file of at most 16 GiB.

    Returns:
      Parameters and buffers by PyTorch's names, in PyTorch's layouts and the stored types; the
      arrays are read-only.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file holds no state dict, naming it and what is wrong.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file. {_WANTED}")
    try:
        data = kinds.read(path, max_bytes=MAX_FILE_BYTES)
        if data.startswith(torch_storage.ZIP_SIGNATURE):
            return _read_archive(data, kinds.but(path))
        if data.startswith(torch_storage.LEGACY_SIGNATURE):
            return _read_stream(data)
        raise ValueError(f"not written by torch.save{kinds.but(path)}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}. {_WANTED}") from error


def _read_archive(data: bytes, kind: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
                raise ValueError("a compressed zip archive; torch.save writes none")
            if sum(info.file_size for info in entries.values()) > len(data):
                raise ValueError("a zip archive whose entries are larger than the file")
            contents = {name: archive.read(info) for name, info in entries.items()}
    except torch_storage.ZIP_ERRORS as error:
        raise ValueError(f"a zip archive that is cut off or damaged ({error})") from error
    if "data.pkl" not in contents:
        raise ValueError(f"a zip archive without data.pkl, so not one of torch.save{kind}")
    if contents.get("byteorder", b"little") != b"little":
        raise ValueError("not written on a little-endian machine")

    tensors = _read_tensors(io.BytesIO(contents["data.pkl"]), restricted_pickle.Budget())
    storages = {}
    for described in _storage_ids(tensors).values():
        raw = contents.get(f"data/{described.key}", b"")
        if len(raw) != described.count * described.dtype.itemsize:
            raise ValueError(
                f"its storage {restricted_pickle.quote(described.key)} declares {described.count} "
                f"elements of {described.dtype} and holds {len(raw)} bytes"
            )
        storages[described.key] = torch_storage.Storage(raw, 0, described.count, described.dtype)
    return _resolve(tensors, storages)


def _read_stream(data: bytes) -> dict[str, np.ndarray]:
    stream, budget = io.BytesIO(data), restricted_pickle.Budget()
    restricted_pickle.load(stream, {}, budget=budget)  # the magic number, which has been looked at
    if restricted_pickle.load(stream, {}, budget=budget) != torch_storage.LEGACY_VERSION:
        raise ValueError("of another version of the torch.save stream")
    system = restricted_pickle.load(stream, {}, budget=budget)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("not written on a little-endian machine")
    tensors = _read_tensors(stream, budget)
    described = _storage_ids(tensors)
    keys = restricted_pickle.load(stream, {}, budget=budget)
    if not isinstance(keys, list) or set(described) - set(filter(_is_name, keys)):
        raise ValueError("its list of storages isn't that of its tensors")
    storages = {}
    for key in keys:
        if not _is_name(key) or key not in described:
            raise ValueError("it holds a storage that none of its tensors describes")
        count, dtype = described[key].count, described[key].dtype
        declared = int.from_bytes(stream.read(8), "little")
        start = stream.tell()
        end = stream.seek(start + count * dtype.itemsize)
        if declared != count or end > len(data):
            raise ValueError(
                f"its storage {restricted_pickle.quote(key)} declares {count} elements of {dtype}, "
                "and "
                "the file holds another number of them"
            )
        storages[key] = torch_storage.Storage(data, start, count, dtype)
    return _resolve(tensors, storages)


def _read_tensors(stream: io.BytesIO, budget: restricted_pickle.Budget) -> dict[str, _Tensor]:
    functions: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": _OrderedDict,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
    }
    names: dict[str, object] = dict(torch_storage.STORAGE_TYPES)
    for name, build in functions.items():
        names[name] = restricted_pickle.Constructor(name, build)
    contents = restricted_pickle.load(stream, names, budget=budget, persistent_load=_storage_id)
    if not isinstance(contents, dict):
        raise ValueError(f"it holds a {type(contents).__name__}, not a dictionary of tensors")
    for name, value in contents.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise ValueError(
                f"its entry {restricted_pickle.quote(name)} is a {type(value).__name__}, not a "
                "tensor; of a training state, save the state dict inside it by itself"
            )
    return dict(contents)


def _storage_id(pid: Any) -> _StorageId:
    # ('storage', type, key, location, elements), with a view, always None, in the stream.
    if type(pid) is tuple and len(pid) in (5, 6) and pid[5:] in ((), (None,)):
        tag, kind, key, _, count = pid[:5]
        is_known = tag == "storage" and isinstance(kind, torch_storage.StorageType)
        if is_known and _is_name(key) and type(count) is int and 0 <= count < 2**48:
            return _StorageId(kind.dtype, key, count)
    raise ValueError("a storage is described in an unknown form")


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _StorageId):
        raise ValueError("a tensor has no storage")
    return _Tensor(storage, (offset, size, stride))


def _rebuild_parameter(data: Any, *_: Any) -> _Tensor:
    if not isinstance(data, _Tensor):
        raise ValueError("a parameter holds no tensor")
    return data


def _storage_ids(tensors: Mapping[str, _Tensor]) -> dict[str, _StorageId]:
    described: dict[str, _StorageId] = {}
    for tensor in tensors.values():
        if described.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise ValueError("two tensors describe one storage differently")
    return described


def _resolve(
    tensors: Mapping[str, _Tensor], storages: Mapping[str, torch_storage.Storage]
) -> dict[str, np.ndarray]:
    return {
        name: torch_storage.rebuild_tensor(storages[tensor.storage.key], *tensor.view)
        for name, tensor in tensors.items()
    }


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    texts: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a state dict as `torch.save` does, the zip archive; the file is whole or not there.

    Args:
      path: of the file, which `torch.load` reads, with `weights_only` too.
      arrays: float32, by PyTorch's names, in PyTorch's layouts.
      texts: put beside the arrays by name, where `torch.load` doesn't look.

    Raises:
      ValueError: if an array isn't float32.
      OSError: if it can't be written.
    """
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise ValueError(f"{name} is {array.dtype}; float32 is written")
    entries = [_encoded_tensor(i, name, array) for i, (name, array) in enumerate(arrays.items())]
    contents = {
        "data.pkl": b"\x80\x02}(" + b"".join(entries) + b"u.",
        "byteorder": b"little",
        **{f"data/{i}": array.tobytes() for i, array in enumerate(arrays.values())},
        "version": b"3\n",
        **{name: text.encode() for name, text in texts.items()},
    }
    with writing.replacing(Path(path)) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"archive/{name}", content)


def _encoded_tensor(number: int, name: str, array: np.ndarray) -> bytes:
    """Opcodes of a dictionary's entry, a name and `_rebuild_tensor_v2` of a storage's number."""
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    storage = [b"X" + _counted(text) for text in ("storage", str(number), "cpu")]
    storage.insert(1, b"ctorch\nFloatStorage\n")
    return b"".join(
        (
            b"X" + _counted(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n(",
            b"(" + b"".join(storage) + _integer(array.size) + b"tQ",
            _integer(0),
            *(b"(" + b"".join(map(_integer, each)) + b"t" for each in (array.shape, strides)),
            b"\x89ccollections\nOrderedDict\n)R",  # no gradient, no hooks
            b"tR",
        )
    )


def _counted(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(4, "little") + data


def _integer(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)
