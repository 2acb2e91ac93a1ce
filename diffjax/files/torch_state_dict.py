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
from collections.abc import Callable, Iterable, Mapping
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


class _Namespace(restricted_pickle.Stateful):
    """Description of an `argparse.Namespace`, the arguments of a training program."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {}

    def set_state(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise ValueError("the arguments of its program are not a dictionary")
        self.arguments = {
            name: value
            for name, value in state.items()
            if isinstance(name, str) and isinstance(value, str | int | float | bool)
        }


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
    return _read(path, "")[0]


def read_training_state(
    path: str | os.PathLike[str], entry: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a state dict, also of a training state: a dict that has one among other things.

    Args:
      path: of a file of at most 16 GiB.
      entry: key of the state dict in a training state; a file without it is one itself.

    Returns:
      The state dict, as `read` gives it, and the training program's arguments that are strings or
      numbers, if an `argparse.Namespace` of them is under "args".

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file holds no state dict, naming it and what is wrong.
    """
    return _read(path, entry)


def _read(path: str | os.PathLike[str], entry: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file. {_WANTED}")
    try:
        data = kinds.read(path, max_bytes=MAX_FILE_BYTES)
        if data.startswith(torch_storage.ZIP_SIGNATURE):
            return _read_archive(data, kinds.but(path), entry)
        if data.startswith(torch_storage.LEGACY_SIGNATURE):
            return _read_stream(data, entry)
        raise ValueError(f"not written by torch.save{kinds.but(path)}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}. {_WANTED}") from error


def _read_archive(
    data: bytes, kind: str, entry: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
                raise ValueError("a compressed zip archive; torch.save writes none")
            if sum(info.file_size for info in entries.values()) > len(data):
                raise ValueError("a zip archive whose entries are larger than the file")
            if "data.pkl" not in entries:
                raise ValueError(f"a zip archive without data.pkl, so not one of torch.save{kind}")
            if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
                raise ValueError("not written on a little-endian machine")
            pickle = io.BytesIO(archive.read(entries["data.pkl"]))
            contents = _read_contents(pickle, restricted_pickle.Budget(), entry)
            storages = {}
            for described in _storage_ids(contents.tensors.values()).values():
                info = entries.get(f"data/{described.key}")
                raw = b"" if info is None else archive.read(info)
                if len(raw) != described.count * described.dtype.itemsize:
                    raise ValueError(
                        f"its storage {restricted_pickle.quote(described.key)} declares "
                        f"{described.count} elements of {described.dtype} and holds {len(raw)} "
                        "bytes"
                    )
                storages[described.key] = torch_storage.Storage(
                    raw, 0, described.count, described.dtype
                )
    except torch_storage.ZIP_ERRORS as error:
        raise ValueError(f"a zip archive that is cut off or damaged ({error})") from error
    return _resolve(contents.tensors, storages), contents.arguments


def _read_stream(data: bytes, entry: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    stream, budget = io.BytesIO(data), restricted_pickle.Budget()
    restricted_pickle.load(stream, {}, budget=budget)  # the magic number, which has been looked at
    if restricted_pickle.load(stream, {}, budget=budget) != torch_storage.LEGACY_VERSION:
        raise ValueError("of another version of the torch.save stream")
    system = restricted_pickle.load(stream, {}, budget=budget)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("not written on a little-endian machine")
    contents = _read_contents(stream, budget, entry)
    described = _storage_ids(contents.everywhere)
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
    return _resolve(contents.tensors, storages), contents.arguments


@dataclasses.dataclass(frozen=True)
class _Contents:
    """Content of a file's pickle."""

    tensors: dict[str, _Tensor]  # of the state dict
    everywhere: list[_Tensor]  # those beside it too
    arguments: dict[str, Any]


def _read_contents(stream: io.BytesIO, budget: restricted_pickle.Budget, entry: str) -> _Contents:
    functions: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": _OrderedDict,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        **({"argparse.Namespace": _Namespace} if entry else {}),
    }
    names: dict[str, object] = dict(torch_storage.STORAGE_TYPES)
    for name, build in functions.items():
        names[name] = restricted_pickle.Constructor(name, build)
    contents = restricted_pickle.load(stream, names, budget=budget, persistent_load=_storage_id)
    if not isinstance(contents, dict):
        raise ValueError(f"it holds a {type(contents).__name__}, not a dictionary of tensors")
    found, arguments = contents, {}
    if entry in contents:
        found, program = contents[entry], contents.get("args")
        arguments = program.arguments if isinstance(program, _Namespace) else {}
    if not isinstance(found, dict):
        raise ValueError(f"its {entry!r} is a {type(found).__name__}, not a dictionary of tensors")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise ValueError(
                f"its entry {restricted_pickle.quote(name)} is a {type(value).__name__}, not a "
                "tensor; of a training state, save the state dict inside it by itself"
            )
    return _Contents(dict(found), _tensors_in(contents), arguments)


def _tensors_in(contents: Any) -> list[_Tensor]:
    """All tensors in containers, which may hold themselves."""
    found, waiting, seen = [], [contents], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, _Tensor):
            found.append(value)
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
    return found


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


def _storage_ids(tensors: Iterable[_Tensor]) -> dict[str, _StorageId]:
    described: dict[str, _StorageId] = {}
    for tensor in tensors:
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
