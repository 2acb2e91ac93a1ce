"""Damaged and hostile files by the thousand, read in a process that may do nothing else.

    python -m tests.support.hostile KIND COUNT

reads COUNT mutations of the genuine files of a kind, number i drawn from seed i, and prints as
JSON how they ended. A read that runs code, writes, takes over 5 s or a gigabyte, or ends in
anything but the one documented error, ends the process with the number of the file.
"""

import collections
import io
import json
import pathlib
import resource
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable

import numpy as np

from diffjax.convert import dit, edm, stylegan2
from diffjax.data import files, load_all
from diffjax.evaluation import image_statistics
from diffjax.files import torch_state_dict
from tests.convert import test_dit
from tests.files import test_torch_state_dict
from tests.support import (
    edm2_cases,
    edm_cases,
    fabricate,
    golden_cases,
    image_files,
    stylegan2_cases,
)

SECONDS = 5  # of CPU, after which SIGPROF ends this process
BYTES = 1 << 30
# What a reader of files has no business with, as `sys.addaudithook` calls it.
FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "exec", "pickle.", "marshal.")
ALLOWED = ("os.listdir", "os.scandir", "os.stat")

# Numbers that lengths and offsets are replaced by.
_NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1]


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to eight changes of bytes, runs and numbers; or the start alone."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if not changed:
            break
        at = int(rng.integers(len(changed)))
        length = int(rng.integers(1, 65))
        kind = rng.choice(["bit", "byte", "insert", "delete", "double", "move", "number", "cut"])
        if kind == "bit":
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == "byte":
            changed[at] = int(rng.integers(256))
        elif kind == "insert":
            changed[at:at] = rng.bytes(length)
        elif kind == "delete":
            del changed[at : at + length]
        elif kind == "double":
            changed[at:at] = changed[at : at + length]
        elif kind == "move":
            to = int(rng.integers(len(changed)))
            changed[to : to + length] = changed[at : at + length]
        elif kind == "number":
            number = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
            width = int(rng.choice([2, 4, 8]))
            changed[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        elif rng.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def mutate_inside(data: bytes, rng: np.random.Generator) -> bytes:
    """A zip whose checksums are right, one of its files being mutated; or a mutated zip."""
    if rng.random() < 0.4:
        return mutate(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        contents = {info: archive.read(info) for info in archive.infolist()}
    chosen = list(contents)[int(rng.integers(len(contents)))]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for info, content in contents.items():
            archive.writestr(info, mutate(content, rng) if info is chosen else content)
    return stream.getvalue()


def _pickles() -> list[bytes]:
    return [
        fabricate.edm_pickle(*edm_cases.small_network()),
        *(edm_cases.genuine_pickle(edm_cases.own(name)) for name in edm_cases.GENUINE),
    ]


def _pth() -> list[bytes]:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float16)}
    files = edm_cases.own("state_dict").meta["files"]
    written = [(golden_cases.OWN / file).read_bytes() for file in files]
    return [*written, test_torch_state_dict.archive(arrays)]


def _zips() -> list[bytes]:
    genuine = []
    for kind, compression in (("PNG", zipfile.ZIP_STORED), ("JPEG", zipfile.ZIP_DEFLATED)):
        contents = image_files.files(image_files.pictures(6), kind)
        contents["dataset.json"] = image_files.labels(list(contents), [0, 1, 2, 0, 1, 2])
        with tempfile.TemporaryDirectory() as folder:
            path = image_files.write_zip(pathlib.Path(folder) / "set.zip", contents, compression)
            genuine.append(path.read_bytes())
    return genuine


def _statistics() -> list[bytes]:
    genuine = []
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, mu=np.zeros(5), sigma=np.eye(5), features=np.array("pixels"), count=9)
        genuine.append(stream.getvalue())
    return genuine


def _images() -> list[bytes]:
    picture = image_files.pictures(1, size=32)[0]
    return [image_files.encoded(picture, kind) for kind in ("PNG", "JPEG")]


