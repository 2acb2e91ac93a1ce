"""Recorded cases of Stable Diffusion's autoencoder, and folders of small ones."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from diffjax.convert import diffusers_vae
from tests.support import golden_cases

# 4 channels of 8x8 from images of 16x16.
SMALL = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [4, 8],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_size": 16,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"
_OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def state_dict(network, prefix=""):
    """Arrays by the recorded cases' rule, by PyTorch's names."""
    shapes = diffusers_vae.shapes(network)
    return {name: golden_cases.rule(prefix + name, shape) for name, shape in shapes.items()}


def old_name(name):
    """The name of attention's arrays before diffusers 0.15."""
    for new, old in _OLD_NAMES.items():
        name = name.replace(f".{new}.", f".{old}.") if ".attentions." in name else name
    return name


def case_and_weights(name):
    """A case, its autoencoder and variables."""
    case = golden_cases.Case(name)
    network = diffusers_vae.autoencoder(case.kwargs)
    variables = diffusers_vae.variables(network, state_dict(network, case.prefix))
    return case, network, jax.tree.map(jnp.asarray, variables)


def nhwc(array):
    return jnp.asarray(np.moveaxis(array, -3, -1))


def save(folder, config=SMALL, arrays=None):
    """Write a folder as diffusers does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if arrays is None:
        arrays = state_dict(diffusers_vae.autoencoder(config))
    safetensors.numpy.save_file(arrays, folder / WEIGHTS)
    return folder
