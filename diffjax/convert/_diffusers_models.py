"""Settings of a config, and names of arrays, as all of diffusers' models have them."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

from diffjax.convert import torch_layout
from diffjax.files import kinds
from diffjax.interfaces import Params

# Names of attention's projections before diffusers 0.15, and since.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(.*\battentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_LISTS = "down_blocks|up_blocks|resnets|attentions|downsamplers|upsamplers|to_out"
_IN_LIST = re.compile(rf"({_LISTS})_(\d+)")
_FAULTS_SHOWN = 5

# Names and shapes of a state dict's arrays, and where each goes in a network's variables.
Expected = Mapping[str, tuple[torch_layout.Path, jax.ShapeDtypeStruct]]


def settings(
    config: Mapping[str, Any],
    class_name: str,
    defaults: Mapping[str, Any],
    *,
    optional: Mapping[str, type],
    others: Collection[str],
    may_be_zero: Collection[str] = (),
) -> dict[str, Any]:
    """Read a model's settings from its config.

    Args:
      config: as `config.json` has it.
      class_name: of the model in diffusers.
      defaults: of all settings that are read, by name; they say the types.
      optional: what settings are that may be None, by name.
      others: names of settings that aren't the network's function, and are passed over.
      may_be_zero: names of numbers that may be 0.

    Raises:
      ValueError: in one line, naming the setting that isn't read.
    """
    if config.get("_class_name", class_name) != class_name:
        raise ValueError(f"_class_name={config['_class_name']!r} isn't read; {class_name} is")
    found = {}
    for name, value in config.items():
        if name in defaults:
            default = defaults[name]
            found[name] = _checked(name, value, default, optional, name in may_be_zero)
        elif not (name.startswith("_") or name in others or value is None or value is False):
            raise ValueError(
                f"{name}={value!r} is no setting of {class_name} that is known here; take it out "
                "if it has no effect"
            )
    return found


def number(name: str, value: Any) -> float:
    """Check a setting that must be a finite number.

    Args:
      name: of the setting.
      value: of the setting.

    Raises:
      ValueError: in one line, naming it.
    """
    wanted, is_right = _FORMS[float]
    if not is_right(value):
        raise ValueError(f"{name}={value!r} must be {wanted}")
    return float(value)


def expected(abstract: Params) -> Expected:
    """Map each PyTorch name to (path in the network's variables, shape and type there).

    Args:
      abstract: variables as `jax.ShapeDtypeStruct`s.
    """
    return {_torch_name(path): (path, leaf) for path, leaf in torch_layout.flatten(abstract)}


def shapes(wanted: Expected) -> dict[str, tuple[int, ...]]:
    """Shapes of the state dict by PyTorch's names.

    Args:
      wanted: as `expected` gives it.
    """
    return {
        name: torch_layout.torch_shape(path, leaf.shape) for name, (path, leaf) in wanted.items()
    }


def variables(wanted: Expected, state_dict: Mapping[str, np.ndarray]) -> Params:
    """Convert a state dict to a network's variables.

    Args:
      wanted: as `expected` gives it.
      state_dict: arrays by PyTorch's names, those of attention old or new, of any floating type.

    Returns:
      `{"params": …}` and other collections, float32.

    Raises:
      ValueError: naming arrays that are missing, not expected, of another shape, not of floating
        point or not finite.
    """
    arrays = {_new_name(name): array for name, array in state_dict.items()}
    if twice := [name for name in state_dict if name != _new_name(name) in state_dict]:
        raise ValueError(f"{twice[0]} and {_new_name(twice[0])} are one array, and both are there")
    right = shapes(wanted)
    if hint := kinds.wrapper_hint(arrays, right):
        raise ValueError(hint)
    if faults := torch_layout.faults(arrays, right):
        more = len(faults) - _FAULTS_SHOWN
        shown = faults[:_FAULTS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise ValueError("the arrays do not fit config.json: " + "; ".join(shown))
    leaves = {
        path: torch_layout.from_torch(path, arrays[name]) for name, (path, _) in wanted.items()
    }
    return torch_layout.nest(leaves, ["params"])


def _new_name(name: str) -> str:
    match = _OLD_NAME.fullmatch(name)
    return f"{match[1]}.{_OLD_NAMES[match[2]]}.{match[3]}" if match else name


def _torch_name(path: torch_layout.Path) -> str:
    """PyTorch's name: (params, down_blocks_0, conv1, kernel) -> down_blocks.0.conv1.weight."""
    *modules, leaf = path[1:]
    modules = [_IN_LIST.sub(r"\1.\2", module) for module in modules]
    leaf = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(leaf, leaf)
    return ".".join((*modules, leaf))


def _checked(
    name: str, value: Any, default: Any, optional: Mapping[str, type], may_be_zero: bool
) -> Any:
    """Value of a setting, of the type that it must have."""
    if value is None and name in optional:
        return None
    kind = optional.get(name, type(default))
    if kind is tuple:
        return _checked_list(name, value, type(default[0]))
    kind = float if name == "mid_block_scale_factor" else kind
    wanted, is_right = _FORMS[kind]
    if not is_right(value):
        raise ValueError(f"{name}={value!r} must be {wanted}")
    if kind in (int, float) and value <= 0 and not may_be_zero:
        raise ValueError(f"{name}={value!r} must be positive")
    return kind(value)


def _checked_list(name: str, value: Any, kind: type) -> tuple[Any, ...]:
    wanted, is_right = _FORMS[kind]
    if not isinstance(value, list | tuple) or not all(map(is_right, value)):
        raise ValueError(f"{name}={value!r} must be a list, each {wanted}")
    if kind is int and not all(each > 0 for each in value):
        raise ValueError(f"{name}={value!r} must be positive")
    return tuple(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


_FORMS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("an integer", _is_integer),
    float: ("a finite number", _is_finite),
    str: ("a string", lambda value: isinstance(value, str)),
}
