"""PyTorch tensors as NumPy arrays, read from the bytes that `torch.save` writes.

Formats (both by PyTorch's `torch/serialization.py`): the legacy stream of five pickles and raw
data that storages inside pickles use to this day, and the zip archive of torch 1.6 and newer.
Nothing is allocated on a file's word: an array is a view of bytes that the file holds.
"""

import dataclasses
import io
import math
import struct
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax.files import restricted_pickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
ZIP_SIGNATURE = b"PK\x03\x04"
# The first pickle of a legacy stream: protocol 2, LONG1 with the ten bytes of the magic number.
LEGACY_SIGNATURE = b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little") + b"."

# What reading a zip raises on damage; a ValueError, which `zipfile` raises too, says enough itself.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
)

_MAX_RANK = 8
_MAX_INT = 2**48


@dataclasses.dataclass(frozen=True)
class StorageType:
    """Element type of a storage class, little-endian."""

    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Storage:
    """Flat run of elements inside `data`.

    Attributes:
      data: the bytes that hold it.
      start: where it begins, in bytes.
      count: its length, in elements.
      dtype: type of an element.
    """

    data: bytes
    start: int
    count: int
    dtype: np.dtype


STORAGE_TYPES: dict[str, StorageType] = {
    f"torch.{name}Storage": StorageType(np.dtype(dtype))
    for name, dtype in {
        "Bool": "?",
        "Byte": "u1",
        "Char": "i1",
        "Short": "<i2",
        "Int": "<i4",
        "Long": "<i8",
        "Half": "<f2",
        "BFloat16": jnp.bfloat16,
        "Float": "<f4",
        "Double": "<f8",
    }.items()
}


@dataclasses.dataclass(frozen=True)
class _StorageId:
    """Content of a persistent id: element type, key of the raw data, number of elements."""

    dtype: np.dtype
    key: str
    count: int


class StorageReader:
    """Stand-in for `torch.storage._load_from_bytes` while one file is read."""

    def __init__(self, budget: restricted_pickle.Budget) -> None:
        """Start with the pickle instructions that the file has left."""
        self._budget = budget
        # A file may hand in the same bytes any number of times, and gets the same storage for them.
        # The bytes are kept with it, so that their id stays theirs.
        self._known: dict[int, tuple[bytes, Storage]] = {}

    def __call__(self, data: Any) -> Storage:
        """Read the one storage of a `torch.save` stream, legacy or zip.

        Raises:
          ValueError: if `data` is anything else, or has fewer bytes than the storage needs.
        """
        if not isinstance(data, bytes):
            raise ValueError("a tensor's storage is not given as bytes")
        if id(data) not in self._known:
            load = _load_zip if data.startswith(ZIP_SIGNATURE) else _load_legacy
            self._known[id(data)] = data, load(data, self._budget)
        return self._known[id(data)][1]


def rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    backward_hooks: Any = None,
    metadata: Any = None,
) -> np.ndarray:
    """Build the read-only view of a storage that `torch._utils._rebuild_tensor_v2` describes.

    Args:
      storage: a `Storage`.
      offset: the first element's place in the storage.
      size: the shape.
      stride: the step along each axis, in elements.
      requires_grad: not used.
      backward_hooks: not used.
      metadata: not used.

    Raises:
      ValueError: if the arguments do not describe a view inside the storage, or one with more
        elements than the storage has.
    """
    del requires_grad, backward_hooks, metadata
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage")
    if not (_are_counts((offset,)) and _are_counts(size) and _are_counts(stride)):
        raise ValueError("a tensor's offset, size and stride are not short non-negative integers")
    if len(size) != len(stride):
        raise ValueError(f"a tensor's size has {len(size)} axes and its stride {len(stride)}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count and (last >= storage.count or count > storage.count):
        raise ValueError(f"a tensor of size {size} reaches beyond its {storage.count} elements")
    if not count:
        return np.zeros(size, storage.dtype)
    width = storage.dtype.itemsize
    return np.ndarray(
        size,
        storage.dtype,
        buffer=storage.data,
        offset=storage.start + offset * width,
        strides=[step * width for step in stride],
    )


def rebuild_parameter(data: Any, requires_grad: Any = True, hooks: Any = None) -> np.ndarray:
    """Take the tensor out of a `torch.nn.Parameter`.

    Args:
      data: the tensor.
      requires_grad: not used.
      hooks: not used.

    Raises:
      ValueError: if `data` isn't an array.
    """
    del requires_grad, hooks
    if not isinstance(data, np.ndarray):
        raise ValueError("a parameter holds no tensor")
    return data


def _are_counts(values: Any) -> bool:
    if type(values) is not tuple or len(values) > _MAX_RANK:
        return False
    return all(type(value) is int and 0 <= value < _MAX_INT for value in values)


def _load_legacy(data: bytes, budget: restricted_pickle.Budget) -> Storage:
    stream = io.BytesIO(data)
    if restricted_pickle.load(stream, {}, budget=budget) != LEGACY_MAGIC:
        raise ValueError("a tensor's storage does not start like a torch.save stream")
    version = restricted_pickle.load(stream, {}, budget=budget)
    if version != LEGACY_VERSION:
        raise ValueError("a tensor's storage is of another version of the torch.save stream")
    system = restricted_pickle.load(stream, {}, budget=budget)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("a tensor's storage was not written on a little-endian machine")
    described = _load_storage_id(stream, budget)
    if restricted_pickle.load(stream, {}, budget=budget) != [described.key]:
        raise ValueError("a tensor's storage stream does not hold that one storage")
    count = int.from_bytes(stream.read(8), "little")
    start = stream.tell()
    if count != described.count or len(data) - start != count * described.dtype.itemsize:
        raise ValueError(
            f"a tensor's storage declares {described.count} elements of {described.dtype} and "
            f"holds {max(len(data) - start, 0)} bytes"
        )
    return Storage(data, start, count, described.dtype)


def _load_zip(data: bytes, budget: restricted_pickle.Budget) -> Storage:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read_archive(archive, budget)
    except ZIP_ERRORS as error:
        raise ValueError(f"a tensor's storage is a damaged zip archive ({error})") from error


def _read_archive(archive: zipfile.ZipFile, budget: restricted_pickle.Budget) -> Storage:
    entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
        raise ValueError("a tensor's storage is a compressed zip archive; torch.save writes none")

    def read(name: str) -> bytes:
        if name not in entries:
            raise ValueError(f"a tensor's storage is a zip archive without {name}")
        return archive.read(entries[name])

    if "byteorder" in entries and read("byteorder") != b"little":
        raise ValueError("a tensor's storage was not written on a little-endian machine")
    described = _load_storage_id(io.BytesIO(read("data.pkl")), budget)
    raw = read(f"data/{described.key}")
    if len(raw) != described.count * described.dtype.itemsize:
        raise ValueError(
            f"a tensor's storage declares {described.count} elements of {described.dtype} and "
            f"holds {len(raw)} bytes"
        )
    return Storage(raw, 0, described.count, described.dtype)


def _load_storage_id(stream: io.BytesIO, budget: restricted_pickle.Budget) -> _StorageId:
    described = restricted_pickle.load(
        stream, STORAGE_TYPES, budget=budget, persistent_load=_parse_storage_id
    )
    if not isinstance(described, _StorageId):
        raise ValueError("a tensor's storage stream holds something else than a storage")
    return described


def _parse_storage_id(pid: Any) -> _StorageId:
    # ('storage', type, key, location, elements), with a view, always None, in the legacy stream.
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[5:] not in ((), (None,)):
        raise ValueError("a tensor's storage is described in an unknown form")
    tag, kind, key, _, count = pid[:5]
    known = tag == "storage" and isinstance(kind, StorageType) and isinstance(key, str)
    if not known or not _are_counts((count,)):
        raise ValueError("a tensor's storage is described in an unknown form")
    return _StorageId(kind.dtype, key, count)
