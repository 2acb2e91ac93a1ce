"""Arrays of NumPy's files, read without pickles and within bounds: they may come from anywhere."""

import io
import zipfile
from pathlib import Path

import numpy as np

from diffjax.data import zip_entries

IMAGES = "images"  # as the sample mode names them
_LIMIT = 1 << 40
_HARMLESS_BYTES = 1 << 28
_MAGIC = b"\x93NUMPY"


def read(path: Path, *others: str) -> dict[str, np.ndarray]:
    """Read the array of an .npy, or `images` or the single array of an .npz.

    Args:
      path: of the file.
      *others: further arrays to read from an .npz, where they are there.

    Returns:
      The array as `images`, and others by their names.

    Raises:
      ValueError: without the file's name, if it is neither; NumPy and zipfile raise nearly anything
        else on damaged files.
    """
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
    if start == _MAGIC:
        return {IMAGES: np.load(path, mmap_mode="r", allow_pickle=False)}
    if not zipfile.is_zipfile(path):
        raise ValueError("it is neither an .npz nor an .npy")
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            try:
                zip_entries.check(
                    info,
                    limit=_LIMIT,
                    archive_bytes=path.stat().st_size,
                    harmless=_HARMLESS_BYTES,
                )
            except ValueError as error:
                raise ValueError(f"its array {info.filename[:40]!r} {error}") from error
    with np.load(path, allow_pickle=False) as arrays:
        names = arrays.files
        if IMAGES not in names and len(names) != 1:
            held = ", ".join(repr(name)[:40] for name in sorted(names)[:10]) or "nothing"
            raise ValueError(f"no array {IMAGES!r} in it, but {held}")
        found = {IMAGES: arrays[IMAGES if IMAGES in names else names[0]]}
        return found | {name: arrays[name] for name in others if name in names}


def decode_law(content: bytes) -> np.ndarray:
    """Decode the law of an image's raw latents, as EDM2's `dataset_tool.py encode` writes it.

    Args:
      content: of an .npy of floats [2C, H, W], the means before the standard deviations.

    Returns:
      float32 [H, W, 2C].

    Raises:
      ValueError: saying what is wrong, without the file's name.
    """
    values = _decode(content)
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"it holds {values.dtype}; floats are needed")
    if values.ndim < 3 or values.ndim > 4 or 0 in values.shape:
        raise ValueError(f"it is of {list(values.shape)}; [2 times channels, height, width] needed")
    values = values.reshape(-1, *values.shape[-2:]).astype(np.float32)
    if len(values) % 2:
        raise ValueError(
            f"it has {len(values)} channels; means and as many standard deviations are needed"
        )
    if not np.isfinite(values).all() or (values[len(values) // 2 :] < 0).any():
        raise ValueError("it holds NaN, infinity or a standard deviation below 0")
    return np.ascontiguousarray(values.transpose(1, 2, 0))


def _decode(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, is_fortran, dtype = header(file)
    except Exception as error:  # which NumPy raises of any kind on what isn't one
        raise ValueError("not a readable .npy") from error
    # By the header, before memory is taken.
    if dtype.hasobject:
        raise ValueError("it holds Python's objects; floats are needed")
    values = content[file.tell() :]
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size != len(values) or min(shape, default=0) < 0:
        raise ValueError(f"it declares {size} bytes and holds {len(values)}")
    flat = np.frombuffer(values, dtype)
    return flat.reshape(shape, order="F") if is_fortran else flat.reshape(shape)
