"""PyTorch state dicts of EDM's, EDM2's, DiT's and SiT's networks, as parameters and back.

Module names are theirs on either side, so that conversion is renaming and transposing alone.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from diffjax.convert import dit, edm2, torch_layout
from diffjax.interfaces import Params
from diffjax.models.denoiser import NetworkDenoiser
from diffjax.networks.dit import DiT
from diffjax.networks.edm2 import EDM2UNet


def shapes(denoiser: NetworkDenoiser) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's state dict by PyTorch's names, without computing any array.

    Raises:
      ValueError: if the denoiser's network can't be built.
    """
    return _shapes(_expected_arrays(denoiser), _constants(denoiser))


def to_params(denoiser: NetworkDenoiser, state_dict: Mapping[str, Any]) -> Params:
    """Convert a state dict to a denoiser's parameters.

    Args:
      denoiser: of the network that the state dict is of.
      state_dict: PyTorch's names and layouts; anything that `numpy.asarray` takes.

    Returns:
      The denoiser's tree, of float32 NumPy arrays.

    Raises:
      ValueError: naming each array that is missing, not expected, of another shape, not of floating
        point or not finite, and each constant (`_constants`) that isn't the network's.
    """
    expected, constants = _expected_arrays(denoiser), _constants(denoiser)
    arrays = {name: np.asarray(array) for name, array in state_dict.items()}
    torch_layout.check(arrays, _shapes(expected, constants), constants)
    leaves = {
        path: torch_layout.from_torch(path, arrays[name]) for name, (path, _) in expected.items()
    }
    return torch_layout.nest(leaves, ("params", "buffers"))


def from_params(denoiser: NetworkDenoiser, params: Params) -> dict[str, np.ndarray]:
    """Convert a denoiser's parameters to a state dict.

    Args:
      denoiser: of the network that the parameters are of.
      params: the denoiser's tree.

    Returns:
      float32 NumPy arrays by PyTorch's names, in PyTorch's layouts, with what isn't trained.

    Raises:
      ValueError: naming each array of `params` that is missing, not expected, of another shape, not
        of floating point or not finite.
    """
    expected = _expected_arrays(denoiser)
    arrays = {"/".join(path): np.asarray(leaf) for path, leaf in torch_layout.flatten(params)}
    torch_layout.check(arrays, {"/".join(path): leaf.shape for path, leaf in expected.values()}, {})
    state_dict = {
        name: torch_layout.to_torch(path, arrays["/".join(path)])
        for name, (path, _) in expected.items()
    }
    return state_dict | _constants(denoiser)


def _expected_arrays(
    denoiser: NetworkDenoiser,
) -> dict[str, tuple[tuple[str, ...], jax.ShapeDtypeStruct]]:
    """Map each PyTorch name to (path in the denoiser's tree, shape and type there)."""
    try:
        abstract = denoiser.abstract_params()
    except Exception as error:  # what tracing a network of senseless sizes raises is open-ended
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the arguments describe no EDM network: {reason}") from error
    names = {EDM2UNet: edm2.torch_name, DiT: dit.torch_name}
    name = names.get(type(denoiser.network), _torch_name)
    return {name(path): (path, leaf) for path, leaf in torch_layout.flatten(abstract)}


def _torch_name(path: tuple[str, ...]) -> str:
    """PyTorch's name of a leaf: (params, enc_8x8_conv, kernel) -> model.enc.8x8_conv.weight."""
    if path == ("buffers", "u"):
        return "u"
    *modules, leaf = path[1:]
    if modules[0].startswith(("enc_", "dec_")):
        modules[0] = modules[0].replace("_", ".", 1)
    leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    return ".".join(("model", *modules, leaf))


def _shapes(
    expected: Mapping[str, tuple[tuple[str, ...], jax.ShapeDtypeStruct]],
    constants: Mapping[str, np.ndarray],
) -> dict[str, tuple[int, ...]]:
    shapes = {
        name: torch_layout.torch_shape(path, leaf.shape) for name, (path, leaf) in expected.items()
    }
    return shapes | {name: value.shape for name, value in constants.items()}


def _resample_filter_names(denoiser: NetworkDenoiser) -> Iterator[str]:
    """Names of the buffers in which resampling convolutions keep their constant filter."""
    network = denoiser.network
    if isinstance(network, EDM2UNet):
        return  # which keeps none
    encoder = getattr(network, "encoder_type", "standard")
    decoder = getattr(network, "decoder_type", "standard")
    sizes = [network.img_resolution >> level for level in range(len(network.channel_mult))]
    for size in sizes[1:]:
        block = f"model.enc.{size}x{size}"
        yield f"{block}_down.conv0.resample_filter"
        yield f"{block}_down.skip.resample_filter"
        if encoder != "standard":
            yield f"{block}_aux_{'down' if encoder == 'skip' else encoder}.resample_filter"
    for size in sizes[:-1]:
        block = f"model.dec.{size}x{size}"
        yield f"{block}_up.conv0.resample_filter"
        yield f"{block}_up.skip.resample_filter"
        if decoder == "skip":
            yield f"{block}_aux_up.resample_filter"


def _constants(denoiser: NetworkDenoiser) -> dict[str, np.ndarray]:
    """Arrays of a state dict that aren't trained, by PyTorch's names.

    They are the filters [1, 1, K, K] of resampling convolutions, or a transformer's positions.
    """
    if isinstance(denoiser.network, DiT):
        return dit.constants(denoiser.network)
    taps = np.asarray(getattr(denoiser.network, "resample_filter", (1, 1)), np.float32)
    filter_ = (np.outer(taps, taps) / taps.sum() ** 2)[None, None]
    return {name: filter_.copy() for name in _resample_filter_names(denoiser)}
