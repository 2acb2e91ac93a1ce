"""Statistics of real images: mean and covariance of features, for Fréchet distances.

python -m diffjax.stats --data=cifar10-32x32.zip --output=cifar10.npz

The file holds `mu` and `sigma`, as EDM's released ones do, and beside them which features of which
images they are of. Every image counts, with the pixels that the network is trained on: uint8,
as stored, neither resized nor mirrored.
"""

import argparse
import dataclasses
import hashlib
import io
import json
import math
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffjax import data
from diffjax.data import zip_entries
from diffjax.distributed import peers, runtime, sharding
from diffjax.evaluation import features, statistics_origin
from diffjax.evaluation.features import INCEPTION, Features
from diffjax.files import download, kinds, paths, writing
from diffjax.files.progress import ProgressLine, leave_interrupted, say, write
from diffjax.metrics import Moments

_RELEASED_AT = "https://nvlabs-fi-cdn.nvidia.com/edm/fid-refs/"
# What EDM's authors released (https://github.com/NVlabs/edm), for the data sets of the paper.
RELEASED = ("cifar10-32x32", "ffhq-64x64", "afhqv2-64x64", "imagenet-64x64")
# Rows that the sums over images take at a time, so that they don't depend on the batch size.
_BLOCK_ROWS = 2048
_MAX_DIM = 1 << 15
_HEADER_BYTES = 1 << 16
# A covariance of 5,792 features; that of images with a constant margin shrinks to next to nothing.
_HARMLESS_BYTES = 1 << 28
_PROGRESS_SECONDS = 10.0
_PEER_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Meta:
    """Metadata of statistics.

    Attributes:
      features: name of the features.
      count: number of images, or None where the file doesn't hold it.
      measured: of what and with what, as `statistics_origin.describe` gives it; empty where unsaid.
    """

    features: str
    count: int | None
    measured: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)


def is_statistics(source: str) -> bool:
    """Whether a reference is a file of statistics, by name, path or URL, and not images."""
    return source in RELEASED or source.partition("#")[0].endswith(".npz")


def load_reference(source: str) -> tuple[np.ndarray, np.ndarray, Meta]:
    """Read statistics, without pickles, and check them.

    Args:
      source: one of `RELEASED`, or the path or https URL of an `.npz` with `mu` and `sigma`, which
        is downloaded once. A file that doesn't name its features, like the released ones, is taken
        for Inception's.

    Returns:
      Mean float64 [D], covariance float64 [D, D], and metadata.

    Raises:
      OSError: if there is no such file, or it can't be downloaded.
      ValueError: naming the field that is missing or wrong.
    """
    if not is_statistics(source):
        raise ValueError(
            f"{source!r} names no statistics; known are: {', '.join(RELEASED)}, and the path or "
            "URL of an .npz."
        )
    with download.reading(f"{_RELEASED_AT}{source}.npz" if source in RELEASED else source) as path:
        try:
            mean, cov, meta = _check(_read_arrays(path))
        except ValueError as error:
            raise ValueError(f"{source}: {error}.") from error
    if source in RELEASED:  # whose names say of what they are
        resolution = int(source.rpartition("x")[2])
        theirs = {"name": INCEPTION, "function": INCEPTION, "sha256": ""}
        about = statistics_origin.describe(theirs, (resolution, resolution, 3), name=source)
        meta = dataclasses.replace(meta, measured=about)
    return mean, cov, meta


