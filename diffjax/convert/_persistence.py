"""Network pickles of NVIDIA's research code, as descriptions of modules.

Format: `torch_utils/persistence.py` of https://github.com/NVlabs/edm, of its successor edm2 and of
https://github.com/NVlabs/stylegan2-ada-pytorch. Each module of a network is described by the name
of its class, the source text of that class (not looked at here) and the dictionary of its
attributes.
"""

import dataclasses
import functools
import io
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax.files import kinds, restricted_pickle, torch_storage

_MAX_MODULE_DEPTH = 16
_NUMPY_ARRAY = object()  # stands for the class, which a pickle names and can't call
MAX_ENTRIES = 16  # of a list among the constructor's arguments


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Content that a pickle must have.

    Attributes:
      entry: key of the network in the pickle's dict.
      positional: class's name -> the constructor's arguments in order, for those given by position.
      nested: arguments that may be dicts of scalars and short lists.
      advice: what to say after what is wrong with a file.
    """

    entry: str
    positional: Mapping[str, Sequence[str]]
    nested: Collection[str] = ()
    advice: str = ""


class _Module(restricted_pickle.Stateful):
    """Description of a `torch.nn.Module` in a pickle: its class's name and its attributes."""

    def __init__(self, class_name: str) -> None:
        self.class_name = class_name
        self.attributes: dict[str, Any] = {}

    def set_state(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise ValueError(
                f"the state of a {restricted_pickle.quote(self.class_name)} is not a dictionary"
            )
        self.attributes = state

    def children(self, kind: str) -> dict[str, Any]:
        """Entries of `_parameters`, `_buffers` or `_modules` that aren't None, by name."""
        children = self.attributes.get(kind)
        if not isinstance(children, dict):
            raise ValueError(
                f"a {restricted_pickle.quote(self.class_name)} has no dictionary {kind}"
            )
        if not all(isinstance(name, str) and name and "." not in name for name in children):
            raise ValueError(
                f"a {restricted_pickle.quote(self.class_name)} has improper names in {kind}"
            )
        return {name: child for name, child in children.items() if child is not None}


class _NumpyType(restricted_pickle.Stateful):
    """Description of a `numpy.dtype` of numbers in a pickle."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        del align, copy
        if not isinstance(code, str) or code not in ("b1", "f2", "f4", "f8", "i4", "i8", "u1"):
            raise ValueError(
                f"a number is of an unknown NumPy type {restricted_pickle.quote(code)}"
            )
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        if type(state) is not tuple or state[1:2] not in (("<",), ("|",)):
            raise ValueError("a number is not stored in little-endian order")


class _NumpyArray(restricted_pickle.Stateful):
    """Description of a small `numpy.ndarray`, such as the scales of an autoencoder's latents."""

    def __init__(self, kind: Any, shape: Any, code: Any) -> None:
        del shape, code  # of an empty array, which the state replaces
        if kind is not _NUMPY_ARRAY:
            raise ValueError("an array is of an unknown NumPy class")

    def set_state(self, state: Any) -> None:
        if not _is_array_state(state):
            raise ValueError("a NumPy array is described in an unknown form")
        _, shape, kind, _, data = state
        if math.prod(shape) * kind.dtype.itemsize != len(data):
            raise ValueError("a NumPy array is not as long as its shape says")


def _is_array_state(state: Any) -> bool:
    """Tell whether a state is (version, shape, type, whether in Fortran's order, bytes)."""
    if type(state) is not tuple or len(state) != 5:
        return False
    _, shape, kind, is_fortran, data = state
    if type(shape) is not tuple or len(shape) > MAX_ENTRIES or is_fortran is not False:
        return False
    sizes = all(type(size) is int and 0 <= size < 2**31 for size in shape)
    return sizes and isinstance(kind, _NumpyType) and isinstance(data, bytes)


def read(
    path: Path, wanted: Wanted, *, max_bytes: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the network of a pickle without running its code.

    Args:
      path: of the file.
      wanted: what it must hold.
      max_bytes: bytes that it may have.

    Returns:
      `(init_kwargs, state_dict)`: the arguments of the network's constructor by name, plus
      `class_name`; and its parameters and buffers by PyTorch's names, in PyTorch's layouts and the
      stored types, except that bfloat16 becomes float32.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is anything else, naming it and what is wrong.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file. {wanted.advice}")
    try:
        data = kinds.read(path, max_bytes=max_bytes)
        if data[:1] != b"\x80" or data.startswith(torch_storage.LEGACY_SIGNATURE):
            raise ValueError(f"not a pickle of protocol 2 or newer{kinds.but(path)}")
        network = _load_network(data, wanted)
        return _init_kwargs(network, wanted), _state_dict(network, max_bytes=len(data))
    except ValueError as error:
        raise ValueError(f"{path}: {error}. {wanted.advice}") from error


def _load_network(data: bytes, wanted: Wanted) -> _Module:
    budget = restricted_pickle.Budget()
    contents = restricted_pickle.load(io.BytesIO(data), _allowed_names(budget), budget=budget)
    if not isinstance(contents, dict):
        raise ValueError(
            f"its pickle holds a {type(contents).__name__}, not a dict with {wanted.entry!r}"
        )
    if wanted.entry not in contents:
        keys = ", ".join(restricted_pickle.quote(key) for key in list(contents)[:8])
        raise ValueError(f"its pickle has no entry {wanted.entry!r}; it has {keys or 'no entries'}")
    network = contents[wanted.entry]
    if not isinstance(network, _Module):
        raise ValueError(f"its entry {wanted.entry!r} is a {type(network).__name__}, not a network")
    if network.class_name not in wanted.positional:
        raise ValueError(
            f"the class of its network, {restricted_pickle.quote(network.class_name)}, is none of "
            f"{', '.join(wanted.positional)}"
        )
    return network


def _allowed_names(budget: restricted_pickle.Budget) -> dict[str, object]:
    def make_set(items: Any = ()) -> set[str]:
        if not isinstance(items, list | tuple):
            raise ValueError("a set is not made from a list")
        budget.spend(len(items))
        if not all(isinstance(item, str) for item in items):
            raise ValueError("a set holds something other than names")
        return set(items)

    functions: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": _empty_dict,
        "dnnlib.util.EasyDict": _empty_dict,
        "builtins.set": make_set,
        "__builtin__.set": make_set,
        "numpy.dtype": _NumpyType,
        "numpy.core.multiarray.scalar": _numpy_scalar,
        "numpy._core.multiarray.scalar": _numpy_scalar,
        "numpy.core.multiarray._reconstruct": _NumpyArray,
        "numpy._core.multiarray._reconstruct": _NumpyArray,
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent_module,
        "torch.nn.modules.container.ModuleDict": functools.partial(_Module, "ModuleDict"),
        "torch.nn.modules.container.ModuleList": functools.partial(_Module, "ModuleList"),
        "torch.nn.modules.container.Sequential": functools.partial(_Module, "Sequential"),
        "torch.storage._load_from_bytes": torch_storage.StorageReader(budget),
        "torch._utils._rebuild_tensor_v2": torch_storage.rebuild_tensor,
        "torch._utils._rebuild_parameter": torch_storage.rebuild_parameter,
    }
    names: dict[str, object] = {"numpy.ndarray": _NUMPY_ARRAY}
    for name, build in functions.items():
        names[name] = restricted_pickle.Constructor(name, build)
    return names


def _empty_dict() -> dict[str, Any]:
    return {}


def _numpy_scalar(kind: Any, data: Any) -> bool | int | float:
    if not isinstance(kind, _NumpyType) or not isinstance(data, bytes):
        raise ValueError("a NumPy number is described in an unknown form")
    if len(data) != kind.dtype.itemsize:
        raise ValueError("a NumPy number is not as long as its type says")
    return np.frombuffer(data, kind.dtype)[0].item()


def _persistent_module(meta: Any) -> _Module:
    fields = meta if isinstance(meta, dict) else {}
    class_name = fields.get("class_name")
    if fields.get("type") != "class" or not isinstance(class_name, str):
        raise ValueError("a module of its pickle is described in an unknown form")
    module = _Module(class_name)
    module.set_state(fields.get("state"))
    return module


def _init_kwargs(network: _Module, wanted: Wanted) -> dict[str, Any]:
    args, kwargs = network.attributes.get("_init_args"), network.attributes.get("_init_kwargs")
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        raise ValueError("its network does not say how it was constructed")
    names = wanted.positional[network.class_name]
    if len(args) > len(names):
        raise ValueError(f"its network has {len(args)} positional arguments, at most {len(names)}")
    init_kwargs: dict[str, Any] = {"class_name": network.class_name}
    for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
        if name in init_kwargs or not isinstance(name, str):
            raise ValueError(f"its network has the argument {restricted_pickle.quote(name)} twice")
        is_nested = name in wanted.nested and isinstance(value, dict)
        init_kwargs[name] = _plain_dict(name, value) if is_nested else _plain(name, value)
    return init_kwargs


def _plain_dict(name: str, values: dict[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in values) or len(values) > MAX_ENTRIES:
        raise ValueError(f"the argument {name!r} of its network is not a short dict of names")
    return {key: _plain(f"{name}.{key}", value) for key, value in values.items()}


def _plain(name: str, value: Any) -> Any:
    """Check that a constructor's argument is a scalar or a short list of scalars."""
    if isinstance(value, list | tuple) and len(value) <= MAX_ENTRIES:
        if all(_is_scalar(item) for item in value):
            return list(value)
    elif _is_scalar(value):
        return value
    raise ValueError(
        f"the argument {restricted_pickle.quote(name)} of its network is neither a short string or "
        "number nor a short list of them"
    )


def _is_scalar(value: Any) -> bool:
    if type(value) is int:
        return value.bit_length() < 64
    if type(value) is str:
        return len(value) <= 200
    return value is None or type(value) in (bool, float)


def _state_dict(network: _Module, max_bytes: int) -> dict[str, np.ndarray]:
    views = dict(_walk(network, "", set()))
    if sum(view.nbytes for view in views.values()) > max_bytes:
        raise ValueError("its arrays are larger than the file")
    return {
        name: np.array(view, np.float32 if view.dtype == jnp.bfloat16 else None, order="C")
        for name, view in views.items()
    }


def _walk(module: _Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and arrays in the order of PyTorch's `state_dict`."""
    if id(module) in seen or prefix.count(".") > _MAX_MODULE_DEPTH:
        raise ValueError(
            f"its module {restricted_pickle.quote(prefix)} holds itself or is held twice"
        )
    seen.add(id(module))
    transient = module.attributes.get("_non_persistent_buffers_set", set())
    if not isinstance(transient, set):
        raise ValueError(
            f"its module {restricted_pickle.quote(prefix)} has no set of transient buffers"
        )
    for kind in ("_parameters", "_buffers"):
        for name, array in module.children(kind).items():
            if kind == "_buffers" and name in transient:
                continue
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{restricted_pickle.quote(prefix + name)} is not a tensor")
            yield prefix + name, array
    for name, child in module.children("_modules").items():
        if not isinstance(child, _Module):
            raise ValueError(f"{restricted_pickle.quote(prefix + name)} is not a module")
        yield from _walk(child, f"{prefix}{name}.", seen)
