"""Features of samples: functions by name, and how they run over all devices.

"inception" is the network that the FID is defined on; "pixels" are the images themselves, "values"
samples of any kind themselves; and "module:function" is anybody's function: [N, *shape] -> [N, D],
where images of our own networks are uint8 [N, H, W, C], all other samples float32 in the units of
the data. One that is wrapped in `jax.jit` runs on all devices, joined with the generator in one
compiled call; any other gets NumPy arrays and may use whatever library it likes.
"""

import dataclasses
import hashlib
import importlib
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from diffjax.convert import inception
from diffjax.distributed import sharding
from diffjax.files import download
from diffjax.interfaces import Params

INCEPTION = "inception"
# Features that are defined on images alone.
OF_IMAGES = (INCEPTION, "pixels")
# The first digits of the SHA-256 of the published file, which torch.hub has in its name.
_PUBLISHED_DIGEST = "6726825d"
_RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Features:
    """Feature function and its properties.

    Attributes:
      name: part of metrics' names and of the metadata of statistics. "inception" is that network
        with its published weights and nothing else; other weights have other names.
      apply: (variables, samples [N, *shape]) -> (features [N, D], logits [N, K] or None).
      variables: first argument of `apply`, so that compiled code doesn't hold them.
      compiled: whether `apply` may be called inside `jax.jit`; otherwise it takes NumPy arrays.
      channels: number of image channels that `apply` takes; None for any.
      logit_bias: [K], subtracted from the logits in the published inception score; None without
        logits.
      function: what computes them, "inception", "pixels" or "module:function"; "" where that isn't
        known.
      sha256: of the file of weights, or of the function's module; "" where there is none.
    """

    name: str
    apply: Callable[[Params, Any], tuple[Any, Any]]
    variables: Params = None
    compiled: bool = False
    channels: int | None = None
    logit_bias: np.ndarray | None = None
    function: str = ""
    sha256: str = ""

    @property
    def record(self) -> dict[str, str]:
        """Description of the features, for files that hold numbers of them."""
        return {"name": self.name, "function": self.function, "sha256": self.sha256}

    @property
    def is_published_inception(self) -> bool:
        """Whether a Fréchet distance of these features may be called FID."""
        return self.name == INCEPTION

    @property
    def is_random(self) -> bool:
        """Whether the network's weights are random, which is good for timing only."""
        return self.name == f"{INCEPTION}_{_RANDOM}"

    def dim(self, image_shape: tuple[int, ...]) -> int:
        """Number of features of an image, without computing anything where that can be.

        Args:
          image_shape: (H, W, C).
        """
        if self.compiled:
            image = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
            rows, _ = jax.eval_shape(self.apply, self.variables, image)
        else:
            rows, _ = self.apply(self.variables, np.zeros((1, *image_shape), np.uint8))
        return int(np.prod(rows.shape[1:]))

    def check_channels(self, channels: int, where: str) -> None:
        """Check the channels of images before any is read or made.

        Args:
          channels: of the images.
          where: name of the images' origin in an error.

        Raises:
          ValueError: if these features take another number of channels.
        """
        if self.channels not in (None, channels):
            raise ValueError(
                f"{where} has {channels} channels, but features={self.name!r} takes "
                f"{self.channels}; features='pixels' takes any."
            )


def pixels(images: np.ndarray) -> np.ndarray:
    """Pixels as features: uint8 [N, H, W, C] -> float64 [N, H · W · C] in [-1, 1]."""
    return images.reshape(len(images), -1).astype(np.float64) / 127.5 - 1


def values(samples: np.ndarray) -> np.ndarray:
    """Samples as features: [N, *shape] -> float64 [N, D], uint8 images in [-1, 1].

    Args:
      samples: uint8 images, or floats in any units.
    """
    if samples.dtype == np.uint8:
        return pixels(samples)
    return samples.reshape(len(samples), -1).astype(np.float64)


def of_function(
    function: Callable[[Any], Any],
    name: str,
    *,
    sha256: str,
    field: str = "features",
    errors: type[ValueError] = ValueError,
) -> Features:
    """Make features of anybody's function.

    Args:
      function: [N, *shape] -> [N, D]; what `jax.jit` gave is compiled with all else.
      name: of the function, "module:function".
      sha256: of its module's file.
      field: name of the setting in an error.
      errors: type of the error that what it raises becomes.
    """

    def apply(_: Params, samples: Any) -> tuple[Any, None]:
        try:
            return function(samples), None
        except Exception as error:  # a user's function may fail in any way
            text = " ".join(str(error).split())
            raise errors(
                f"{field}={name!r} fails on {samples.dtype} {list(samples.shape)} with "
                f"{type(error).__name__}: {text}"
            ) from error

    is_compiled = isinstance(function, jax.stages.Wrapped)
    own_name = name.partition(":")[2]
    return Features(own_name, apply, compiled=is_compiled, function=name, sha256=sha256)


