"""Pictures of a run, put into a page within a number of bytes."""

import base64
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from diffjax.files import images

# What `W/samples/<name>_<kimg>.png` is called; `--mode=sample` gives its own others.
_NAME = re.compile(r"(?P<kind>samples|comparison|teacher)_(?P<kimg>\d{6,}(?:\.\d{3})?)\.png")
_QUALITY = 88
# Bytes of a file that is no picture of ours.
_TOO_LARGE = 64 << 20


class Picture(NamedTuple):
    """A picture as a page has it.

    Attributes:
      kimg: thousands of images after which it was drawn.
      step: updates likewise; None where it doesn't say.
      uri: of the data.
      width: in pixels.
      height: in pixels.
    """

    kimg: float
    step: int | None
    uri: str
    width: int
    height: int


class Found(NamedTuple):
    """A picture's file and what it is.

    Attributes:
      path: of the file.
      kimg: thousands of images, by its name.
      step: updates; None where it doesn't say.
    """

    path: Path
    kimg: float
    step: int | None


class Gallery(NamedTuple):
    """Pictures of one kind.

    Attributes:
      pictures: in order.
      notes: lines that tell what is left out or drawn otherwise.
    """

    pictures: list[Picture]
    notes: list[str]


def is_one(name: str) -> bool:
    """Tell whether a file's name is that of a picture which a run drew."""
    return _NAME.fullmatch(name) is not None


def find(folder: Path) -> dict[str, list[Found]]:
    """List the pictures that a run drew, "samples", "comparison" and "teacher", in order.

    Args:
      folder: `W/samples`, which need not be there.
    """
    found: dict[str, list[Found]] = {"samples": [], "comparison": [], "teacher": []}
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return found
    for path in paths:
        if match := _NAME.fullmatch(path.name):
            step = _step(path)
            found[match["kind"]].append(Found(path, float(match["kimg"]), step))
    for each in found.values():
        each.sort(key=lambda one: (one.kimg, -1 if one.step is None else one.step))
    return found


def take(found: list[Found], budget: int, kimg_of: Mapping[int, float]) -> Gallery:
    """Read pictures, as many as a number of bytes holds: the first, the last, and some between.

    Where they are too many, they are taken as JPEG; where that is too much too, fewer of them.

    Args:
      found: in order.
      budget: bytes of the page that they may take.
      kimg_of: exact thousands of images by updates, which names of files cut.
    """
    notes = []
    if sum(_encoded(_size(each.path)) for each in found) <= budget:
        loaded, is_exact = [(each, _picture(each, kimg_of)) for each in found], True
    else:
        loaded, is_exact = _squeezed(found, budget, kimg_of), False
    pictures = [picture for _, picture in loaded if picture is not None]
    if broken := [each.path.name for each, picture in loaded if picture is None]:
        notes.append(f"Can't be read as pictures: {', '.join(broken)}.")
    if left_out := len(found) - len(loaded):
        notes.append(
            f"{left_out} of {len(found)} pictures are left out, to keep this page small; "
            "the folder samples/ has them."
        )
    if pictures and not is_exact:
        notes.append("Shown as JPEG, to keep this page small; the folder samples/ has them exact.")
    return Gallery(pictures, notes)


def total(galleries: Iterable[Gallery]) -> int:
    """Count the bytes that pictures take in a page."""
    return sum(len(picture.uri) for gallery in galleries for picture in gallery.pictures)


def _squeezed(
    found: list[Found], budget: int, kimg_of: Mapping[int, float]
) -> list[tuple[Found, Picture | None]]:
    """Read pictures as JPEG, evenly spread, no more of them than fit."""
    # The size of the last one tells about how many fit; a second round mends a wrong guess.
    sample = _picture(found[-1], kimg_of, as_jpeg=True)
    count = budget // max(1, len(sample.uri) if sample else 1)
    while count > 0:
        chosen = _spread(found, count)
        loaded = [(each, _picture(each, kimg_of, as_jpeg=True)) for each in chosen]
        size = sum(len(picture.uri) for _, picture in loaded if picture is not None)
        if size <= budget:
            return loaded
        count = min(len(chosen) - 1, len(chosen) * budget // size)
    return []


def _spread(found: list[Found], count: int) -> list[Found]:
    if count >= len(found):
        return found
    if count == 1:
        return found[-1:]
    last = len(found) - 1
    return [found[round(index * last / (count - 1))] for index in range(count)]


def _picture(
    found: Found, kimg_of: Mapping[int, float], *, as_jpeg: bool = False
) -> Picture | None:
    try:
        if _size(found.path) > _TOO_LARGE:
            return None
        data, kind = found.path.read_bytes(), "png"
        with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
            opened.load()
            width, height = opened.size
            if as_jpeg:
                kind, written = "jpeg", io.BytesIO()
                plain = opened if opened.mode in ("L", "RGB") else opened.convert("RGB")
                plain.save(written, format="JPEG", quality=_QUALITY)
                data = written.getvalue()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    kimg = found.kimg if found.step is None else kimg_of.get(found.step, found.kimg)
    return Picture(kimg, found.step, uri, width, height)


def _step(path: Path) -> int | None:
    step = images.read_text(path).get("step", "")
    return int(step) if step.isdecimal() and step.isascii() else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _encoded(size: int) -> int:
    return 4 * (size + 2) // 3 + 32
