"""Pictures of arrays: quantisation to uint8, grids, labelled panels, PNG files."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from diffjax.files import writing

_GAP_GRAY = 128  # between the images of a grid: neither ink nor paper
_MARGIN = 8  # pixels around a labelled panel
_FONT_SIZE = 16  # pixels


def to_uint8(x: ArrayLike) -> np.ndarray:
    """Map [-1, 1] to 0..255 as EDM's `generate.py` does: x · 127.5 + 128, clipped, rounded down.

    The published Fréchet distances are of images made so.

    Args:
      x: floating-point array of any shape, in [-1, 1]; what lies outside is clipped.

    Returns:
      uint8 array of the same shape.

    Raises:
      FloatingPointError: if `x` holds NaN, for which there is no colour.
    """
    x = np.asarray(x, np.float32)
    if np.isnan(x).any():
        raise FloatingPointError("the images hold NaN: what made them has diverged")
    return (x * 127.5 + 128).clip(0, 255).astype(np.uint8)


def visible_scale(resolution: int) -> int:
    """Factor by which to enlarge an image of `resolution` pixels so that it is about 64 wide."""
    return max(1, 64 // resolution)


def grid(
    images: np.ndarray, *, columns: int | None = None, padding: int = 1, scale: int = 1
) -> np.ndarray:
    """Lay images out in rows, with gray lines around them.

    Args:
      images: [N, H, W, C] uint8, C = 1 or 3.
      columns: images in a row; None makes the grid as square as can be.
      padding: width of the lines, in pixels of the result.
      scale: each pixel becomes scale × scale pixels (nearest neighbour).

    Returns:
      [H', W', C] uint8.

    Raises:
      ValueError: if the images are of another type or shape, or a number is out of range.
    """
    _check_images(images)
    if columns is not None and columns < 1:
        raise ValueError(f"columns is {columns}, it must be positive")
    if padding < 0 or scale < 1:
        raise ValueError(f"padding is {padding} and scale is {scale}: at least 0 and 1 are needed")
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else min(columns, count)
    rows = math.ceil(count / columns)
    row_step, column_step = height + padding, width + padding
    shape = (rows * row_step + padding, columns * column_step + padding, channels)
    canvas = np.full(shape, _GAP_GRAY, np.uint8)
    for index, image in enumerate(images):
        top = padding + index // columns * row_step
        left = padding + index % columns * column_step
        canvas[top : top + height, left : left + width] = image
    return canvas


def save_png(
    path: str | os.PathLike[str], array: np.ndarray, *, text: Mapping[str, str] | None = None
) -> None:
    """Write a picture as PNG, making its folder; the file appears complete or not at all.

    Args:
      path: file to write or replace.
      array: [H, W], [H, W, 1] or [H, W, 3] uint8.
      text: keyword -> text, Latin-1, kept in the file; `read_text` reads it.

    Raises:
      ValueError: if `array` is of another type or shape.
      OSError: if the file can't be written.
    """
    picture = _to_pil(array)
    chunks = PngImagePlugin.PngInfo()
    for keyword, value in (text or {}).items():
        chunks.add_text(keyword, value)
    with writing.replacing(Path(path)) as partial:
        picture.save(partial, format="PNG", pnginfo=chunks)


def read_text(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the texts of a PNG file; none where it isn't one."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return {str(keyword): str(text) for keyword, text in picture.info.items()}
    except (OSError, ValueError, SyntaxError):
        return {}


def labelled_panels(
    panels: Sequence[tuple[str, np.ndarray]],
    *,
    columns: int | None = None,
    padding: int = 1,
    scale: int | None = None,
) -> np.ndarray:
    """Put grids of images side by side, each under its caption.

    Args:
      panels: pairs of a caption and its images, [N, H, W, C] uint8, C = 1 or 3; sizes may differ
        from panel to panel, and gray goes with colour. Captions are ASCII, which is what Pillow's
        own font can draw, and may have several lines.
      columns: images in a row of each grid; None makes the grids as square as can be.
      padding: width of the lines in the grids, in pixels.
      scale: enlargement of the images; None shows each about 64 pixels wide or larger.

    Returns:
      [H', W', C] uint8, C = 3 if a panel has colour, else 1.

    Raises:
      ValueError: if there is no panel, images are of another type or shape, or a caption isn't
        ASCII.
    """
    if not panels:
        raise ValueError("there are no panels to show")
    for caption, images in panels:
        _check_images(images)
        if not caption.isascii():
            raise ValueError(f"the caption {caption!r} isn't ASCII, so Pillow's font can't draw it")
    grids = [
        grid(
            images,
            columns=columns,
            padding=padding,
            scale=visible_scale(images.shape[2]) if scale is None else scale,
        )
        for _, images in panels
    ]
    mode = "RGB" if any(pixels.shape[2] == 3 for pixels in grids) else "L"
    lines = max(caption.count("\n") + 1 for caption, _ in panels)
    cells = [
        _captioned(caption, lines, _to_pil(pixels).convert(mode))
        for (caption, _), pixels in zip(panels, grids, strict=True)
    ]
    height = max(cell.height for cell in cells)
    picture = Image.new(mode, (sum(cell.width for cell in cells), height), "white")
    left = 0
    for cell in cells:
        picture.paste(cell, (left, 0))
        left += cell.width
    pixels = np.asarray(picture)
    return pixels if mode == "RGB" else pixels[..., None]


def _captioned(caption: str, lines: int, picture: Image.Image) -> Image.Image:
    """Draw a picture under its caption, with room for `lines` lines, so that panels align."""
    font = ImageFont.load_default(size=_FONT_SIZE)
    ruler = ImageDraw.Draw(Image.new(picture.mode, (1, 1)))
    text_width = ruler.multiline_textbbox((0, 0), caption, font=font)[2]
    text_height = ruler.multiline_textbbox((0, 0), "\n".join(["|gy"] * lines), font=font)[3]
    top = math.ceil(text_height) + 2 * _MARGIN
    width = max(math.ceil(text_width), picture.width) + 2 * _MARGIN
    cell = Image.new(picture.mode, (width, top + picture.height + _MARGIN), "white")
    ImageDraw.Draw(cell).multiline_text((_MARGIN, _MARGIN), caption, fill="black", font=font)
    cell.paste(picture, (_MARGIN, top))
    return cell


def _check_images(images: np.ndarray) -> None:
    right = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in (1, 3)
    if not right or images.size == 0:
        raise ValueError(
            f"images are {images.dtype} {list(images.shape)}: uint8 [N, H, W, 1 or 3] is needed"
        )


def _to_pil(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not is_picture:
        raise ValueError(
            f"the picture is {array.dtype} {list(array.shape)}: uint8 [H, W] or [H, W, 1 or 3] "
            "is needed"
        )
    return Image.fromarray(array)