def load(name: str, weights: str = "") -> Features:
    """Find or load the features of a name.

    Args:
      name: "inception", "pixels", "values" or "module:function".
      weights: of "inception": path or https URL of the published PyTorch file, or of one like it;
        "" is the published file, downloaded once; "random" is for timing only.

    Raises:
      ValueError: if the name is unknown, can't be imported, or the file isn't of this network.
      OSError: if there are no such weights, or they can't be downloaded.
    """
    if name == INCEPTION:
        return _inception(weights)
    if weights:
        raise ValueError(f"features_weights={weights!r} is for features='inception' only.")
    if name == "pixels":
        return Features(name, lambda _, images: (pixels(images), None), function=name)
    if name == "values":
        return Features(name, lambda _, samples: (values(samples), None), function=name)
    if ":" in name:
        return _imported(name)
    raise ValueError(
        f"features={name!r} is unknown; known are: inception, pixels, values, and "
        "module:function for a function of your own, uint8 images [N, H, W, C] -> [N, D], or "
        "floats of a user's teacher [N, *shape] -> [N, D]."
    )


def compute(
    features: Features, batches: Iterable[np.ndarray], *, mesh: Mesh, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Compute features of images that come in batches, on all devices of a mesh.

    Batches are padded to one size, so that one is compiled, and the padding's rows are dropped
    again. The devices work on a batch while the caller works on the one before.

    Args:
      features: from `load`.
      batches: uint8 [N, H, W, C] with N up to `batch_size`.
      mesh: the devices, which share a batch.
      batch_size: images a batch, which the devices must divide.

    Yields:
      (features [N, D], logits [N, K] or None), one pair a batch.

    Raises:
      ValueError: if a batch is larger than `batch_size`, or `apply` doesn't return rows.
    """
    apply = compile_apply(features, mesh)
    variables = sharding.put(features.variables, sharding.replicated(mesh))
    place = sharding.batch(mesh)

    def dispatch(images: np.ndarray) -> tuple[Any, Any, int]:
        if len(images) > batch_size:
            raise ValueError(f"{len(images)} images in a batch of {batch_size}.")
        if not features.compiled:
            return *apply(variables, images), len(images)
        padding = [(0, batch_size - len(images))] + [(0, 0)] * (images.ndim - 1)
        padded = sharding.put(np.pad(images, padding), place)
        return *apply(variables, padded), len(images)

    for rows, logits, count in one_behind(dispatch(images) for images in batches):
        yield to_rows(features, rows, count), to_rows(features, logits, count)


def compile_apply(features: Features, mesh: Mesh) -> Callable[[Params, Any], tuple[Any, Any]]:
    """Compile `features.apply` over a mesh, where it can be, for whole batches.

    Args:
      features: what to compile; those that JAX can't compile are left as they are.
      mesh: the devices.
    """
    if not features.compiled:
        return features.apply

    @jax.jit
    def apply(variables: Params, images: jax.Array) -> tuple[jax.Array, Any]:
        return features.apply(variables, sharding.constrain_batch(images, mesh, 0))

    return apply


def to_rows(features: Features, array: Any, count: int) -> Any:
    """Bring the first `count` rows of an array to this host, and check them.

    Args:
      features: the features that the array holds, named in an error.
      array: [N, D] with N at least `count`, or None.
      count: number of rows.

    Returns:
      [count, D], or None for None.

    Raises:
      ValueError: if there are fewer rows, or they aren't rows of floating-point numbers.
    """
    if array is None:
        return None
    rows = sharding.gather(array)
    if rows.ndim != 2 or len(rows) < count or not jnp.issubdtype(rows.dtype, jnp.floating):
        raise ValueError(
            f"features={features.name!r} must return floating-point [N, D], one row an image; of "
            f"{count} images it made {rows.dtype} {list(rows.shape)}."
        )
    return rows[:count]


def one_behind(items: Iterable[Any]) -> Iterator[Any]:
    """Yield each item once the next has been asked for, so that devices have work queued."""
    waiting: list[Any] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == 2:
            yield waiting.pop(0)
    yield from waiting


def _inception(weights: str) -> Features:
    digest = ""
    if weights == _RANDOM:
        name, extract = f"{INCEPTION}_{_RANDOM}", inception.random(seed=0)
    else:
        with download.reading(weights or inception.WEIGHTS_URL) as path:
            digest = _sha256(path)
            extract = inception.read(path)
        name = _inception_name(path, digest)
    return Features(
        name=name,
        apply=inception.apply,
        variables=extract.variables,
        compiled=True,
        channels=3,
        logit_bias=np.asarray(extract.logit_bias),
        function=INCEPTION,
        sha256=digest,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inception_name(path: Path, digest: str) -> str:
    if digest.startswith(_PUBLISHED_DIGEST):
        return INCEPTION
    logging.warning(
        "%s isn't the published file of Inception's weights (its SHA-256 is %s...): distances are "
        "named fd_%s_%s and compare with no published FID.",
        path,
        digest[:8],
        INCEPTION,
        digest[:8],
    )
    return f"{INCEPTION}_{digest[:8]}"


def _imported(name: str) -> Features:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"features={name!r}: there is no module {error.name}; run where Python finds it, or "
            "put its folder on PYTHONPATH."
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"features={name!r}: {module.__name__} has no function {attribute!r}.")
    return of_function(function, name, sha256=_module_sha256(module))


def _module_sha256(module: types.ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return _sha256(Path(file)) if file and Path(file).is_file() else ""
