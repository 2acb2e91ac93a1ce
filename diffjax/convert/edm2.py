"""EDM2's networks (https://github.com/NVlabs/edm2) as its PyTorch code names and stores them.

Pickles are read as EDM's are, by `diffjax.convert.edm`; what is EDM2's alone is here.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffjax.convert import torch_layout

CLASS_NAME = "Precond"
# The order of the constructor's arguments, for those given by position.
POSITIONAL = (
    *("img_resolution", "img_channels", "label_dim", "use_fp16"),
    *("sigma_data", "logvar_channels"),
)
_HEADS = ("logvar_fourier", "logvar_linear")  # which stand beside `unet`, not in it


def torch_name(path: torch_layout.Path) -> str:
    """PyTorch's name of a leaf, such as unet.enc.8x8_conv.weight.

    Args:
      path: of the leaf in a denoiser's tree, such as (params, enc_8x8_conv, kernel).
    """
    *modules, leaf = path[1:]
    if modules[:1] == ["logvar"]:
        modules = ["_".join(modules)]
    elif modules and modules[0].startswith(("enc_", "dec_")):
        modules[0] = modules[0].replace("_", ".", 1)
    leaf = {"kernel": "weight"}.get(leaf, leaf)
    outer = [] if modules and modules[0] in _HEADS else ["unet"]
    return ".".join((*outer, *modules, leaf))


def as_stored(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Give gains the values that EDM2's code computes with in the type that they are stored in.

    Its layers divide a gain by √fan_in in the gain's own type, so that a float16 pickle, run as it
    was loaded, rounds the quotient to float16. Converted to float32 first it doesn't, which changes
    the outputs of released networks by about 4e-5.

    Args:
      state_dict: PyTorch's names, in the stored types.

    Returns:
      The same, each gain being the float32 whose quotient by √fan_in is the rounded one.

    Raises:
      ValueError: if the layer of a gain isn't there.
    """
    arrays = {name: np.asarray(array) for name, array in state_dict.items()}
    for name, gain in arrays.items():
        if not name.endswith(("emb_gain", "out_gain")):
            continue
        layer = {"emb_gain": "emb_linear", "out_gain": "out_conv"}[name.rpartition(".")[2]]
        weight = f"{name.rpartition('.')[0]}.{layer}.weight"
        if weight not in arrays:
            raise ValueError(f"{weight} is missing, the layer of {name}")
        root = math.sqrt(math.prod(arrays[weight].shape[1:]))
        quotient = (gain.astype(np.float32) / np.float32(root)).astype(gain.dtype)
        arrays[name] = (quotient.astype(np.float64) * root).astype(np.float32)
    return arrays
