"""Network and parameters from the config and state dict of diffusers' UNet2DModel."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.convert import torch_layout
from diffjax.files import kinds
from diffjax.interfaces import Params
from diffjax.networks.unet_2d import UNet2D

CLASS_NAME = "UNet2DModel"
# Settings that aren't the network's function: data's size, and dropout, which training alone has.
_OTHERS = ("sample_size", "dropout")
_OURS = ("dtype", "attention", "parent", "name")
# The others, with their defaults.
SETTINGS = {
    field.name: field.default for field in dataclasses.fields(UNet2D) if field.name not in _OURS
}
# Names of attention's projections before diffusers 0.15, and since.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(.*\battentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_LISTS = "down_blocks|up_blocks|resnets|attentions|downsamplers|upsamplers|to_out"
_IN_LIST = re.compile(rf"({_LISTS})_(\d+)")
_FAULTS_SHOWN = 5


def network(config: Mapping[str, Any]) -> UNet2D:
    """Build the network that a config describes.

    Args:
      config: as `config.json` of a UNet2DModel has it.

    Raises:
      ValueError: in one line, naming the setting that isn't read.
    """
    if config.get("_class_name", CLASS_NAME) != CLASS_NAME:
        raise ValueError(f"_class_name={config['_class_name']!r} isn't read; {CLASS_NAME} is")
    settings = {}
    for name, value in config.items():
        if name in SETTINGS:
            settings[name] = _checked(name, value, SETTINGS[name])
        elif not (name.startswith("_") or name in _OTHERS or value is None or value is False):
            raise ValueError(
                f"{name}={value!r} is no setting of {CLASS_NAME} that is known here; take it out "
                "if it has no effect"
            )
    return UNet2D(**settings)


def abstract(net: UNet2D) -> Params:
    """Variables of the network as `jax.ShapeDtypeStruct`s, without computing anything."""
    size = 2 ** (len(net.block_out_channels) - 1)
    x = jax.ShapeDtypeStruct((1, size, size, net.in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    labels = None
    if net.class_embed_type == "identity":
        width = net.time_embedding_dim or 4 * net.block_out_channels[0]
        labels = jax.ShapeDtypeStruct((1, width), jnp.float32)
    elif net.is_conditional:
        labels = jax.ShapeDtypeStruct((1,), jnp.int32)
    variables: Params = jax.eval_shape(net.init, jax.random.key(0), x, t, labels)
    return variables


def shapes(net: UNet2D) -> dict[str, tuple[int, ...]]:
    """Shapes of the network's state dict by PyTorch's names, without computing any array."""
    return {
        name: torch_layout.torch_shape(path, leaf.shape)
        for name, (path, leaf) in _expected(net).items()
    }


def variables(net: UNet2D, state_dict: Mapping[str, np.ndarray]) -> Params:
    """Convert a state dict to the network's variables.

    Args:
      net: the network that the state dict is of.
      state_dict: arrays by PyTorch's names, those of attention old or new, of any floating type.

    Returns:
      `{"params": …}`, float32, and "buffers" where the network has Fourier features.

    Raises:
      ValueError: naming arrays that are missing, not expected, of another shape, not of floating
        point or not finite.
    """
    arrays = {_new_name(name): array for name, array in state_dict.items()}
    wanted = shapes(net)
    if hint := kinds.wrapper_hint(arrays, wanted):
        raise ValueError(hint)
    if faults := torch_layout.faults(arrays, wanted):
        more = len(faults) - _FAULTS_SHOWN
        shown = faults[:_FAULTS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise ValueError("the arrays do not fit config.json: " + "; ".join(shown))
    leaves = {
        path: torch_layout.from_torch(path, arrays[name])
        for name, (path, _) in _expected(net).items()
    }
    return torch_layout.nest(leaves, ["params"])


@functools.lru_cache(maxsize=1)
def _expected(net: UNet2D) -> dict[str, tuple[torch_layout.Path, jax.ShapeDtypeStruct]]:
    """Map each PyTorch name to (path in the network's variables, shape and type there)."""
    return {_torch_name(path): (path, leaf) for path, leaf in torch_layout.flatten(abstract(net))}


def _new_name(name: str) -> str:
    match = _OLD_NAME.fullmatch(name)
    return f"{match[1]}.{_OLD_NAMES[match[2]]}.{match[3]}" if match else name


def _torch_name(path: torch_layout.Path) -> str:
    """PyTorch's name: (params, down_blocks_0, conv1, kernel) -> down_blocks.0.conv1.weight."""
    *modules, leaf = path[1:]
    modules = [_IN_LIST.sub(r"\1.\2", module) for module in modules]
    leaf = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(leaf, leaf)
    return ".".join((*modules, leaf))


# Of settings whose default doesn't say it: what they must be where they aren't None.
_OPTIONAL: dict[str, type] = {
    "time_embedding_dim": int,
    "mid_block_type": str,
    "attention_head_dim": int,
    "attn_norm_num_groups": int,
    "class_embed_type": str,
    "num_class_embeds": int,
    "num_train_timesteps": int,
}
_MAY_BE_ZERO = ("freq_shift", "downsample_padding")


def _checked(name: str, value: Any, default: Any) -> Any:
    """Value of a setting, of the type that it must have."""
    if value is None and name in _OPTIONAL:
        return None
    kind = _OPTIONAL.get(name, type(default))
    if kind is tuple:
        return _checked_list(name, value, type(default[0]))
    kind = float if name == "mid_block_scale_factor" else kind
    wanted, is_right = _FORMS[kind]
    if not is_right(value):
        raise ValueError(f"{name}={value!r} must be {wanted}")
    if kind in (int, float) and value <= 0 and name not in _MAY_BE_ZERO:
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
