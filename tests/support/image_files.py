"""Small data sets, made in the tests."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pictures(count: int, *, size: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def encoded(picture: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(stream, kind)
    return stream.getvalue()


def uncompressed(picture: np.ndarray) -> bytes:
    """As EDM's dataset_tool.py writes PNG files."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", compress_level=0, optimize=False)
    return stream.getvalue()


def files(images: np.ndarray, kind: str = "PNG") -> dict[str, bytes]:
    """Under the names that EDM's dataset_tool.py gives."""
    suffix = {"PNG": "png", "JPEG": "jpg"}[kind]
    return {f"{i // 4:05d}/img{i:08d}.{suffix}": encoded(x, kind) for i, x in enumerate(images)}


def labels(names: Sequence[str], classes: Sequence[Any] | None) -> bytes:
    pairs = None if classes is None else [list(p) for p in zip(names, classes, strict=True)]
    return json.dumps({"labels": pairs}).encode()


def write_zip(path: Path, contents: Mapping[str, bytes], compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, contents: Mapping[str, bytes]) -> Path:
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def laws(count: int, *, size: int = 8, channels: int = 4, seed: int = 0) -> dict[str, bytes]:
    """Means and standard deviations as EDM2's dataset_tool.py encode writes them."""
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(count):
        mean = 4 * rng.standard_normal((channels, size, size), np.float32)
        std = rng.random((channels, size, size), np.float32)
        stream = io.BytesIO()
        np.save(stream, np.concatenate([mean, std]))
        found[f"{i // 4:05d}/img-mean-std-{i:08d}.npy"] = stream.getvalue()
    return found


def array(values: np.ndarray, **options: Any) -> bytes:
    """Content of an .npy."""
    stream = io.BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()
