"""Networks of DiT (https://github.com/facebookresearch/DiT) and SiT (https://github.com/willisma/SiT).

Their files are of `torch.save`: a state dict, as the released ones, or the state of their training
programs, which has the averages as `ema`. Both models have the same names and shapes, so that a
state dict doesn't say whose it is, nor how many heads attention has.
"""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.convert import torch_layout
from diffjax.files import kinds, torch_state_dict
from diffjax.networks import dit

# Of each size: hidden_size, depth, num_heads.
SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
CLASSES = ("SiT", "DiT")
POSITIONS = "pos_embed"  # which are never trained
_HEADS = {width: heads for width, _, heads in SIZES.values()}
_MODULES = {
    "x_embedder": "x_embedder.proj",
    "t_embedder_0": "t_embedder.mlp.0",
    "t_embedder_2": "t_embedder.mlp.2",
    "attn_qkv": "attn.qkv",
    "attn_proj": "attn.proj",
    "mlp_fc1": "mlp.fc1",
    "mlp_fc2": "mlp.fc2",
    "adaLN_modulation": "adaLN_modulation.1",
    "final_layer_linear": "final_layer.linear",
    "final_layer_adaLN_modulation": "final_layer.adaLN_modulation.1",
}
_TABLE = "y_embedder.embedding_table.weight"
# How SiT's training program names paths and predictions.
_PATHS = {"Linear": "linear", "GVP": "gvp", "VP": "vp"}
_PREDICTIONS = {"velocity": "velocity", "noise": "eps", "score": "score"}
_ADVICE = """say so by --network='{"class_name": "SiT"}'"""


def init_kwargs(class_name: str, size: str, resolution: int, patch_size: int = 2) -> dict[str, Any]:
    """Constructor arguments of a published network of ImageNet's latents.

    Args:
      class_name: "SiT" or "DiT".
      size: in `SIZES`.
      resolution: of the latents, 32 for images of 256 pixels and 64 for 512.
      patch_size: 2, 4 or 8.
    """
    width, depth, heads = SIZES[size]
    return {
        "class_name": class_name,
        "img_resolution": resolution,
        "img_channels": 4,
        "label_dim": 1000,
        "patch_size": patch_size,
        "hidden_size": width,
        "depth": depth,
        "num_heads": heads,
    }


def torch_name(path: torch_layout.Path) -> str:
    """PyTorch's name of a leaf, such as blocks.0.attn.qkv.weight.

    Args:
      path: of the leaf in a denoiser's tree, such as (params, blocks_0, attn_qkv, kernel).
    """
    if path[1:] == ("y_embedder",):
        return _TABLE
    *modules, leaf = path[1:]
    names = [_MODULES.get(module, module.replace("blocks_", "blocks.")) for module in modules]
    return ".".join((*names, {"kernel": "weight"}.get(leaf, leaf)))


def constants(network: dit.DiT) -> dict[str, np.ndarray]:
    """Arrays of a state dict that aren't trained, by PyTorch's names.

    Args:
      network: that the state dict is of.
    """
    rows = network.img_resolution // network.patch_size
    positions = np.asarray(dit.positions(rows, network.hidden_size))
    return {POSITIONS: positions.reshape(1, rows * rows, -1)}


def read(
    path: str | os.PathLike[str], said: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a network's file without running anything in it.

    Args:
      path: of a file of at most 16 GiB: a state dict, or a training state, whose averages are read.
      said: constructor arguments that the file doesn't say, such as `class_name` and `num_heads`;
        they count before what it says.

    Returns:
      Constructor arguments, as `denoiser.from_edm_kwargs` takes them, and the state dict.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it holds no such network, or doesn't say what is needed, naming it.
    """
    state_dict, arguments = torch_state_dict.read_training_state(path, "ema")
    try:
        return _described(state_dict, arguments, said or {}), state_dict
    except ValueError as error:
        raise ValueError(f"{Path(path)}: {error}") from error


def _described(
    arrays: Mapping[str, np.ndarray], arguments: Mapping[str, Any], said: Mapping[str, Any]
) -> dict[str, Any]:
    """Constructor arguments, of the arrays' shapes and of what the training program was told."""
    width, channels, patch_size, _ = _shape(arrays, "x_embedder.proj.weight", 4)
    _, places, features = _shape(arrays, POSITIONS, 3)
    rows = math.isqrt(places)
    hidden = _shape(arrays, "blocks.0.mlp.fc1.weight", 2)[0]
    made = _shape(arrays, "final_layer.linear.weight", 2)[0]
    if not all((width, channels, patch_size)):
        raise ValueError("x_embedder.proj.weight is empty")
    if features != width:  # so that no network is larger than its file
        raise ValueError(f"{POSITIONS} has {features} channels, and x_embedder.proj.weight {width}")
    blocks = {match[1] for name in arrays if (match := re.match(r"blocks\.(\d{1,4})\.", name))}
    name = said.get("class_name") or str(arguments.get("model", "")).partition("-")[0]
    if name not in CLASSES:
        raise ValueError(f"whether it is a SiT or a DiT isn't in its arrays; {_ADVICE}")
    found = {
        "class_name": name,
        "img_resolution": rows * patch_size,
        "img_channels": channels,
        "patch_size": patch_size,
        "hidden_size": width,
        "depth": len(blocks),
        "mlp_ratio": _ratio(hidden, width),
        "learn_sigma": made == 2 * channels * patch_size**2,
    }
    if width in _HEADS:
        found["num_heads"] = _HEADS[width]
    elif "num_heads" not in said:
        raise ValueError(
            f"num_heads isn't in its arrays, and of hidden_size={width} none is published; say "
            """it by --network='{"num_heads": 16}'"""
        )
    if _TABLE in arrays:  # published networks all have an embedding of no class, the last
        rows_of_table, has_null = _shape(arrays, _TABLE, 2)[0], said.get("null_class", True)
        found |= {"label_dim": rows_of_table - bool(has_null)}
    if name == "SiT":
        found |= {
            field: known.get(arguments[theirs], arguments[theirs])
            for field, theirs, known in (
                ("path", "path_type", _PATHS),
                ("predicts", "prediction", _PREDICTIONS),
            )
            if theirs in arguments
        }
    return {**found, **said}


def _ratio(hidden: int, width: int) -> float:
    """Ratio of a perceptron whose hidden channels, int(width * ratio), are those of a file."""
    ratio = hidden / width  # 28 (61 / 28) is less than 61 in floating point
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _shape(arrays: Mapping[str, np.ndarray], name: str, rank: int) -> tuple[int, ...]:
    array = arrays.get(name)
    if array is None or array.ndim != rank:
        what = "is missing" if array is None else f"has shape {array.shape}"
        hint = kinds.wrapper_hint(arrays)
        raise ValueError(
            f"its arrays are no DiT's or SiT's: {name} {what}; "
            + (hint or "of state dicts diffjax reads these alone")
        )
    return array.shape
