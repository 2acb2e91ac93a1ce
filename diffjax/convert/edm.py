"""Network pickles of EDM and EDM2, and of SiD's students likewise, as diffjax denoisers and back.

Format: `training/training_loop.py` and `torch_utils/persistence.py` of https://github.com/NVlabs/edm
and https://github.com/NVlabs/edm2.
A pickle holds the network under `ema`. Each of its modules is described by the name of its class,
the source text of that class (not looked at here) and the dictionary of its attributes.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.convert import _persistence, edm2, edm_state_dict
from diffjax.interfaces import Params
from diffjax.models.denoiser import NetworkDenoiser, from_edm_kwargs

MAX_FILE_BYTES = 16 * 2**30
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
    **edm2.POSITIONAL,
}
_WANTED = _persistence.Wanted(
    entry="ema",
    positional=_POSITIONAL,
    advice="diffjax reads EDM network pickles: network-snapshot-*.pkl of an EDM, EDM2 or SiD run, "
    "or one of the released networks that diffjax/convert/catalogue.py lists",
)


def read_pickle(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read an EDM network pickle without running its code.

    Args:
      path: of a file of at most 16 GiB.

    Returns:
      `(init_kwargs, state_dict)`: the arguments of the constructor of the network under `ema`, by
      name, plus `class_name`, one of EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond and EDM2's
      Precond (also of SiDA's classes of that, see `edm2.plain`); and its parameters and buffers by
      PyTorch's names, in PyTorch's layouts and the stored types, except that bfloat16 becomes
      float32.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is anything else, naming it and what is wrong.
    """
    return edm2.plain(*_persistence.read(Path(path), _WANTED, max_bytes=MAX_FILE_BYTES))


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
        if len(numbers) > _persistence.MAX_ENTRIES:
            raise ValueError(
                f"the argument {name} has more than {_persistence.MAX_ENTRIES} entries"
            )
    return from_edm_kwargs(init_kwargs)
