"""Stable Diffusion's autoencoder from a folder or file of diffusers', read without PyTorch.

A folder is the autoencoder's, with `config.json` and safetensors, or a pipeline's, with `vae/`. A
file is one of safetensors with `config.json` beside it.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.convert import _diffusers_models, diffusers_files
from diffjax.files import kinds, paths
from diffjax.interfaces import Params
from diffjax.networks.autoencoder_kl import AutoencoderKL

CLASS_NAME = "AutoencoderKL"
# Of a config that doesn't say it, as those of Stable Diffusion's first autoencoders.
SCALING_FACTOR = 0.18215
# Settings that aren't the networks' function: size of the data, and precision elsewhere.
_OTHERS = ("sample_size", "force_upcast", "scaling_factor", "shift_factor")
_OURS = ("dtype", "parent", "name")
SETTINGS = {
    field.name: field.default
    for field in dataclasses.fields(AutoencoderKL)
    if field.name not in _OURS
}
_FILE = ".safetensors"
_FOLDER = "vae"  # in a pipeline's


@dataclasses.dataclass(frozen=True)
class StoredAutoencoder:
    """Content of a folder or file as far as it is known without reading its weights.

    Attributes:
      network: the autoencoder, to be bound to the weights.
      scaling_factor: by which pipelines multiply raw latents, less `shift_factor`.
      shift_factor: subtracted from raw latents before.
      weights: files of the weights.
    """

    network: AutoencoderKL
    scaling_factor: float
    shift_factor: float
    weights: tuple[Path, ...]

    def read_params(self) -> Params:
        """Read the weights, float32.

        Returns:
          `{"params": …}`, variables of `network`.

        Raises:
          ValueError: in one line, naming the file and the arrays that don't fit.
        """
        arrays: dict[str, np.ndarray] = {}
        for path in self.weights:
            arrays |= diffusers_files.read_safetensors(path)
        with diffusers_files.named(self.weights[0]):
            return variables(self.network, arrays)


def describe(path: str | os.PathLike[str]) -> StoredAutoencoder:
    """Read all of an autoencoder but its weights.

    Args:
      path: of a folder, the autoencoder's or a pipeline's, or of a file of safetensors.

    Raises:
      FileNotFoundError: in one line, if the folder or one of its files isn't there.
      ValueError: in one line, naming the file and the setting that isn't read.
    """
    given = Path(paths.expanded(os.fspath(path)))
    if not given.exists():
        raise FileNotFoundError(
            f"{given} isn't there; download the autoencoder's folder (hf download "
            "stabilityai/sd-vae-ft-mse --local-dir FOLDER) and give its path"
        )
    if given.is_dir():
        is_pipeline = (given / diffusers_files.INDEX).is_file()
        has_config = (given / diffusers_files.CONFIG).is_file()
        folder = given / _FOLDER if is_pipeline or not has_config else given
        if not folder.is_dir():
            folder = given
    else:
        if given.suffix != _FILE:
            raise ValueError(f"{given}: not a safetensors file{kinds.but(given)}")
        folder = given.parent
    config_path = folder / diffusers_files.CONFIG
    if not config_path.is_file():
        raise FileNotFoundError(
            f"{config_path} isn't there; it says how the autoencoder is built: download it too"
        )
    config = diffusers_files.read_json(config_path)
    with diffusers_files.named(config_path):
        network = autoencoder(config)
        scale = _diffusers_models.number(
            "scaling_factor", _or_default(config.get("scaling_factor"), SCALING_FACTOR)
        )
        if scale <= 0:
            raise ValueError(f"scaling_factor={scale!r} must be positive")
        shift = _diffusers_models.number("shift_factor", _or_default(config.get("shift_factor"), 0))
    is_folder = given.is_dir()
    weights = diffusers_files.weights(folder, class_name=CLASS_NAME) if is_folder else (given,)
    return StoredAutoencoder(network, scale, shift, weights)


def autoencoder(config: Mapping[str, Any]) -> AutoencoderKL:
    """Build the autoencoder that a config describes.

    Args:
      config: as `config.json` of an AutoencoderKL has it.

    Raises:
      ValueError: in one line, naming the setting that isn't read.
    """
    settings = _diffusers_models.settings(config, CLASS_NAME, SETTINGS, optional={}, others=_OTHERS)
    return AutoencoderKL(**settings)


def shapes(network: AutoencoderKL) -> dict[str, tuple[int, ...]]:
    """Shapes of the state dict by PyTorch's names, without computing any array.

    Args:
      network: the autoencoder.
    """
    return _diffusers_models.shapes(_expected(network))


def variables(network: AutoencoderKL, state_dict: Mapping[str, np.ndarray]) -> Params:
    """Convert a state dict to the autoencoder's variables.

    Args:
      network: the autoencoder that the state dict is of.
      state_dict: arrays by PyTorch's names, those of attention old or new, of any floating type.

    Returns:
      `{"params": …}`, float32.

    Raises:
      ValueError: naming arrays that are missing, not expected, of another shape, not of floating
        point or not finite.
    """
    return _diffusers_models.variables(_expected(network), state_dict)


@functools.lru_cache(maxsize=1)
def _expected(network: AutoencoderKL) -> _diffusers_models.Expected:
    image = jax.ShapeDtypeStruct(
        (1, network.factor, network.factor, network.in_channels), jnp.float32
    )
    return _diffusers_models.expected(jax.eval_shape(network.init, jax.random.key(0), image))


def _or_default(value: Any, default: float) -> Any:
    return default if value is None else value