def _read_zip(path: pathlib.Path) -> None:
    load_all(files.open_zip(path))


def _read_image(path: pathlib.Path) -> None:
    folder = files.open_folder(path.parent)
    load_all(folder)


def _read_dit(path: pathlib.Path) -> None:
    found = dit.read(path, {"class_name": "SiT", **test_dit.SAID})
    try:
        edm.to_denoiser(*found)
    except ValueError as error:  # as those who call it do
        raise ValueError(f"{path}: {error}") from error


# Kind -> genuine files, how they are mutated, what the mutated file is called, and the reader.
KINDS: dict[str, tuple[Callable[[], list[bytes]], Callable[..., bytes], str, Callable]] = {
    "pickle": (_pickles, mutate, "network.pkl", edm.read_pickle),
    "edm2": (
        lambda: [
            fabricate.edm_pickle(*edm2_cases.small_network()),
            edm2_cases.genuine_pickle(edm_cases.own(edm2_cases.GENUINE)),
        ],
        mutate,
        "edm2.pkl",
        edm.read_pickle,
    ),
    "dit": (
        lambda: [test_dit.plain(), test_dit.training_state()],
        mutate_inside,
        "network.pt",
        _read_dit,
    ),
    "gan": (lambda: [stylegan2_cases.small_pickle()], mutate, "gan.pkl", stylegan2.read_pickle),
    "pth": (_pth, lambda d, rng: _mutate_any(d, rng), "weights.pth", torch_state_dict.read),
    "zip": (_zips, mutate_inside, "set.zip", _read_zip),
    "npz": (
        _statistics,
        mutate_inside,
        "set.npz",
        lambda path: image_statistics.load_reference(str(path)),
    ),
    "image": (_images, mutate, "image.png", _read_image),
}


def _mutate_any(data: bytes, rng: np.random.Generator) -> bytes:
    return (mutate_inside if data.startswith(b"PK") else mutate)(data, rng)


class _Guard:
    """Sees what a read does besides reading."""

    def __init__(self) -> None:
        self.is_on = False
        self.seen = ""
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self.is_on:
            return
        writes = (
            event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wa+x")
        )
        if writes or (event.startswith(FORBIDDEN) and event not in ALLOWED):
            self.seen = f"{event}{arguments[:2]!r}"[:200]


# Imported by Python itself when a file first names them.
_CODECS = ("cp437", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")


def main(kind: str, count: int) -> dict[str, float]:
    """Reads `count` mutations; what is returned is printed."""
    make, change, name, read = KINDS[kind]
    genuine = make()
    for codec in _CODECS:
        "".encode(codec)
    guard, ends, longest = _Guard(), collections.Counter(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / name
        for content in genuine:  # each is read as it is, and all that is imported late is there
            path.write_bytes(content)
            read(path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        virtual = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        limit = virtual * resource.getpagesize() + BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for seed in range(count):
            rng = np.random.default_rng(seed)
            path.write_bytes(change(genuine[seed % len(genuine)], rng))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            start = time.process_time()
            guard.is_on = True
            try:
                read(path)
                ends["read"] += 1
            except ValueError as error:
                text = str(error)
                where = path.parent if kind == "image" else path
                if not text.startswith(f"{where}") or "\n" in text:
                    raise AssertionError(
                        f"{kind} {seed}: not one line that names it: {text}"
                    ) from error
                ends["refused"] += 1
            except BaseException as error:
                raise AssertionError(f"{kind} {seed}: {type(error).__name__}: {error}") from error
            finally:
                guard.is_on = False
                signal.setitimer(signal.ITIMER_PROF, 0)
            longest = max(longest, time.process_time() - start)
            if guard.seen:
                raise AssertionError(f"{kind} {seed}: {guard.seen}")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {**ends, "longest_seconds": round(longest, 3), "grown_mib": grown >> 10}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
