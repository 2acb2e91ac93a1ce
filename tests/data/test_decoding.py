"""Images of which PIL by itself would give a part, or something else than is seen."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from diffjax.data import decoding
from tests.support import image_files

PICTURE = image_files.pictures(1)[0]


def saved(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def png_of_16_bits(channels):
    """Whose low bytes are not those that it would have by repetition."""
    rows = np.random.default_rng(0).integers(0, 1 << 16, (4, 4, channels)).astype(">u2")
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, color_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_lose_no_byte(channels):
    with pytest.raises(ValueError, match="8-bit RGB or gray"):
        decoding.decode(png_of_16_bits(channels))


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("CMYK", "JPEG")]
)
def test_other_colours_are_refused(mode, kind):
    with pytest.raises(ValueError, match=f"mode {mode}; convert the images"):
        decoding.decode(saved(Image.fromarray(PICTURE).convert(mode), kind))


def test_a_transparent_colour_is_refused():
    content = saved(Image.fromarray(PICTURE), transparency=tuple(PICTURE[0, 0].tolist()))
    with pytest.raises(ValueError, match="one of its colours is transparent"):
        decoding.decode(content)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("MPO", {})])
def test_further_frames_are_not_left_out(kind, options):
    frames = [Image.fromarray(x) for x in image_files.pictures(3)]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with pytest.raises(ValueError, match="it holds 3 frames; store each as an image of its own"):
        decoding.decode(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_as_viewers_show_them(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(PICTURE[:5]), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    pixels = decoding.decode(content)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.shape[:2] == ((5, 8) if orientation < 5 else (8, 5))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_is_damaged_turns_nothing():
    content = saved(Image.fromarray(PICTURE), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    np.testing.assert_array_equal(
        decoding.decode(content), np.asarray(Image.open(io.BytesIO(content)))
    )


def test_gray_of_few_bits():
    picture = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))
    np.testing.assert_array_equal(
        decoding.decode(saved(picture, bits=4))[..., 0], np.asarray(picture)
    )
