"""Network pickles of EDM, and of SiD's students likewise, as diffjax denoisers and back.

Format: `training/training_loop.py` and `torch_utils/persistence.py` of https://github.com/NVlabs/edm.
A pickle holds the network under `ema`. Each of its modules is described by the name of its class,
the source text of that class (not looked at here) and the dictionary of its attributes.
"""

import functools
import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax.convert import edm_state_dict
from diffjax.files import kinds, restricted_pickle, torch_storage
from diffjax.interfaces import Params
from diffjax.models.denoiser import NetworkDenoiser, from_edm_kwargs

MAX_FILE_BYTES = 16 * 2**30
_MAX_MODULE_DEPTH = 16
_MAX_LEVELS = 16
_MAX_BLOCKS = 64
_MAX_ARGUMENT = 2**16

# The order of the constructor's arguments, for those given by position. The rest, which EDM passes
# on to the network inside, can be given by name only.
_POSITIONAL = {
    "EDMPrecond": (
        *("img_resolution", "img_channels", "label_dim", "use_fp16"),
        *("sigma_min", "sigma_max", "sigma_data", "model_type"),
    ),
    "VPPrecond": (
        *("img_resolution", "img_channels", "label_dim", "use_fp16"),
        *("beta_d", "beta_min", "M", "epsilon_t", "model_type"),
    ),
    "VEPrecond": (
        *("img_resolution", "img_channels", "label_dim", "use_fp16"),
        *("sigma_min", "sigma_max", "model_type"),
    ),
    "iDDPMPrecond": (
        *("img_resolution", "img_channels", "label_dim", "use_fp16"),
        *("C_1", "C_2", "M", "model_type"),
    ),
}
_WANTED = (
    "diffjax reads EDM network pickles: network-snapshot-*.pkl of an EDM or SiD run, or one of the "
    "released networks that diffjax/convert/catalogue.py lists"
)


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


