"""Denoisers from the constructor arguments of published networks."""

import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from diffjax.diffusion import preconditioning
from diffjax.models.network_denoiser import NetworkDenoiser
from diffjax.networks.dhariwal_unet import DhariwalUNet
from diffjax.networks.edm2 import EDM2UNet
from diffjax.networks.song_unet import SongUNet

_NETWORKS = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}
_EDM2 = "Precond"  # EDM2's one preconditioning has one network


def from_edm_kwargs(
    init_kwargs: Mapping[str, Any],
    *,
    dtype: Any = jnp.float32,
    dropout: float | None = None,
    attention: str = "xla",
    rematerialize: bool = False,
) -> NetworkDenoiser:
    """Build a denoiser from the constructor arguments of one of EDM's preconditioned networks.

    Args:
      init_kwargs: `class_name` (EDMPrecond, VPPrecond, VEPrecond or iDDPMPrecond, or EDM2's
        Precond), `model_type` (SongUNet or DhariwalUNet; EDM2 has one), `img_resolution`,
        `img_channels`, `label_dim`, and any of the arguments of that preconditioning and that
        network, by EDM's names. What EDM2 denoises is images if it has 1 or 3 channels, else
        latents.
      dtype: of the network's computation. EDM's `use_fp16` is a way to train and is not followed.
      dropout: replaces the network's own rate, in [0, 1); None keeps it.
      attention: "xla" or "cudnn"; see `attention.self_attention`.
      rematerialize: whether residual blocks are computed again in the backward pass, for memory.

    Raises:
      ValueError: naming the unknown class or argument, or the missing one.
    """
    kwargs = dict(init_kwargs)
    class_name = kwargs.pop("class_name", None)
    if class_name not in preconditioning.BY_EDM_NAME:
        known = ", ".join(preconditioning.BY_EDM_NAME)
        raise ValueError(f"class_name={class_name!r} is no known preconditioning ({known}).")
    precond_class = preconditioning.BY_EDM_NAME[class_name]
    is_iddpm = precond_class is preconditioning.IDDPM
    is_edm2 = class_name == _EDM2
    networks = {"EDM2UNet": EDM2UNet} if is_edm2 else _NETWORKS
    default_network = "SongUNet" if class_name in ("VPPrecond", "VEPrecond") else "DhariwalUNet"
    model_type = kwargs.pop("model_type", "EDM2UNet" if is_edm2 else default_network)
    if model_type not in networks:
        known = f"{class_name} ({', '.join(networks)})"
        raise ValueError(f"model_type={model_type!r} is no known network of {known}.")
    for name in ("img_resolution", "img_channels"):
        if name not in kwargs:
            raise ValueError(f"{class_name}: the argument {name} is missing.")
    resolution, channels = kwargs.pop("img_resolution"), kwargs.pop("img_channels")
    label_dim = kwargs.pop("label_dim", 0)
    kwargs.pop("use_fp16", None)

    precond_kwargs = {k: kwargs.pop(k) for k in _arguments(precond_class) if k in kwargs}
    if dropout is not None:
        kwargs["dropout"] = dropout
    network_class: Any = networks[model_type]
    known_arguments = _arguments(network_class) - {
        "dtype",
        "attention",
        "parent",
        "name",
        "out_channels",
    }
    for name in kwargs:
        if name not in known_arguments:
            nearest = difflib.get_close_matches(name, known_arguments, n=1)
            hint = f" Nearest known: {nearest[0]}." if nearest else ""
            raise ValueError(f"{class_name}({model_type}): unknown argument {name!r}.{hint}")
    _check_channels(kwargs, network_class)
    network = network_class(
        img_resolution=resolution,
        out_channels=channels * (2 if is_iddpm else 1),
        label_dim=label_dim,
        dtype=dtype,
        attention=attention,
        rematerialize=rematerialize,
        **{k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()},
    )
    return NetworkDenoiser(
        network=network,
        preconditioning=precond_class(**precond_kwargs),
        image_shape=(resolution, resolution, channels),
        label_dim=label_dim,
        is_latent=is_edm2 and channels not in (1, 3),
    )


def _check_channels(kwargs: Mapping[str, Any], network_class: Any) -> None:
    """Check that each level's channels divide into the groups of its normalisation, or heads."""
    defaults = {field.name: field.default for field in dataclasses.fields(network_class)}
    values = {**defaults, **kwargs}
    channels, factors = values["model_channels"], values["channel_mult"]
    if not isinstance(channels, int) or not isinstance(factors, list | tuple):
        return  # which the network refuses
    per_head = values.get("channels_per_head", 0)
    for level in (channels * factor for factor in factors if isinstance(factor, int)):
        if network_class is not EDM2UNet and (level % 4 or level % min(32, level // 4)):
            raise ValueError(
                f"model_channels={channels}: a level has {level} channels; a multiple of 4 is "
                "needed, and of 32 from 128 on."
            )
        heads = level // per_head if isinstance(per_head, int) and per_head > 0 else 0
        if heads and level % heads:
            raise ValueError(
                f"model_channels={channels}: a level has {level} channels, which don't divide into "
                f"{heads} heads (channels_per_head={per_head})."
            )


def _arguments(cls: Any) -> set[str]:
    return set(inspect.signature(cls).parameters)


__all__ = ["NetworkDenoiser", "from_edm_kwargs"]
