"""Writes pickles in EDM's format, and hostile ones, without PyTorch or EDM's code."""

import dataclasses
import io
import struct
import zipfile
from typing import Any

import numpy as np

from diffjax.files import torch_storage

KINDS = {
    "float16": "HalfStorage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


@dataclasses.dataclass
class Global:
    name: str  # dotted


@dataclasses.dataclass
class Call:
    """`name(*args)`, then the state and the items that are set on the result."""

    name: str
    args: tuple = ()
    state: Any = None
    items: dict | None = None
    opcode: bytes = b"R"


@dataclasses.dataclass
class PersistentId:
    value: Any


@dataclasses.dataclass
class Raw:
    """Instructions to put in as they are; they must leave one value."""

    code: bytes


def pickle_bytes(value, protocol=3):
    return b"\x80" + bytes([protocol]) + encode(value) + b"."


def encode(value):
    """The pickle instructions that leave `value` on the stack."""
    if value is None or value is True or value is False:
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, Raw):
        return value.code
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return (
            b"\x8a" + bytes([len(raw)]) if len(raw) < 256 else b"\x8b" + struct.pack("<i", len(raw))
        ) + raw
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(encode, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(encode, value)) + b"e"
    if isinstance(value, dict):
        return b"}" + _encode_items(value)
    if isinstance(value, Global):
        module, _, name = value.name.rpartition(".")
        return f"c{module}\n{name}\n".encode()
    if isinstance(value, PersistentId):
        return encode(value.value) + b"Q"
    assert isinstance(value, Call), value
    code = encode(Global(value.name)) + encode(value.args) + value.opcode
    if value.items is not None:
        code += _encode_items(value.items)
    if value.state is not None:
        code += encode(value.state) + b"b"
    return code


def _encode_items(items):
    return b"(" + b"".join(encode(key) + encode(item) for key, item in items.items()) + b"u"


def storage_stream(array, *, kind=None, count=None, raw=None):
    """The legacy stream that torch writes for a storage, its declared count or data replaceable."""
    raw = array.tobytes() if raw is None else raw
    count = array.size if count is None else count
    kind = kind or KINDS[array.dtype.name]
    pid = ("storage", Global(f"torch.{kind}"), "94871", "cpu", count, None)
    system = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    parts = (torch_storage.LEGACY_MAGIC, 1001, system, PersistentId(pid), ["94871"])
    head = b"".join(pickle_bytes(part, protocol=2) for part in parts)
    return head + struct.pack("<q", count) + raw


def storage_archive(array, *, compression=zipfile.ZIP_STORED, count=None, names=None):
    """The zip archive that newer torch writes for a storage."""
    count = array.size if count is None else count
    pid = ("storage", Global(f"torch.{KINDS[array.dtype.name]}"), "0", "cpu", count)
    entries = {
        "data.pkl": pickle_bytes(PersistentId(pid), protocol=2),
        "byteorder": b"little",
        "data/0": array.tobytes(),
        "version": b"3\n",
    }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name in names or entries:
            archive.writestr(f"archive/{name}", entries[name])
    return stream.getvalue()


def tensor(array, *, stream=None, offset=0, size=None, stride=None):
    """A tensor, contiguous unless told otherwise."""
    array = np.asarray(array)
    steps = tuple(step // array.itemsize for step in np.ascontiguousarray(array).strides)
    storage = Call("torch.storage._load_from_bytes", (stream or storage_stream(array),))
    size = tuple(array.shape) if size is None else size
    stride = steps[: array.ndim] if stride is None else stride
    args = (storage, offset, size, stride, False, Call("collections.OrderedDict"))
    return Call("torch._utils._rebuild_tensor_v2", args)


def parameter(array):
    args = (tensor(array), True, Call("collections.OrderedDict"))
    return Call("torch._utils._rebuild_parameter", args)


def numpy_scalar(value, code, *, home="numpy._core.multiarray"):
    kind = Call("numpy.dtype", (code, False, True), state=(3, "<", None, None, None, -1, -1, 0))
    return Call(f"{home}.scalar", (kind, np.dtype(code).type(value).tobytes()))


def persistent(class_name, state, **meta):
    """A module as EDM's `persistence` writes it."""
    fields = {"type": "class", "version": 6, "module_src": "raise SystemExit('was run')"}
    fields |= {"class_name": class_name, "state": state} | meta
    return Call("torch_utils.persistence._reconstruct_persistent_obj", (fields,))


def module_state(parameters=None, buffers=None, modules=None, *, args=(), kwargs=None, **rest):
    return {
        "training": False,
        "_parameters": Call("collections.OrderedDict", items=parameters or {}),
        "_buffers": buffers or {},
        "_non_persistent_buffers_set": Call("builtins.set", ([],)),
        "_forward_hooks": Call("collections.OrderedDict"),
        "_modules": modules or {},
        "_init_args": tuple(args),
        "_init_kwargs": kwargs or {},
        **rest,
    }


def network(init_kwargs, state_dict, *, args=()):
    """The network with these arrays, its modules nested by their names."""
    kwargs = dict(init_kwargs)
    class_name = kwargs.pop("class_name")
    tree: dict = {}
    for name, array in state_dict.items():
        node = tree
        *path, leaf = name.split(".")
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = np.asarray(array)
    return persistent(class_name, _state(tree, args=args, kwargs=kwargs))


def _state(tree, **constructor):
    parameters, buffers, modules = {}, {}, {}
    for name, child in tree.items():
        if isinstance(child, dict):
            modules[name] = _module(name, child)
        elif name in ("weight", "bias"):
            parameters[name] = parameter(child)
        else:
            buffers[name] = tensor(child)
    parameters.setdefault("bias", None)
    return module_state(parameters, buffers, modules, **constructor)


def _module(name, tree):
    if name in ("enc", "dec"):
        container = "torch.nn.modules.container.ModuleDict"
        return Call(container, opcode=b"\x81", state=_state(tree))
    return persistent({"model": "SongUNet"}.get(name, "Layer"), _state(tree))


def edm_pickle(init_kwargs, state_dict, *, args=(), **other_entries):
    """The file of a network."""
    return pickle_bytes({"ema": network(init_kwargs, state_dict, args=args), **other_entries})
