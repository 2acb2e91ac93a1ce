"""References of examples that aren't images: floats in the teacher's units, of a file or made."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffjax.data import arrays
from diffjax.evaluation import measures, references
from diffjax.evaluation.features import Features
from diffjax.evaluation.references import Reference
from diffjax.files import download, kinds

# Examples that are kept to be looked at.
_SHOWN = 2048


def is_file(source: str) -> bool:
    """Tell whether a reference is the path or URL of a file that can hold floats.

    Args:
      source: a reference.
    """
    return source.partition("#")[0].endswith((".npz", ".npy"))


def read(source: str, *, field: str) -> np.ndarray:
    """Read samples from a file, without pickles.

    Args:
      source: path or https URL of an .npy, or of an .npz with `images` or a single array.
      field: name of the setting in an error.

    Raises:
      OSError: if there is no such file, or it can't be downloaded.
      ValueError: if it isn't such a file.
    """
    return read_named(source, field=field)[arrays.IMAGES]


def read_named(source: str, others: Sequence[str] = (), *, field: str) -> dict[str, np.ndarray]:
    """Read samples from a file and what is beside them, without pickles.

    Args:
      source: as `read` takes it.
      others: names of further arrays of an .npz, which needn't be there.
      field: name of the setting in an error.

    Returns:
      `images`, and others by their names.

    Raises:
      OSError: if there is no such file, or it can't be downloaded.
      ValueError: if it isn't such a file.
    """
    if "://" not in source and not Path(source).exists():
        raise FileNotFoundError(f"{field}={source!r}: there is no such file.")
    with download.reading(source) as path:
        try:
            return arrays.read(path, *others)
        except MemoryError as error:
            raise ValueError(f"{field}={source!r}: it holds more than the memory here") from error
        except Exception as error:  # zipfile and NumPy raise nearly anything on damaged files
            text = " ".join(str(error).split())
            raise ValueError(f"{field}={source!r}: {text}{kinds.but(path)}") from error


def checked(made: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Check samples, and convert them to float32.

    Args:
      made: anything.
      shape: of an example.
      what: the samples in an error, such as "reference='x.npz' holds".

    Returns:
      [N, *shape] float32.

    Raises:
      ValueError: if they aren't floating-point, of another shape, fewer than 2, or not finite.
    """
    needed = f"[{', '.join(['N', *map(str, shape)])}]"
    if not hasattr(made, "__array__"):
        raise ValueError(f"{what} {type(made).__name__}; an array {needed} is needed.")
    array = np.asarray(made)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{what} {array.dtype} {list(array.shape)}; floats in the teacher's units are needed."
        )
    if array.shape[1:] != shape or array.ndim != len(shape) + 1:
        raise ValueError(
            f"{what} {list(array.shape)}, but the teacher's examples are of {shape}: {needed} is "
            "needed, with the number of examples first."
        )
    if len(array) < 2:
        raise ValueError(f"{what} {len(array)} examples: a distribution needs more.")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{what} NaN or infinity in {np.sum(~finite)} of {len(array)} examples, the first "
            f"being {np.flatnonzero(~finite)[0]}."
        )
    return array


def load(
    name: str,
    samples: np.ndarray,
    features: Features | None,
    *,
    keep_rows: bool,
    batch_size: int,
    mesh: Mesh,
) -> Reference:
    """Make a reference of samples.

    Args:
      name: of the samples, for files that hold distances to them.
      samples: [N, *shape] float32, as `checked` gives them.
      features: features to compare by; None if no metric is on features.
      keep_rows: whether features are compared one by one.
      batch_size: samples that a device takes at a time.
      mesh: the devices.

    Raises:
      ValueError: if features aren't rows of floats.
    """
    size = batch_size * mesh.size
    batches = (samples[start : start + size] for start in range(0, len(samples), size))
    record = {
        "name": name,
        "sha256": hashlib.sha256(np.ascontiguousarray(samples).data).hexdigest(),
        "count": len(samples),
        "image_shape": list(samples.shape[1:]),
    }
    return references.summarised(
        batches,
        features,
        keep_rows=keep_rows,
        values=samples.reshape(len(samples), -1),
        examples=measures.evenly_spaced(samples, _SHOWN),
        batch_size=size,
        mesh=mesh,
        record=record,
    )