def read_pickle(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read an EDM network pickle without running its code.

    Args:
      path: of a file of at most 16 GiB.

    Returns:
      `(init_kwargs, state_dict)`: the arguments of the constructor of the network under `ema`, by
      name, plus `class_name`, one of EDMPrecond, VPPrecond, VEPrecond and iDDPMPrecond; and its
      parameters and buffers by PyTorch's names, in PyTorch's layouts and the stored types, except
      that bfloat16 becomes float32.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is anything else, naming it and what is wrong.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file. {_WANTED}")
    try:
        data = kinds.read(path, max_bytes=MAX_FILE_BYTES)
        if data[:1] != b"\x80" or data.startswith(torch_storage.LEGACY_SIGNATURE):
            raise ValueError(f"not a pickle of protocol 2 or newer{kinds.but(path)}")
        network = _load_network(data)
        return _init_kwargs(network), _state_dict(network, max_bytes=len(data))
    except ValueError as error:
        raise ValueError(f"{path}: {error}. {_WANTED}") from error


def to_denoiser(
    init_kwargs: Mapping[str, Any], state_dict: Mapping[str, Any]
) -> tuple[NetworkDenoiser, Params]:
    """Convert a network read by `read_pickle`.

    Args:
      init_kwargs: the constructor's arguments and `class_name`.
      state_dict: PyTorch's names and layouts; anything that `numpy.asarray` takes.

    Returns:
      `(denoiser, params)`; params are float32 NumPy arrays in the denoiser's tree.

    Raises:
      ValueError: if the arguments describe no network, naming the argument; naming each array that
        is missing, not expected, of another shape, not of floating point or not finite; or naming
        each resampling filter that is not that of the arguments.
    """
    denoiser = _build_denoiser(init_kwargs)
    return denoiser, edm_state_dict.to_params(denoiser, state_dict)


def state_dict_shapes(init_kwargs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of PyTorch's state dict, without computing any array.

    Args:
      init_kwargs: the constructor's arguments and `class_name`.

    Raises:
      ValueError: if the arguments describe no network, naming the argument.
    """
    return edm_state_dict.shapes(_build_denoiser(init_kwargs))


def to_state_dict(init_kwargs: Mapping[str, Any], params: Params) -> dict[str, np.ndarray]:
    """Convert parameters back, for `load_state_dict` of EDM's own PyTorch class.

    Args:
      init_kwargs: the constructor's arguments and `class_name`.
      params: a denoiser's tree, as `to_denoiser` gives and training keeps.

    Returns:
      float32 NumPy arrays by PyTorch's names, in PyTorch's layouts, with the resampling filters.

    Raises:
      ValueError: if the arguments describe no network, or naming each array of `params` that is
        missing, not expected, of another shape, not of floating point or not finite.
    """
    return edm_state_dict.from_params(_build_denoiser(init_kwargs), params)


def _build_denoiser(init_kwargs: Mapping[str, Any]) -> NetworkDenoiser:
    # Checked before a network is built, so that damaged arguments cannot ask for endless work.
    for name, value in init_kwargs.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        limit = _MAX_BLOCKS if name == "num_blocks" else _MAX_ARGUMENT
        if any(isinstance(number, int) and not 0 <= number <= limit for number in numbers):
            raise ValueError(f"the argument {name}={value!r} is not between 0 and {limit}")
        if len(numbers) > _MAX_LEVELS:
            raise ValueError(f"the argument {name} has more than {_MAX_LEVELS} entries")
    return from_edm_kwargs(init_kwargs)


def _load_network(data: bytes) -> _Module:
    budget = restricted_pickle.Budget()
    contents = restricted_pickle.load(io.BytesIO(data), _allowed_names(budget), budget=budget)
    if not isinstance(contents, dict):
        raise ValueError(f"its pickle holds a {type(contents).__name__}, not a dict with 'ema'")
    if "ema" not in contents:
        keys = ", ".join(restricted_pickle.quote(key) for key in list(contents)[:8])
        raise ValueError(f"its pickle has no entry 'ema'; it has {keys or 'no entries'}")
    network = contents["ema"]
    if not isinstance(network, _Module):
        raise ValueError(f"its entry 'ema' is a {type(network).__name__}, not a network")
    if network.class_name not in _POSITIONAL:
        raise ValueError(
            f"the class of its network, {restricted_pickle.quote(network.class_name)}, is none of "
            f"{', '.join(_POSITIONAL)}"
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
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent_module,
        "torch.nn.modules.container.ModuleDict": functools.partial(_Module, "ModuleDict"),
        "torch.nn.modules.container.ModuleList": functools.partial(_Module, "ModuleList"),
        "torch.nn.modules.container.Sequential": functools.partial(_Module, "Sequential"),
        "torch.storage._load_from_bytes": torch_storage.StorageReader(budget),
        "torch._utils._rebuild_tensor_v2": torch_storage.rebuild_tensor,
        "torch._utils._rebuild_parameter": torch_storage.rebuild_parameter,
    }
    return {name: restricted_pickle.Constructor(name, build) for name, build in functions.items()}


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


def _init_kwargs(network: _Module) -> dict[str, Any]:
    args, kwargs = network.attributes.get("_init_args"), network.attributes.get("_init_kwargs")
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        raise ValueError("its network does not say how it was constructed")
    names = _POSITIONAL[network.class_name]
    if len(args) > len(names):
        raise ValueError(f"its network has {len(args)} positional arguments, at most {len(names)}")
    init_kwargs: dict[str, Any] = {"class_name": network.class_name}
    for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
        if name in init_kwargs or not isinstance(name, str):
            raise ValueError(f"its network has the argument {restricted_pickle.quote(name)} twice")
        init_kwargs[name] = _plain(name, value)
    return init_kwargs


def _plain(name: str, value: Any) -> Any:
    """Check that a constructor's argument is a scalar or a short list of scalars."""
    if isinstance(value, list | tuple) and len(value) <= _MAX_LEVELS:
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
