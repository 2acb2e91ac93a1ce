"""Inception network of the FID, from the weights that PyTorch's ports of it distribute.

pytorch-fid (`pt_inception-2015-12-05-6726825d.pth`) and torch-fidelity
(`weights-inception-2015-12-05-6726825d.pth`) give the same file under two names, and the same names
to the arrays inside it.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from diffjax.distributed import numerics
from diffjax.files import download, kinds, torch_state_dict
from diffjax.interfaces import Array, Params
from diffjax.networks.inception import INPUT_SIZE, InceptionV3, preprocess

WEIGHTS_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)

_LEAF_NAMES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}


class InceptionFeatures:
    """Features and logits of images: `features, logits = inception_features(images)`.

    Each shape of `images` is compiled once, so batches should be of one size. Memory grows with the
    batch: images are resized to 299 x 299 whatever they were.

    Attributes:
      variables: of `InceptionV3`.
    """

    def __init__(self, variables: Params) -> None:
        self.variables = variables

    @property
    def logit_bias(self) -> Array:
        """Part of the logits that doesn't depend on the image, [1008].

        The inception score of Salimans et al. 2016 as published, and so of torch-fidelity, leaves
        it out: `inception_score(logits - logit_bias)`.
        """
        return self.variables["params"]["fc"]["bias"]

    def __call__(self, images: npt.ArrayLike | Array) -> tuple[Array, Array]:
        """Compute features [N, 2048] and logits [N, 1008], both float32.

        Args:
          images: [N, H, W, 3] uint8, of any size; they are resized to 299 x 299 inside.

        Raises:
          ValueError: images are of another shape or type.
        """
        images = jnp.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
            raise ValueError(f"images must be [N, H, W, 3], got {images.shape}.")
        if images.dtype != jnp.uint8:
            raise ValueError(
                f"images must be uint8 in [0, 255], got {images.dtype}: features of unrounded "
                "images don't compare with published ones."
            )
        return apply(self.variables, images)


def to_features(state_dict: Mapping[str, Any]) -> InceptionFeatures:
    """Build the function from images to features and logits that weights define.

    Args:
      state_dict: PyTorch's names and layouts; anything that `numpy.asarray` takes. Batch norm's
        `num_batches_tracked`, which only training needs, may be there or not.

    Returns:
      images uint8 [N, H, W, 3] -> (features [N, 2048], logits [N, 1008]).

    Raises:
      ValueError: naming each array that is missing, unexpected, misshapen, or not finite.
    """
    arrays = {
        name: np.asarray(array)
        for name, array in state_dict.items()
        if not name.endswith(".num_batches_tracked")
    }
    abstract = _abstract_variables()
    leaves = jax.tree_util.tree_leaves_with_path(abstract)
    _check_arrays(arrays, {_torch_name(path): _torch_shape(leaf.shape) for path, leaf in leaves})
    variables = jax.tree_util.tree_map_with_path(
        lambda path, _: _from_torch_layout(arrays[_torch_name(path)]), abstract
    )
    return InceptionFeatures(variables)


def load(source: str = WEIGHTS_URL) -> InceptionFeatures:
    """Read the network's weights from a file or URL, which is downloaded once.

    Args:
      source: a path or an https URL of a `torch.save` file.

    Returns:
      As `to_features`.

    Raises:
      OSError: there is no such file or it can't be downloaded.
      ValueError: the file isn't such a file, or doesn't hold this network.
    """
    with download.reading(source) as path:
        return read(path)


def read(path: str | os.PathLike[str]) -> InceptionFeatures:
    """Read the network's weights from a file.

    Args:
      path: of a `torch.save` file.

    Returns:
      As `to_features`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file isn't such a file, or doesn't hold this network.
    """
    state_dict = torch_state_dict.read(path)
    try:
        return to_features(state_dict)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def random(*, seed: int) -> InceptionFeatures:
    """Inception network with random weights: as fast as the real one, good for timing only."""
    image = jnp.zeros((1, INPUT_SIZE, INPUT_SIZE, 3), jnp.float32)
    return InceptionFeatures(jax.jit(InceptionV3().init)(numerics.key(seed), image))


@jax.jit
def apply(variables: Params, images: Array) -> tuple[Array, Array]:
    """Features and logits of images, also inside `jax.jit`.

    Args:
      variables: of `InceptionV3`.
      images: [N, H, W, 3] uint8.

    Returns:
      (features [N, 2048], logits [N, 1008]), both float32.
    """
    outputs: Any = InceptionV3().apply(variables, preprocess(images))
    return outputs


def _abstract_variables() -> Params:
    images = jax.ShapeDtypeStruct((1, INPUT_SIZE, INPUT_SIZE, 3), jnp.float32)
    return jax.eval_shape(InceptionV3().init, jax.random.key(0), images)


def _torch_name(path: Any) -> str:
    """PyTorch's name of a leaf: (params, Mixed_5b, bn, scale) -> Mixed_5b.bn.weight."""
    collection, *modules, leaf = (str(key.key) for key in path)
    return ".".join((*modules, _LEAF_NAMES[collection, leaf]))


def _from_torch_layout(array: np.ndarray) -> Array:
    if array.ndim == 4:  # [out, in, h, w] -> [h, w, in, out]
        array = array.transpose(2, 3, 1, 0)
    elif array.ndim == 2:  # [out, in] -> [in, out]
        array = array.T
    return jnp.asarray(array, jnp.float32)


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 4:
        height, width, channels_in, channels_out = shape
        return channels_out, channels_in, height, width
    return shape[::-1]


def _check_arrays(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    if hint := kinds.wrapper_hint(arrays, shapes):
        raise ValueError(hint)
    faults = [f"{name} is missing" for name in shapes if name not in arrays]
    for name, array in arrays.items():
        if name not in shapes:
            faults.append(f"{name} is not expected")
        elif array.shape != shapes[name]:
            faults.append(f"{name} has shape {array.shape} instead of {shapes[name]}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            faults.append(f"{name} is {array.dtype}, not floating point")
        elif not np.isfinite(array).all():
            faults.append(f"{name} holds NaN or infinity")
    if faults:
        raise ValueError(
            f"The arrays do not fit the Inception network of {WEIGHTS_URL}: " + "; ".join(faults)
        )
