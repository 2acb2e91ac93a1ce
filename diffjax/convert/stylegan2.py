"""Network pickles of StyleGAN2-ADA, as generators.

Format: `training/training_loop.py` and `torch_utils/persistence.py` of
https://github.com/NVlabs/stylegan2-ada-pytorch, which the StyleGAN2 networks of
https://github.com/NVlabs/stylegan3 share. A pickle holds the averaged generator under `G_ema`.
Module names are the released code's on either side, so that conversion is renaming and transposing
alone.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from diffjax.convert import _persistence, torch_layout
from diffjax.files import download, paths
from diffjax.interfaces import Array, Params, PRNGKey
from diffjax.models import conditions
from diffjax.models.generator import Generator
from diffjax.networks import stylegan2_synthesis as synthesis
from diffjax.networks.stylegan2 import StyleGAN2
from diffjax.networks.stylegan2_layers import ACTIVATIONS, BUFFERS

MAX_FILE_BYTES = 16 * 2**30
_MAX_COUNT = 2**16
_MAX_RESOLUTION = 4096
_MAX_TAPS = 6  # of the filter; longer ones are stored in another form

_POSITIONAL = (
    *("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"),
    *("mapping_kwargs", "synthesis_kwargs"),
)
_WANTED = _persistence.Wanted(
    entry="G_ema",
    positional={"Generator": _POSITIONAL},
    nested=("mapping_kwargs", "synthesis_kwargs"),
    advice="diffjax reads network pickles of StyleGAN2-ADA's PyTorch code: a released one, or "
    "network-snapshot-*.pkl of a run; its legacy.py converts those of TensorFlow",
)

Rule = tuple[Callable[[Any], bool], str]


def _count(least: int, most: int = _MAX_COUNT) -> Rule:
    return lambda v: type(v) is int and least <= v <= most, f"an integer from {least} to {most}"


def _or_none(rule: Rule) -> Rule:
    return lambda v: v is None or rule[0](v), f"{rule[1]}, or None"


def _one_of(names: Collection[str]) -> Rule:
    return lambda v: isinstance(v, str) and v in names, f"one of {', '.join(names)}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_filter(taps: Any) -> bool:
    is_list = isinstance(taps, list | tuple) and len(taps) in range(2, _MAX_TAPS + 1, 2)
    return is_list and all(map(_is_number, taps)) and sum(taps) != 0


_POSITIVE: Rule = (lambda v: _is_number(v) and v > 0, "a positive number")
_NETWORK: dict[str, Rule] = {
    "z_dim": _count(1),
    "c_dim": _count(0),
    "w_dim": _count(1),
    "img_resolution": (
        lambda v: type(v) is int and 4 <= v <= _MAX_RESOLUTION and not v & (v - 1),
        f"a power of 2 from 4 to {_MAX_RESOLUTION}",
    ),
    "img_channels": _count(1),
}
_MAPPING: dict[str, Rule] = {
    "num_layers": _count(1, 64),
    "embed_features": _or_none(_count(1)),
    "layer_features": _or_none(_count(1)),
    "activation": _one_of(ACTIVATIONS),
    "lr_multiplier": _POSITIVE,
    "w_avg_beta": _or_none((lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1")),
}
_SYNTHESIS: dict[str, Rule] = {
    "channel_base": _count(1, 2**24),
    "channel_max": _count(1),
    "architecture": _one_of(synthesis.ARCHITECTURES),
    "resample_filter": (_is_filter, f"2, 4 or {_MAX_TAPS} numbers"),
    "conv_clamp": _or_none(_POSITIVE),
    "use_noise": (lambda v: type(v) is bool, "True or False"),
    "activation": _one_of(ACTIVATIONS),
}
# Of the synthesis network: how PyTorch computes, in which precision and in which layout.
_WITHOUT_EFFECT = ("num_fp16_res", "fp16_channels_last", "fused_modconv_default")
_FIXED = {"kernel_size": 3}


def read_pickle(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a StyleGAN2-ADA network pickle without running its code.

    Args:
      path: of a file of at most 16 GiB.

    Returns:
      `(init_kwargs, state_dict)`: the arguments of the constructor of the generator under `G_ema`,
      by name; and its parameters and buffers by PyTorch's names, in PyTorch's layouts and the
      stored types, except that bfloat16 becomes float32.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is anything else, naming it and what is wrong.
    """
    init_kwargs, state_dict = _persistence.read(Path(path), _WANTED, max_bytes=MAX_FILE_BYTES)
    return {k: v for k, v in init_kwargs.items() if k != "class_name"}, state_dict