def save(
    path: str | os.PathLike[str],
    moments: Moments,
    *,
    features_name: str,
    measured: Mapping[str, Any] | None = None,
) -> None:
    """Write statistics for `load_reference`; the file appears once it is whole.

    Args:
      path: of the file, ending in `.npz`.
      moments: of the features of all images.
      features_name: of the features.
      measured: of what and with what, as `statistics_origin.describe` gives it.

    Raises:
      ValueError: if the moments are of fewer than two images.
      OSError: if the file can't be written.
    """
    arrays: dict[str, Any] = {
        "mu": moments.mean,
        "sigma": moments.cov,
        "features": np.array(features_name),
        "count": np.array(moments.count),
    }
    if measured:
        arrays["measured"] = np.array(json.dumps(measured))
    with writing.replacing(Path(path)) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def compute(
    batches: Iterable[np.ndarray],
    extract: Features,
    *,
    mesh: Mesh,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> Moments:
    """Moments of the features of images, in one pass; memory is that of a few batches.

    The sums are equal to the last digits on any number of devices: each of them always takes
    `batch_size` images, and features are summed in float64 in blocks of a fixed size.

    Args:
      batches: uint8 [N, H, W, C] with N up to `batch_size` times the number of devices.
      extract: features of the images.
      mesh: the devices.
      batch_size: images that one device takes at a time.
      progress: called with the number of images done.

    Raises:
      ValueError: if there are no images.
    """
    moments: Moments | None = None
    computed = features.compute(extract, batches, mesh=mesh, batch_size=batch_size * mesh.size)
    for rows in _blocks((rows for rows, _ in computed), progress):
        moments = (moments or Moments.empty(rows.shape[1])).update(rows)
    if moments is None:
        raise ValueError("there are no images to compute statistics of.")
    return moments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 only if statistics were written."""
    parser = argparse.ArgumentParser(
        prog="python -m diffjax.stats",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", required=True, help="a zip, a folder, tfds:NAME[#SPLIT], or digits"
    )
    parser.add_argument("--output", required=True, help="the .npz to write")
    parser.add_argument(
        "--features", default=INCEPTION, help="inception (default), pixels, or module:function"
    )
    parser.add_argument(
        "--features_weights",
        default="",
        help="of Inception: a path or URL; downloaded once unless given; 'random' only for timing",
    )
    parser.add_argument("--batch_size", type=int, default=128, help="images a device at a time")
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="share the work with other processes, found as those of a distributed run",
    )
    arguments = parser.parse_args(argv)
    settings = vars(arguments)
    try:
        with peers.joined(
            settings,
            deterministic=False,
            distributed=settings["distributed"],
            peer_seconds=_PEER_SECONDS,
        ):
            _run(
                arguments.data,
                arguments.output,
                arguments.features,
                arguments.features_weights,
                arguments.batch_size,
            )
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        leave_interrupted()
    return 0


def _run(source_name: str, output: str, name: str, weights: str, batch_size: int) -> None:
    """Check all that can be wrong, then compute and save."""
    source_name, output, weights = map(paths.expanded, (source_name, output, weights))
    if not output.endswith(".npz"):
        raise ValueError(f"--output={output}: its name must end in .npz.")
    if Path(output).exists():
        raise FileExistsError(f"--output={output} is there already; delete it or name another.")
    writing.check_writable(Path(output))
    if batch_size < 1:
        raise ValueError(f"--batch_size={batch_size}: at least 1 is needed.")
    source = data.open_source(source_name, field="--data")
    if len(source) < 2:
        raise ValueError(f"--data={source_name}: one image has no covariance; 2 are needed.")
    extract = _features(name, weights)
    extract.check_channels(source.image_shape[2], f"--data={source_name}")
    runtime.agree("what is read", [data.content(source)["sha256"], extract.record])
    is_main = jax.process_index() == 0
    # The other processes read and compute the same, and neither tell nor write anything.
    stream = sys.stderr if is_main else io.StringIO()
    write(f"looking through {len(source)} images ...\n", stream)
    data.verify(source)
    mesh = sharding.make_mesh()
    line = ProgressLine(len(source) / 1000, stream=stream, interval=_PROGRESS_SECONDS)
    line.compiling()
    batches = data.in_order(source, batch_size=batch_size * mesh.size)
    digest = hashlib.sha256()
    moments = compute(
        statistics_origin.hashed((batch.images for batch in batches), digest),
        extract,
        mesh=mesh,
        batch_size=batch_size,
        progress=lambda done: line.update(done, done / 1000, {}),
    )
    line.end()
    if not is_main:
        return
    about = statistics_origin.describe(
        extract.record, source.image_shape, name=source_name, sha256=digest.hexdigest()
    )
    save(output, moments, features_name=extract.name, measured=about)
    say(f"{moments.count} images, {moments.mean.size} features {extract.name}: {output}")


def _features(name: str, weights: str) -> Features:
    try:
        return features.load(name, weights)
    except ConnectionError as error:
        raise ConnectionError(
            f"{error}: --features_weights=PATH. Without Inception there is --features=pixels."
        ) from error


def _blocks(
    parts: Iterable[np.ndarray], progress: Callable[[int], None] | None
) -> Iterator[np.ndarray]:
    """Cut rows anew, into blocks of `_BLOCK_ROWS` and a rest."""
    waiting: list[np.ndarray] = []
    count = done = 0
    for part in parts:
        waiting.append(part)
        count += len(part)
        done += len(part)
        if count >= _BLOCK_ROWS:
            rows = np.concatenate(waiting)
            whole = count - count % _BLOCK_ROWS
            yield from np.split(rows[:whole], whole // _BLOCK_ROWS)
            waiting, count = [rows[whole:]], count - whole
        if progress is not None:
            progress(done)
    if count:
        yield np.concatenate(waiting)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the known arrays that are there, none of which is allowed to be a pickle."""
    known = {"mu": 8 * _MAX_DIM, "sigma": 8 * _MAX_DIM**2, "features": 1 << 16, "count": 8}
    known["measured"] = 1 << 18
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            for name, most in known.items():
                if f"{name}.npy" not in entries:
                    continue
                _check_entry(entries[f"{name}.npy"], name, most, path.stat().st_size)
                with archive.open(f"{name}.npy") as member:
                    arrays[name] = _read_array(member, name, most)
    except ValueError:
        raise
    except Exception as error:  # zipfile and NumPy raise nearly anything on damaged files
        raise ValueError(f"not a readable .npz ({error}){kinds.but(path)}") from error
    for name in ("mu", "sigma"):
        if name not in arrays:
            held = (
                ", ".join(sorted(repr(n.removesuffix(".npy"))[:40] for n in entries)[:10])
                or "nothing"
            )
            raise ValueError(
                f"no array {name!r} in it, but {held}; python -m diffjax.stats writes what is "
                "needed"
            )
    return arrays


def _check_entry(info: zipfile.ZipInfo, name: str, most: int, archive_bytes: int) -> None:
    try:
        zip_entries.check(
            info,
            limit=most + _HEADER_BYTES,
            archive_bytes=archive_bytes,
            harmless=_HARMLESS_BYTES,
        )
    except ValueError as error:
        raise ValueError(f"its array {name!r} {error}") from error


def _read_array(file: IO[bytes], name: str, most: int) -> np.ndarray:
    """Read one array, whose size by its header is checked before memory is taken."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"its array {name!r} is of version {version}, np.savez writes (1, 0)")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or dtype.fields or dtype.subdtype:
        raise ValueError(f"its array {name!r} holds {dtype}, not plain numbers or text")
    size = math.prod(shape) * dtype.itemsize
    if not 0 <= size <= most:
        raise ValueError(f"its array {name!r} is {size} bytes, over {most}")
    content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"its array {name!r} declares {size} bytes and holds another number")
    flat = np.frombuffer(content, dtype)
    return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)


def _check(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, Meta]:
    mean, cov = arrays["mu"], arrays["sigma"]
    if mean.ndim != 1 or not mean.size or cov.shape != (mean.size, mean.size):
        raise ValueError(
            f"mu must be [D] and sigma [D, D], but they are {mean.shape} and {cov.shape}"
        )
    for name in ("mu", "sigma"):
        is_real = np.issubdtype(arrays[name].dtype, np.floating)
        if not is_real or not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} must hold finite floating-point numbers")
    if np.abs(cov - cov.T).max() > 1e-4 * np.abs(cov).max():
        raise ValueError("sigma must be symmetric")
    label = arrays.get("features", np.array(INCEPTION))
    if label.ndim or label.dtype.kind != "U" or not str(label):
        raise ValueError("features must be the name of the features")
    count = arrays.get("count")
    if count is not None and (count.ndim or count.dtype.kind not in "iu" or count < 2):
        raise ValueError("count must be the number of images, at least 2")
    about = statistics_origin.parse(str(arrays["measured"])) if "measured" in arrays else {}
    meta = Meta(str(label), None if count is None else int(count), about)
    return mean.astype(np.float64), cov.astype(np.float64), meta


if __name__ == "__main__":
    sys.exit(main())
