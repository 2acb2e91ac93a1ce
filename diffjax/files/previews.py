"""Pictures of samples of any shape, chosen by the rank of an example, drawn with Pillow alone."""

import contextlib
import io
import itertools
import math
import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from diffjax.files import images

_SCATTER_PIXELS = 384  # both ways
_HISTOGRAM_PIXELS = (128, 384)  # height, width
_CURVE_PIXELS = (64, 512)
_BINS = 96
_PAPER, _ZERO_LINE = 255, 208
_OUTLIERS = 0.005  # share at either end that doesn't widen the window of a scatter
_MOST_IMAGES, _MOST_CURVES = 64, 8

# Four channels as red, green and blue: corners of a tetrahedron, so that no channel is hidden, zero
# is gray, and independent channels of one std give colours of that std.
_FALSE_COLOUR = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32) / 2


def picture(
    x: ArrayLike, *, sigma_data: float, examples: int | None = None, columns: int | None = None
) -> Image.Image | None:
    """Draw samples as what their shape says they are.

    Points, (2,), are a scatter, darker where many lie; numbers, (1,), a histogram; other examples
    of one axis are curves below each other, on one scale; images (see `as_images`) are a grid. An
    example of any other shape has no picture.

    Scatters, histograms and curves have the ranges of their axes as text, in the units of x. The
    ranges are cut at multiples of sigma_data, and a unit is as long on both axes of a scatter. The
    widest 0.5 % at either end of a coordinate don't widen the range of a scatter or histogram, and
    the text says how many samples lie outside.

    Args:
      x: [N, *shape] floating-point samples in the units of the data.
      sigma_data: standard deviation of the data, in the units of x.
      examples: the most that are drawn, the first ones; None: 64 images, 8 curves, every point.
      columns: images in a row; None makes the grid as square as can be.

    Returns:
      A picture in gray or colour, or None if samples of this shape have none.

    Raises:
      ValueError: x isn't [N, *shape] floating-point, or a setting isn't positive.
      FloatingPointError: x holds NaN or infinity.
    """
    samples = _checked(x, sigma_data)
    if examples is not None and examples < 1:
        raise ValueError(f"examples is {examples}, it must be positive")
    count, *shape = samples.shape
    if shape == [2]:
        pixels = _scatter(samples[:examples], sigma_data)
    elif shape == [1]:
        pixels = _histogram(samples[:examples, 0], sigma_data)
    elif len(shape) == 1:
        pixels = _curves(samples[: examples or _MOST_CURVES], count, sigma_data)
    else:
        shown = as_images(samples[: examples or _MOST_IMAGES], sigma_data=sigma_data)
        if shown is None:
            return None
        pixels = images.grid(
            shown, columns=columns, scale=images.visible_scale(max(shown.shape[1:3]))
        )
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def as_images(x: ArrayLike, *, sigma_data: float) -> np.ndarray | None:
    """Convert samples to uint8 images [N, H, W, 1 or 3] if an example's shape is an image's.

    An example is an image if it has three axes and the last or the first is of 1, 3 or 4 channels;
    if both are, the last. Zero is gray, -2 sigma_data black and 2 sigma_data white, which for
    sigma_data = 0.5 is EDM's [-1, 1]. Four channels, as latents have, are shown in false colour.

    Args:
      x: [N, *shape] floating-point samples in the units of the data.
      sigma_data: standard deviation of the data, in the units of x.

    Returns:
      [N, H, W, 1 or 3] uint8, or None if an example isn't an image.

    Raises:
      ValueError: x isn't [N, *shape] floating-point, or sigma_data isn't positive.
      FloatingPointError: x holds NaN or infinity.
    """
    samples = _checked(x, sigma_data)
    if samples.ndim != 4:
        return None
    if samples.shape[3] not in (1, 3, 4):
        samples = np.moveaxis(samples, 1, 3)
    if samples.shape[3] not in (1, 3, 4):
        return None
    if samples.shape[3] == 4:
        samples = samples @ _FALSE_COLOUR
    return images.to_uint8(samples / (2 * sigma_data))


def has_picture(shape: tuple[int, ...]) -> bool:
    """Tell whether `picture` draws examples of a shape.

    Args:
      shape: of an example.
    """
    return len(shape) == 1 or is_image(shape)


def is_image(shape: tuple[int, ...]) -> bool:
    """Tell whether `as_images` makes an image of an example of a shape.

    Args:
      shape: of an example.
    """
    return len(shape) == 3 and bool({shape[0], shape[2]} & {1, 3, 4})


def as_pixels(picture: Any) -> np.ndarray:
    """Convert a picture of any library to an array.

    Args:
      picture: a Pillow image, a matplotlib figure, or a uint8 array [H, W] or [H, W, 1, 3 or 4]. A
        figure is closed.

    Returns:
      [H, W, 1 or 3] uint8; what is transparent is white.

    Raises:
      ValueError: if it is something else; the text says what, and what is needed.
    """
    if hasattr(picture, "savefig"):
        file = io.BytesIO()
        picture.savefig(file, format="png")
        if "matplotlib.pyplot" in sys.modules:  # which keeps every figure until it is closed
            with contextlib.suppress(TypeError):
                sys.modules["matplotlib.pyplot"].close(picture)
        picture = Image.open(file)
    elif not isinstance(picture, Image.Image):
        found = np.asarray(picture) if hasattr(picture, "__array__") else None
        shape = () if found is None else found.shape
        is_picture = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))
        if found is None or found.dtype != np.uint8 or not is_picture or not found.size:
            what = type(picture).__name__ if found is None else f"{found.dtype} {list(shape)}"
            raise ValueError(
                f"{what}; a Pillow image, a matplotlib figure or a uint8 array [H, W] or "
                "[H, W, 3] is needed"
            )
        picture = Image.fromarray(found[..., 0] if shape[2:] == (1,) else found)
    if picture.mode in ("1", "L"):
        return np.asarray(picture.convert("L"))[..., None]
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture.convert("RGBA"))
    return np.asarray(paper.convert("RGB"))