def build(init_kwargs: Mapping[str, Any], *, dtype: Any = None, fused: bool = False) -> StyleGAN2:
    """Build the network that a pickle's arguments describe.

    Args:
      init_kwargs: the constructor's arguments, as `read_pickle` gives them. What PyTorch computes
        in float16 is not looked at.
      dtype: of the convolutions; None for float32.
      fused: whether each example gets kernels of its own; the result is the same.

    Raises:
      ValueError: if they describe no network, naming the argument.
    """
    kwargs = dict(init_kwargs)
    mapping, nested = (kwargs.pop(f"{part}_kwargs", {}) for part in ("mapping", "synthesis"))
    for name, value in (("mapping_kwargs", mapping), ("synthesis_kwargs", nested)):
        if not isinstance(value, Mapping):
            raise ValueError(f"the argument {name} is {type(value).__name__}, not a dict")
    # The code of StyleGAN3 has those of the synthesis network among the others.
    flat = {name: kwargs.pop(name) for name in list(kwargs) if name not in _NETWORK}
    if twice := flat.keys() & nested.keys():
        raise ValueError(f"the argument {min(twice)} is given twice")
    settings = {k: v for k, v in {**nested, **flat}.items() if k not in _WITHOUT_EFFECT}
    for name, value in _FIXED.items():
        if settings.pop(name, value) != value:
            raise ValueError(f"the argument synthesis_kwargs.{name} must be {value}")
    for name in _NETWORK:
        if name not in kwargs:
            raise ValueError(f"the argument {name} is missing")
    _check(kwargs, _NETWORK, "")
    _check(mapping, _MAPPING, "mapping_kwargs.")
    _check(settings, _SYNTHESIS, "synthesis_kwargs.")
    if "resample_filter" in settings:
        settings["resample_filter"] = tuple(settings["resample_filter"])
    network = StyleGAN2(
        **kwargs,
        mapping_kwargs=FrozenDict(mapping),
        synthesis_kwargs=FrozenDict(settings, dtype=dtype, fused_modconv=fused),
    )
    base = settings.get("channel_base", synthesis.SynthesisNetwork.channel_base)
    if base < network.img_resolution:
        raise ValueError(
            f"the argument synthesis_kwargs.channel_base={base} leaves no channel at "
            f"img_resolution={network.img_resolution}"
        )
    return network


def state_dict_shapes(network: StyleGAN2) -> dict[str, tuple[int, ...]]:
    """Names and shapes of PyTorch's state dict, without computing any array.

    Args:
      network: of the state dict.
    """
    shapes = {
        name: _torch_shape(path, leaf.shape) for name, (path, leaf) in _expected(network).items()
    }
    return shapes | {name: value.shape for name, value in _filters(network).items()}


def to_variables(network: StyleGAN2, state_dict: Mapping[str, Any]) -> Params:
    """Convert a state dict to the network's variables.

    Args:
      network: as `build` made it.
      state_dict: PyTorch's names and layouts; anything that `numpy.asarray` takes.

    Returns:
      {"params", "buffers"} of float32 NumPy arrays.

    Raises:
      ValueError: naming each array that is missing, not expected, of another shape, not of floating
        point or not finite, and each resampling filter that isn't the network's.
    """
    arrays = {name: np.asarray(array) for name, array in state_dict.items()}
    torch_layout.check(arrays, state_dict_shapes(network), _filters(network))
    expected = _expected(network).items()
    leaves = {path: _from_torch(path, arrays[name]) for name, (path, _) in expected}
    return torch_layout.nest(leaves, ("params", BUFFERS))


def generator(
    source: str | os.PathLike[str],
    *,
    noise_mode: str = "random",
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
    dtype: Any = None,
) -> Generator:
    """Open a StyleGAN2 pickle as a student: images [B, H, W, C] of the data in [-1, 1].

        def cifar(teacher):
            return stylegan2.generator("stylegan2-cifar10.pkl")

    Args:
      source: path or https URL of a pickle, as `read_pickle` takes it; a URL is downloaded once.
      noise_mode: as `to_generator` takes it.
      truncation_psi: as `to_generator` takes it.
      truncation_cutoff: as `to_generator` takes it.
      dtype: of the convolutions; None for float32.

    Raises:
      FileNotFoundError: if there is no such file.
      ConnectionError: if it can't be downloaded.
      ValueError: if it is no such pickle, or its arrays don't fit its arguments, naming the file
        and what is wrong; or as `to_generator` raises.
    """
    with download.reading(paths.expanded(str(source))) as path:
        init_kwargs, state_dict = read_pickle(path)
        try:
            network = build(init_kwargs, dtype=dtype)
            variables = to_variables(network, state_dict)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return to_generator(
        network,
        variables,
        noise_mode=noise_mode,
        truncation_psi=truncation_psi,
        truncation_cutoff=truncation_cutoff,
    )


