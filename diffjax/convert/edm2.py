"""EDM2's networks (https://github.com/NVlabs/edm2) as its PyTorch code names and stores them.

Pickles are read as EDM's are, by `diffjax.convert.edm`; what is EDM2's alone is here.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffjax.convert import torch_layout

CLASS_NAME = "Precond"
_LABELLED = ("img_resolution", "img_channels", "label_dim")
_DATA = ("use_fp16", "sigma_data", "logvar_channels")
# SiDA's classes, of which the generator has no log-variance.
_SIDA = ("EDM_2_Precond_EncoderDecoder", "EDM_2_Precond_Generator")
# The order of the constructors' arguments, for those given by position.
POSITIONAL = {
    CLASS_NAME: (*_LABELLED, *_DATA),
    **dict.fromkeys(_SIDA, (*_LABELLED, "force_normalization", "use_gan", *_DATA)),
}
_HEADS = ("logvar_fourier", "logvar_linear")  # which stand beside `unet`, not in it
_LOGVAR_CHANNELS = 128


def plain(
    init_kwargs: Mapping[str, Any], state_dict: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Give SiDA's networks of EDM2 as EDM2's own, and all others as they are.

    A generator's log-variance, which it hasn't, becomes 0 at every noise level.

    Args:
      init_kwargs: the constructor's arguments and `class_name`.
      state_dict: PyTorch's names and layouts.

    Returns:
      Both, with the class `Precond`.
    """
    kwargs, arrays = dict(init_kwargs), dict(state_dict)
    if kwargs.get("class_name") not in _SIDA:
        return kwargs, arrays
    kwargs["class_name"] = CLASS_NAME
    is_forced, has_gan = kwargs.pop("force_normalization", True), kwargs.pop("use_gan", False)
    if has_gan and not is_forced:  # without a discriminator it is forced whatever they say
        kwargs["force_normalization"] = False
    channels = kwargs.get("logvar_channels", _LOGVAR_CHANNELS)
    if not any(name.startswith(_HEADS) for name in arrays) and isinstance(channels, int):
        zeros = np.zeros(min(max(channels, 0), 2**16), np.float32)
        arrays |= {f"logvar_fourier.{name}": zeros.copy() for name in ("freqs", "phases")}
        arrays["logvar_linear.weight"] = zeros[None]
    return kwargs, arrays


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