def _checked(x: ArrayLike, sigma_data: float) -> np.ndarray:
    if not 0 < sigma_data < math.inf:
        raise ValueError(f"sigma_data is {sigma_data}, it must be positive and finite")
    samples = np.asarray(x)
    if samples.ndim < 2 or samples.size == 0 or samples.dtype.kind in "biuc":
        raise ValueError(
            f"the samples are {samples.dtype} {list(samples.shape)}: floating-point [N, *shape] is "
            "needed"
        )
    samples = samples.astype(np.float32)
    if not np.isfinite(samples).all():
        raise FloatingPointError("the samples hold NaN or infinity: what made them has diverged")
    return samples


def _whole(low: float, high: float, sigma_data: float) -> tuple[float, float]:
    """Widen a range to whole multiples of sigma_data, and to two of them at least."""
    first, last = math.floor(low / sigma_data), math.ceil(high / sigma_data)
    # Far from zero, where samples that have diverged lie, one more would round to nothing.
    least = max(1, abs(first) // 10**6)
    if last - first < 2 * least:
        first, last = first - least, first + least
    return first * sigma_data, last * sigma_data


def _without_outliers(values: np.ndarray, sigma_data: float) -> tuple[float, float]:
    low, high = np.quantile(values.astype(np.float64), [_OUTLIERS, 1 - _OUTLIERS])
    return _whole(float(low), float(high), sigma_data)


def _fractions(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    low, high = window
    return (values.astype(np.float64) - low) / (high - low)


def _range_text(name: str, window: tuple[float, float]) -> str:
    return f"{name}: {window[0]:.6g} to {window[1]:.6g}"


def _count_text(count: int, outside: int) -> str:
    return f"{count} samples" + (f", {outside} outside" if outside else "")


def _scatter(points: np.ndarray, sigma_data: float) -> np.ndarray:
    windows = [_without_outliers(points[:, axis], sigma_data) for axis in (0, 1)]
    # A unit is as long on both axes, or a circle would be none.
    half = max(high - low for low, high in windows) / 2
    middles = [(low + high) / 2 for low, high in windows]
    windows = [(middle - half, middle + half) for middle in middles]
    across, up = (_fractions(points[:, axis], windows[axis]) for axis in (0, 1))
    inside = (abs(across - 0.5) <= 0.5) & (abs(up - 0.5) <= 0.5)
    columns = np.rint(across[inside] * (_SCATTER_PIXELS - 1)).astype(int)
    rows = np.rint((1 - up[inside]) * (_SCATTER_PIXELS - 1)).astype(int)
    # A dot is 3 x 3 pixels; a margin of one pixel takes what falls over the edge.
    counts = np.zeros((_SCATTER_PIXELS + 2, _SCATTER_PIXELS + 2))
    for down, right in itertools.product(range(3), repeat=2):
        np.add.at(counts, (rows + down, columns + right), 1)
    canvas = (_PAPER * 0.5 ** counts[1:-1, 1:-1]).astype(np.uint8)
    caption = "\n".join(
        [
            _range_text("x", windows[0]),
            _range_text("y", windows[1]),
            _count_text(len(points), int(np.sum(~inside))),
        ]
    )
    return images.labelled_panels([(caption, canvas[None, ..., None])], scale=1)


def _histogram(values: np.ndarray, sigma_data: float) -> np.ndarray:
    window = _without_outliers(values, sigma_data)
    fractions = _fractions(values, window)
    counts, _ = np.histogram(fractions, bins=_BINS, range=(0.0, 1.0))
    height, width = _HISTOGRAM_PIXELS
    bars = np.rint(height * counts / max(1, counts.max())).repeat(width // _BINS)
    above = np.arange(height)[::-1, None] >= bars
    canvas = np.where(above, _PAPER, 0).astype(np.uint8)
    text = _count_text(len(values), len(values) - int(counts.sum()))
    caption = f"{_range_text('x', window)}\n{text}"
    return images.labelled_panels([(caption, canvas[None, ..., None])], scale=1)


def _curves(curves: np.ndarray, count: int, sigma_data: float) -> np.ndarray:
    window = _whole(float(curves.min()), float(curves.max()), sigma_data)
    height, width = _CURVE_PIXELS
    across = np.linspace(0, width - 1, curves.shape[1])
    panels = []
    for curve in curves:
        panel = Image.new("L", (width, height), _PAPER)
        draw = ImageDraw.Draw(panel)
        zero = (1 - _fractions(np.zeros(1), window)[0]) * (height - 1)
        draw.line([(0, zero), (width, zero)], fill=_ZERO_LINE)
        up = _fractions(curve, window)
        draw.line(list(zip(across, (1 - up) * (height - 1), strict=True)), fill=0)
        panels.append(np.asarray(panel))
    caption = (
        f"{len(curves)} of {count} samples\n{_range_text('each', window)}, {curves.shape[1]} values"
    )
    return images.labelled_panels([(caption, np.stack(panels)[..., None])], columns=1, scale=1)
