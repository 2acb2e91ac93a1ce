"""Kinds of files, told by their first bytes, for errors that say what a file is instead.

The bytes are those that each format's own documentation fixes. Nothing is parsed further than to a
zip's list of names.
"""

import dataclasses
import os
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

_HEAD_BYTES = 1 << 12
_AGAIN = "fetch it again"
_UNPACK = "unpack it and name what was in it"
_ARRAYS = "a network is read from arrays; export it again with --format=safetensors"
_CONVERT = "convert it to PNG or JPEG"
_SAVE = "load it where it was made, and save what is asked for"
# What torch wraps a network in puts these before all names of its state dict.
_WRAPPERS = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}


@dataclasses.dataclass(frozen=True)
class Kind:
    """Kind of a file.

    Attributes:
      name: with its article, as in "this is a web page".
      advice: what to do where something else was expected, as a command.
      is_refuse: whether it is never what anyone wants to read, such as a server's error page.
    """

    name: str
    advice: str
    is_refuse: bool = False


EMPTY = Kind("empty", _AGAIN, is_refuse=True)
WEB_PAGE = Kind(
    "a web page",
    "open its address in a browser to see what it says, fetch the file by other means, and give "
    "its path",
    is_refuse=True,
)
LFS_POINTER = Kind(
    "a Git LFS pointer, which stands for the file",
    "`git lfs pull` where it came from fetches the file itself",
    is_refuse=True,
)
TORCH_SAVE = Kind("a torch.save file (a state dict or training state)", _SAVE)
TORCH_ZIP = Kind("a zip archive of torch.save (a state dict or training state)", _SAVE)
PICKLE = Kind("a pickle", _SAVE)
ZIP = Kind("a zip archive", _UNPACK)
NPZ = Kind("an .npz of NumPy arrays", _SAVE)
NPY = Kind("a single NumPy array (.npy)", _SAVE)
SAFETENSORS = Kind("a safetensors file", _SAVE)
CUT_SAFETENSORS = Kind("a safetensors file that is cut off", _AGAIN)
JSON = Kind("JSON text", "name the file or folder that it describes")
TEXT = Kind("text", "look into it; a server's or a tool's message may have been saved in its place")

_STARTS: tuple[tuple[bytes, Kind], ...] = (
    (b"version https://git-lfs.github.com/spec/", LFS_POINTER),
    (b"\x1f\x8b", Kind("compressed by gzip", "unpack it first, as `gunzip` does")),
    (b"BZh", Kind("compressed by bzip2", "unpack it first, as `bunzip2` does")),
    (b"\xfd7zXZ\0", Kind("compressed by xz", "unpack it first, as `unxz` does")),
    (b"\x28\xb5\x2f\xfd", Kind("compressed by Zstandard", "unpack it first, as `unzstd` does")),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", _UNPACK)),
    (b"Rar!", Kind("a RAR archive", _UNPACK)),
    (b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file, as Keras writes", _SAVE)),
    (b"\x93NUMPY", NPY),
    (b"GGUF", Kind("a GGUF file", _SAVE)),
    (b"ARRAYRECORD", Kind("an array_record file", "name its data set, tfds:NAME")),
    (b"model_checkpoint_path:", Kind("part of a TensorFlow checkpoint", _SAVE)),
    (b"\x89PNG\r\n\x1a\n", Kind("a PNG image", "name what is asked for")),
    (b"\xff\xd8\xff", Kind("a JPEG image", "name what is asked for")),
    (b"GIF8", Kind("a GIF image", _CONVERT)),
    (b"BM", Kind("a BMP image", _CONVERT)),
    (b"II*\0", Kind("a TIFF image", _CONVERT)),
    (b"MM\0*", Kind("a TIFF image", _CONVERT)),
    (b"%PDF", Kind("a PDF document", "name what is asked for")),
    (b"\x7fELF", Kind("a program", "name what is asked for")),
    # A pickle of protocol 2, LONG1 with the ten bytes of torch's magic number.
    (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", TORCH_SAVE),
)
_STABLEHLO = b"ML\xefR\rStableHLO_v"  # of MLIR's bytecode, which `jax.export` puts near the start
_ONNX = re.compile(rb"\x08[\x03-\x0f][\x12\x3a\x42]")  # version, then maker, graph or operators
# Of a safetensors file: where an array ends, after the header, in bytes.
_ENDS = re.compile(rb'"data_offsets":\s*\[\s*\d+\s*,\s*(\d{1,18})\s*\]')
_LONGEST_HEADER = 100_000_000  # bytes, as safetensors has it
_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
_JSON = re.compile(rb'\s*(?:\{\s*(?:"|\})|\[)')
_TABLE_END = bytes.fromhex("57fb808b247547db")  # of LevelDB's tables, as TensorFlow's index


def of(path: str | os.PathLike[str]) -> Kind | None:
    """Recognise a file, or a folder, by its content; None if it isn't a kind known here.

    Args:
      path: of the file.

    Raises:
      OSError: if it can't be read.
    """
    path = Path(path)
    if path.is_dir():
        return Kind("a folder", "name the file itself")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - len(_TABLE_END), 0))
        tail = file.read()
        file.seek(8)
        length = int.from_bytes(head[:8], "little") if head[8:9] == b"{" else 0
        texts = file.read(min(length, _LONGEST_HEADER))
    if head.startswith(b"PK"):
        return _of_zip(path)
    if tail == _TABLE_END:
        return Kind("part of a TensorFlow checkpoint (its index)", _SAVE)
    kind = of_content(head, size)
    if kind == SAFETENSORS:
        ends = (int(match[1]) for match in _ENDS.finditer(texts))
        if 8 + len(texts) + max(ends, default=0) > size:
            return CUT_SAFETENSORS
    return kind


