"""Network and parameters from the config and state dict of diffusers' UNet2DModel."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.convert import _diffusers_models
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


def network(config: Mapping[str, Any]) -> UNet2D:
    """Build the network that a config describes.

    Args:
      config: as `config.json` of a UNet2DModel has it.

    Raises:
      ValueError: in one line, naming the setting that isn't read.
    """
    settings = _diffusers_models.settings(
        config,
        CLASS_NAME,
        SETTINGS,
        optional=_OPTIONAL,
        others=_OTHERS,
        may_be_zero=_MAY_BE_ZERO,
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
    return _diffusers_models.shapes(_expected(net))


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
    return _diffusers_models.variables(_expected(net), state_dict)


@functools.lru_cache(maxsize=1)
def _expected(net: UNet2D) -> _diffusers_models.Expected:
    return _diffusers_models.expected(abstract(net))
