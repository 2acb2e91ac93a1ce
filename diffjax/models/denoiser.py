"""Denoisers from the constructor arguments of published networks."""

import dataclasses
import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from diffjax.diffusion import preconditioning
from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA
from diffjax.models.network_denoiser import NetworkDenoiser
from diffjax.networks.dhariwal_unet import DhariwalUNet
from diffjax.networks.dit import DiT
from diffjax.networks.edm2 import EDM2UNet
from diffjax.networks.song_unet import SongUNet

_OF_IMAGES = (1, 3)  # channels, by which they are told from latents
_NETWORKS: dict[str, Any] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}
# Preconditionings that have one network.
_OWN_NETWORK: dict[str, dict[str, Any]] = {
    "Precond": {"EDM2UNet": EDM2UNet},
    "SiT": {"DiT": DiT},
    "DiT": {"DiT": DiT},
}

# Numbers of any network: whether one will do, and what is needed.
_NUMBERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "sigma_data": (lambda v: v > 0, "a positive number"),
    "mlp_ratio": (lambda v: v > 0, "a positive number"),
    "dropout": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "label_dropout": (lambda v: 0 <= v <= 1, "a number in [0, 1]"),
}


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
      init_kwargs: `class_name` (EDMPrecond, VPPrecond, VEPrecond or iDDPMPrecond, EDM2's Precond,
        SiT or DiT), `model_type` (SongUNet or DhariwalUNet; the last three have one),
        `img_resolution`, `img_channels`, `label_dim`, and any of the arguments of that
        preconditioning and that network, by EDM's names or our own. What EDM2, SiT and DiT
        denoise is images if it has 1 or 3 channels, else latents.
      dtype: of the network's computation. EDM's `use_fp16` is a way to train and is not followed.
      dropout: replaces the network's own rate, in [0, 1); None keeps it.
      attention: "xla" or "cudnn"; see `attention.self_attention`.
      rematerialize: whether residual blocks are computed again in the backward pass, for memory.

    Raises:
      ValueError: naming the unknown class or argument, the missing one, or one out of its range.
    """
    kwargs = dict(init_kwargs)
    class_name = kwargs.pop("class_name", None)
    if class_name not in preconditioning.BY_EDM_NAME:
        known = ", ".join(preconditioning.BY_EDM_NAME)
        raise ValueError(f"class_name={class_name!r} is no known preconditioning ({known}).")
    precond_class = preconditioning.BY_EDM_NAME[class_name]
    is_iddpm = precond_class is preconditioning.IDDPM
    networks = _OWN_NETWORK.get(class_name, _NETWORKS)
    default_network = "SongUNet" if class_name in ("VPPrecond", "VEPrecond") else "DhariwalUNet"
    if class_name in _OWN_NETWORK:
        (default_network,) = networks
    model_type = kwargs.pop("model_type", default_network)
    if model_type not in networks:
        known = f"{class_name} ({', '.join(networks)})"
        raise ValueError(f"model_type={model_type!r} is no known network of {known}.")
    for name in ("img_resolution", "img_channels"):
        if name not in kwargs:
            raise ValueError(f"{class_name}: the argument {name} is missing.")
    resolution, channels = kwargs.pop("img_resolution"), kwargs.pop("img_channels")
    label_dim = kwargs.pop("label_dim", 0)
    is_latent = class_name in _OWN_NETWORK and channels not in _OF_IMAGES
    kwargs.pop("use_fp16", None)

    precond_kwargs = {k: kwargs.pop(k) for k in _arguments(precond_class) if k in kwargs}
    if dropout is not None:
        kwargs["dropout"] = dropout
    if networks.get(model_type) is DiT and not is_latent:
        precond_kwargs.setdefault("sigma_data", PUBLISHED_SIGMA_DATA)
    network_class: Any = networks[model_type]
    known_arguments = _arguments(network_class) - {
        "dtype",
        "attention",
        "rematerialize",
        "parent",
        "name",
        "out_channels",
    }
    for name in kwargs:
        if name not in known_arguments:
            nearest = difflib.get_close_matches(name, known_arguments, n=1)
            hint = f" Nearest known: {nearest[0]}." if nearest else ""
            raise ValueError(f"{class_name}({model_type}): unknown argument {name!r}.{hint}")
    _check_numbers({**precond_kwargs, **kwargs})
    if network_class is DiT:
        sizes = {"img_resolution": resolution, "img_channels": channels}
        _check_transformer({**sizes, **kwargs}, label_dim)
    else:
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
        is_latent=is_latent,
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


def _check_numbers(values: Mapping[str, Any]) -> None:
    """Check what no shape of an array depends on, so that nothing else refuses it."""
    for name, (holds, wanted) in _NUMBERS.items():
        value = values.get(name)
        if name in values and not (_is_number(value) and holds(value)):
            raise ValueError(f"{name}={value!r}: {wanted} is needed.")


def _check_transformer(kwargs: Mapping[str, Any], label_dim: Any) -> None:
    """Check types, and that images divide into patches, and channels into heads and embeddings."""
    defaults = {field.name: field.default for field in dataclasses.fields(DiT)}
    values = {**defaults, **kwargs}
    names = ("img_resolution", "img_channels", "patch_size", "hidden_size", "depth", "num_heads")
    for name in names:
        if not _is_whole(values[name]) or values[name] < 1:
            raise ValueError(f"{name}={values[name]!r}: a whole number of at least 1 is needed.")
    if not _is_whole(label_dim) or label_dim < 0:
        raise ValueError(f"label_dim={label_dim!r}: a whole number of at least 0 is needed.")
    for name in ("learn_sigma", "null_class"):
        if not isinstance(values[name], bool):
            raise ValueError(f"{name}={values[name]!r}: True or False is needed.")
    resolution, _, patch, width, _, heads = (values[name] for name in names)
    if resolution % patch:
        raise ValueError(
            f"patch_size={patch}: {resolution} x {resolution} don't divide into such patches."
        )
    if width % math.lcm(4, heads):
        raise ValueError(
            f"hidden_size={width}: a multiple of 4 is needed, and of num_heads={heads}."
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _arguments(cls: Any) -> set[str]:
    return set(inspect.signature(cls).parameters)


__all__ = ["NetworkDenoiser", "from_edm_kwargs"]
