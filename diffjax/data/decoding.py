"""Decoding of PNG and JPEG files, within bounds: the files may come from anywhere."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from diffjax.files import kinds

# 4096 x 4096 pixels, far above what diffusion models are trained on.
MAX_PIXELS = 1 << 24
MAX_FILE_BYTES = 1 << 26
# Pixels that the scans of a progressive JPEG may go over, together; ordinary files take ten scans.
MAX_SCANNED_PIXELS = 1 << 28
_START_OF_SCAN = b"\xff\xda"
_BIT_DEPTH = 24  # place of a PNG's bits a channel
_MODES = ("L", "RGB")  # gray and colour, 8 bits a channel
_MODE_WORDS = {
    "1": "black or white",
    "P": "indices of a palette",
    "PA": "indices of a palette with transparency",
    "LA": "gray with transparency",
    "RGBA": "colours with transparency",
    "RGBX": "colours with padding",
    "CMYK": "inks (cyan, magenta, yellow, black)",
    "YCbCr": "brightness and two colour differences",
    "I": "gray of 32 bits",
    "I;16": "gray of 16 bits",
    "I;16B": "gray of 16 bits",
    "F": "gray in floating point",
}


def decode(content: bytes) -> np.ndarray:
    """Decode one image as it is stored: no resizing, no change of colours.

    It is turned only as its EXIF orientation says, so that it stands as viewers show it.

    Args:
      content: of a PNG or JPEG file.

    Returns:
      uint8 [H, W, 1] or [H, W, 3].

    Raises:
      ValueError: saying what is wrong with the image, without naming it; also where it holds more
        than these pixels: 16 bits a channel, transparency, other frames.
    """
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"a file of {len(content)} bytes, over {MAX_FILE_BYTES}")
    with _one_kind_of_error(content):
        picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
    _check_header(picture, content)
    _check_scans(picture, content.count(_START_OF_SCAN))
    with _one_kind_of_error(content), picture:
        is_turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
        pixels = np.asarray(ImageOps.exif_transpose(picture) if is_turned else picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


@contextlib.contextmanager
def _one_kind_of_error(content: bytes) -> Iterator[None]:
    """Context that turns whatever PIL raises on damaged files into a ValueError."""
    try:
        yield
    except UnidentifiedImageError as error:  # whose words are of an object in memory
        raise ValueError(f"not a readable PNG or JPEG{kinds.but_content(content)}") from error
    except Exception as error:
        raise ValueError(f"not a readable PNG or JPEG ({error})") from error


def _check_header(picture: Image.Image, content: bytes) -> None:
    """Check by the header, before memory is taken for the pixels."""
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{picture.width}x{picture.height} pixels, over {MAX_PIXELS}")
    if picture.mode not in _MODES:
        words = _MODE_WORDS.get(picture.mode, "of another kind")
        raise ValueError(
            f"its pixels are {words}, PIL's mode {picture.mode}; convert the images to 8-bit RGB "
            "or gray"
        )
    # PIL drops the low byte of a colour, and a transparent colour's transparency.
    if picture.format == "PNG" and content[_BIT_DEPTH] > 8:
        raise ValueError(
            f"its channels have {content[_BIT_DEPTH]} bits; convert the images to 8-bit RGB or gray"
        )
    if "transparency" in picture.info:
        raise ValueError("one of its colours is transparent; convert the images to RGB or gray")
    if getattr(picture, "n_frames", 1) > 1:
        raise ValueError(
            f"it holds {picture.n_frames} frames; store each as an image of its own"  # type: ignore[attr-defined]
        )


def _check_scans(picture: Image.Image, scans: int) -> None:
    """Check the work of a JPEG, whose few kilobytes can ask for thousands of passes."""
    if picture.format != "PNG" and scans * picture.width * picture.height > MAX_SCANNED_PIXELS:
        raise ValueError(f"{scans} scans of {picture.width}x{picture.height} pixels")