def of_content(head: bytes, size: int | None = None) -> Kind | None:
    """Recognise what is in memory; zips are told as such alone.

    Args:
      head: the content, or its first kilobytes.
      size: of the content in bytes; None is all of `head`.
    """
    size = len(head) if size is None else size
    if not size:
        return EMPTY
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head.startswith(b"PK\3\4") or head.startswith(b"PK\5\6"):
        return ZIP
    if _HTML.match(head):
        return WEB_PAGE
    # The length of a header in JSON, and that header.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8:
        return SAFETENSORS
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Kind("a WebP image", _CONVERT)
    if head[257:262] == b"ustar":
        return Kind("a tar archive", _UNPACK)
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return PICKLE
    if _STABLEHLO in head:
        return Kind("a function of StableHLO", _ARRAYS)
    if _ONNX.match(head):
        return Kind("a function of ONNX", _ARRAYS)
    if not head.strip(b"\0"):
        return Kind("nothing but zeros, as a download that was cut off may leave", _AGAIN)
    if _JSON.match(head):
        return JSON
    if _is_text(head):
        return TEXT
    return None


def but(path: str | os.PathLike[str]) -> str:
    """Phrase what a file is, to follow what it isn't: ", but a web page: ..."; "" if unknown.

    Args:
      path: of the file. One that can't be read is unknown.
    """
    try:
        kind = of(path)
    except OSError:
        return ""
    return _phrase(kind)


def but_content(content: bytes) -> str:
    """Phrase what is in memory as `but` does.

    Args:
      content: of the file.
    """
    return _phrase(of_content(content))


def read(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Read a whole file.

    Args:
      path: of the file.
      max_bytes: bytes that it may have.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is no file, too large, or can't be read, saying so without its name.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ValueError("not a file, but a folder: name the file itself")
        if not path.is_file() and path.exists():
            raise ValueError("not a file")
        if path.stat().st_size > max_bytes:
            raise ValueError(f"larger than {max_bytes >> 30} GiB")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"can't be read ({error.strerror or error})") from error


def wrapper_hint(names: Iterable[str], expected: Iterable[str] = ()) -> str:
    """Say that a state dict is of a network that torch had wrapped, or return "".

    Args:
      names: of its arrays.
      expected: names that there should be, none of which may begin so.
    """
    names, expected = list(names), list(expected)
    for prefix, wrapper in _WRAPPERS.items():
        is_wrapped = names and all(name.startswith(prefix) for name in names)
        if is_wrapped and not any(name.startswith(prefix) for name in expected):
            return (
                f"all its names begin with {prefix!r}, so it was saved from within {wrapper}: save "
                "the state dict of the network inside"
            )
    return ""


def _of_zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return Kind("a zip archive that is cut off or damaged", _AGAIN)
    except Exception:  # zipfile raises nearly anything on damaged files
        return ZIP
    if not names:
        return Kind("a zip archive with nothing in it", _AGAIN)
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return TORCH_ZIP
    if all(name.endswith(".npy") for name in names):
        return NPZ
    if {"config.json", "model.weights.h5"} & set(names):
        return Kind("a Keras model", _SAVE)
    shown = ", ".join(repr(name[:40]) for name in names[:3])
    more = " ..." if len(names) > 3 else ""
    return Kind(f"a zip archive of {len(names)} files ({shown}{more})", _UNPACK)


def _phrase(kind: Kind | None) -> str:
    return "" if kind is None else f", but {kind.name}: {kind.advice}"


def _is_text(head: bytes) -> bool:
    try:
        text = head[:1024].decode("ascii")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n" for character in text)