def to_generator(
    network: StyleGAN2,
    variables: Params,
    *,
    noise_mode: str = "random",
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
) -> Generator:
    """Make a student of a StyleGAN2 network.

    Its latents are z [B, z_dim], or, in the mode "random", {"z": z, "noise": noise by layer}. Its
    condition is [B, c_dim] one-hot classes, or None where c_dim is 0. All but the buffers is
    trained: the average of w and the constant noise aren't.

    Args:
      network: the network.
      variables: {"params", "buffers"} of it.
      noise_mode: "random" (drawn with z), "const" (the network's own) or "none".
      truncation_psi: ψ, towards the average of w; 1 for no truncation.
      truncation_cutoff: how many of the ws ψ applies to, from the first; None for all.

    Raises:
      ValueError: on another mode, or a ψ or cutoff that is no number.
    """
    if noise_mode not in synthesis.NOISE_MODES:
        known = ", ".join(synthesis.NOISE_MODES)
        raise ValueError(f"noise_mode={noise_mode!r} is none of {known}")
    if not _is_number(truncation_psi):
        raise ValueError(f"truncation_psi={truncation_psi!r} must be a finite number")
    if truncation_cutoff is not None and not _count(0)[0](truncation_cutoff):
        raise ValueError(f"truncation_cutoff={truncation_cutoff!r} must be an integer or None")
    has_noise = noise_mode == "random" and network.synthesis_kwargs.get("use_noise", True)

    def generate(params: Params, z: Any, cond: Any = None) -> Array:
        noise = None
        if has_noise:
            z, noise = z["z"], z["noise"]
        images: Any = network.apply(
            params,
            z,
            cond,
            truncation_psi=truncation_psi,
            truncation_cutoff=truncation_cutoff,
            noise_mode=noise_mode,
            noise=noise,
        )
        return images

    law = _Latent(network.z_dim, network.img_resolution) if has_noise else None
    latent = law or conditions.normal(network.z_dim)
    return Generator(generate, variables, latent, _is_trained)


@dataclasses.dataclass(frozen=True)
class _Latent:
    unit_normal: ClassVar[bool] = True
    z_dim: int
    img_resolution: int

    def __call__(self, key: PRNGKey, batch: int) -> dict[str, Any]:
        of_z, of_noise = jax.random.split(key)
        z = jax.random.normal(of_z, (batch, self.z_dim), jnp.float32)
        return {"z": z, "noise": synthesis.draw_noise(of_noise, batch, self.img_resolution)}


def _is_trained(path: tuple[str, ...], leaf: Any) -> bool:
    del leaf
    return BUFFERS not in path


def _check(settings: Mapping[str, Any], rules: Mapping[str, Rule], prefix: str) -> None:
    for name, value in settings.items():
        if name not in rules:
            raise ValueError(f"the argument {prefix}{name} is none of StyleGAN2's")
        is_right, wanted = rules[name]
        if not is_right(value):
            raise ValueError(f"the argument {prefix}{name}={value!r} must be {wanted}")


def _expected(network: StyleGAN2) -> dict[str, tuple[torch_layout.Path, Any]]:
    """Map each PyTorch name, but the filters', to (path in the variables, shape and type there)."""
    leaves = torch_layout.flatten(network.abstract_variables())
    return {_torch_name(path): (path, leaf) for path, leaf in leaves}


def _torch_name(path: torch_layout.Path) -> str:
    """PyTorch's name of a leaf: (params, mapping, fc0, kernel) -> mapping.fc0.weight."""
    *modules, leaf = path[1:]
    return ".".join((*modules, "weight" if leaf == "kernel" else leaf))


def _torch_shape(path: torch_layout.Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    if path[-1] == "const":  # [4, 4, C], of PyTorch's [C, 4, 4]
        return shape[-1], *shape[:-1]
    return torch_layout.torch_shape(path, shape)


def _from_torch(path: torch_layout.Path, array: np.ndarray) -> np.ndarray:
    if path[-1] == "const":
        array = np.moveaxis(array, 0, -1)
    return torch_layout.from_torch(path, array)


def _filters(network: StyleGAN2) -> dict[str, np.ndarray]:
    """Constant filters [K, K] of blocks and layers, by PyTorch's names."""
    settings = network.synthesis_kwargs
    given = settings.get("resample_filter", synthesis.SynthesisNetwork.resample_filter)
    taps = np.asarray(given, np.float32)
    filter_ = np.outer(taps, taps) / taps.sum() ** 2
    names = [layer.replace("_", ".") for layer in synthesis.noisy(network.img_resolution)]
    sizes = synthesis.resolutions(network.img_resolution)
    names += [f"b{size}" for size in sizes]
    if settings.get("architecture") == "resnet":
        names += [f"b{size}.skip" for size in sizes[1:]]
    return {f"synthesis.{name}.resample_filter": filter_.copy() for name in names}
