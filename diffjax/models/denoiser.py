"""Denoisers from the constructor arguments of published networks."""

import dataclasses
import difflib
import inspect
import math
import numbers
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from diffjax.diffusion import preconditioning
from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA
from diffjax.models.network_denoiser import NetworkDenoiser
from diffjax.networks.dhariwal_unet import HEAD_CHANNELS, DhariwalUNet
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
      ValueError: naming the unknown class or argument, the missing one, or one of another type or
        range than it has.
    """
    kwargs = dict(init_kwargs)
    class_name = kwargs.pop("class_name", None)
    if not isinstance(class_name, str) or class_name not in preconditioning.BY_EDM_NAME:
        known = ", ".join(preconditioning.BY_EDM_NAME)
        raise ValueError(f"class_name={class_name!r} is no known preconditioning ({known}).")
    precond_class = preconditioning.BY_EDM_NAME[class_name]
    is_iddpm = precond_class is preconditioning.IDDPM
    networks = _OWN_NETWORK.get(class_name, _NETWORKS)
    default_network = "SongUNet" if class_name in ("VPPrecond", "VEPrecond") else "DhariwalUNet"
    if class_name in _OWN_NETWORK:
        (default_network,) = networks
    model_type = kwargs.pop("model_type", default_network)
    if not isinstance(model_type, str) or model_type not in networks:
        known = f"{class_name} ({', '.join(networks)})"
        raise ValueError(f"model_type={model_type!r} is no known network of {known}.")
    for name in ("img_resolution", "img_channels"):
        if name not in kwargs:
            raise ValueError(f"{class_name}: the argument {name} is missing.")
    whose = class_name if class_name in ("SiT", "DiT") else "EDM"
    resolution, channels = kwargs.pop("img_resolution"), kwargs.pop("img_channels")
    label_dim = kwargs.pop("label_dim", 0)
    for name, value in (("img_resolution", resolution), ("img_channels", channels)):
        _check_argument(name, value, int, whose)
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
    types = {
        field.name: field.type
        for cls in (precond_class, network_class)
        for field in dataclasses.fields(cls)
    }
    for name, value in {**precond_kwargs, **kwargs, "label_dim": label_dim}.items():
        _check_argument(name, value, types[name], whose)
    if network_class is DiT:
        _check_transformer(kwargs, resolution)
    else:
        _check_channels(kwargs, network_class, resolution)
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


def _check_argument(name: str, value: Any, kind: Any, whose: str) -> None:
    """Check an argument's type, and that it is a number that a network can be made of."""
    if kind not in _FORMS or (value is None and type(None) in typing.get_args(kind)):
        return
    wanted, is_right = _FORMS[kind]
    if name == "dropout":
        wanted, is_right = "a number from 0 to under 1", lambda x: _is_finite(x) and 0 <= x < 1
    elif name == "label_dropout":
        wanted, is_right = "a number from 0 to 1", lambda x: _is_finite(x) and 0 <= x <= 1
    elif name in _POSITIVE:
        wanted, is_right = "a positive number", lambda x: _is_number(x) and x > 0
    elif name == "channel_mult":
        wanted, is_right = "positive whole numbers", lambda x: _are(x, _is_positive) and len(x) > 0
    elif name in _MAY_BE_ZERO:
        wanted, is_right = "a whole number from 0", lambda x: _is_whole(x) and x >= 0
    elif name == "resample_filter":
        wanted = "two taps or more whose sum isn't 0"
        is_right = lambda x: _are(x, _is_finite) and len(x) > 1 and sum(x)  # noqa: E731
    if not is_right(value):
        raise ValueError(
            f"the arguments describe no {whose} network: {name}={value!r} is not {wanted}"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _are(values: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(values, list | tuple) and all(map(is_right, values))


_MAY_BE_ZERO = ("label_dim", "augment_dim", "num_blocks")
_POSITIVE = ("sigma_data", "sigma_max", "mlp_ratio")  # of which EDM's greatest level is infinite
_FORMS: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    int: ("a positive whole number", _is_positive),
    int | None: ("a positive whole number", _is_positive),
    float: ("a finite number", _is_finite),
    float | None: ("a finite number", _is_finite),
    bool: ("true or false", lambda value: isinstance(value, int) and value in (0, 1)),
    str: ("a name", lambda value: isinstance(value, str)),
    tuple[int, ...]: ("whole numbers", lambda values: _are(values, _is_whole)),
    tuple[float, ...]: ("finite numbers", lambda values: _are(values, _is_finite)),
}


def _check_channels(kwargs: Mapping[str, Any], network_class: Any, resolution: int) -> None:
    """Check that levels halve, and their channels divide into groups of a norm, or heads."""
    defaults = {field.name: field.default for field in dataclasses.fields(network_class)}
    values = {**defaults, **kwargs}
    channels, factors = values["model_channels"], values["channel_mult"]
    halvings = len(factors) - 1
    if resolution % 2**halvings:
        raise ValueError(
            f"img_resolution={resolution} can't be halved {halvings} times, between the levels of "
            f"channel_mult={list(factors)}."
        )
    first = 1 if network_class is SongUNet else factors[0]
    widths = [channels * each for each in _widths(first, factors, values["num_blocks"])]
    for width in widths if network_class is not EDM2UNet else []:
        if width < 4 or width % min(32, width // 4):
            raise ValueError(
                f"model_channels={channels} with channel_mult={list(factors)} makes layers of "
                f"{width} channels; multiples of 4 are needed, and of 32 from 128 on."
            )
    per_head = values.get("channels_per_head", HEAD_CHANNELS)
    attends = [resolution >> level in values["attn_resolutions"] for level in range(len(factors))]
    levels = [channels * each for each, has_it in zip(factors, attends, strict=True) if has_it]
    for width in [widths[0], *levels] if network_class is not SongUNet else []:
        heads = width // per_head
        if heads and width % heads:
            raise ValueError(
                f"model_channels={channels}: a level has {width} channels, which don't divide into "
                f"{heads} heads (channels_per_head={per_head})."
            )


def _widths(first: int, factors: Sequence[int], num_blocks: int) -> list[int]:
    """List the channels of a U-Net's norms over its own, those of its coarsest level first."""
    skips = [first]
    for level, factor in enumerate(factors):
        # More than two blocks are of the same widths.
        skips += skips[-1:] * (level > 0) + [factor] * min(num_blocks, 2)
    found = [skips[-1]]
    for i, skip in enumerate(reversed(skips)):
        found += [skip, found[-1] + skip, factors[-1 - i * len(factors) // len(skips)]]
    return found


def _check_transformer(kwargs: Mapping[str, Any], resolution: int) -> None:
    """Check that images divide into patches, and channels into heads and embeddings."""
    defaults = {field.name: field.default for field in dataclasses.fields(DiT)}
    values = {**defaults, **kwargs}
    patch, width, heads = (values[name] for name in ("patch_size", "hidden_size", "num_heads"))
    if resolution % patch:
        raise ValueError(
            f"patch_size={patch}: {resolution} x {resolution} don't divide into such patches."
        )
    if width % math.lcm(4, heads):
        raise ValueError(
            f"hidden_size={width}: a multiple of 4 is needed, and of num_heads={heads}."
        )
    if not 1 <= values["mlp_ratio"] * width < 2**31:
        raise ValueError(
            f"mlp_ratio={values['mlp_ratio']:g}: that times hidden_size={width} must be at least 1 "
            "channel, and under 2**31; 4 is usual."
        )


def _arguments(cls: Any) -> set[str]:
    return set(inspect.signature(cls).parameters)


__all__ = ["NetworkDenoiser", "from_edm_kwargs"]
