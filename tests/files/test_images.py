from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffjax.files import images


def test_to_uint8_hand_computed() -> None:
    # x · 127.5 + 128: -1 -> 0.5, 0 -> 128, 1 -> 255.5 (clipped), 0.5 -> 191.75, rounded down.
    x = np.array([-1.0, 0.0, 1.0, 0.5, -3.0, 3.0, np.inf], np.float32)
    result = images.to_uint8(x)
    assert result.dtype == np.uint8
    assert result.tolist() == [0, 128, 255, 191, 0, 255, 255]


def test_to_uint8_inverts_the_usual_way_in() -> None:
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(images.to_uint8(pixels / 127.5 - 1), pixels)
    np.testing.assert_array_equal(images.to_uint8(jnp.asarray(pixels) / 127.5 - 1), pixels)


def test_to_uint8_refuses_nan() -> None:
    with pytest.raises(FloatingPointError, match="hold NaN"):
        images.to_uint8(np.array([0.0, np.nan]))


def test_grid_hand_computed() -> None:
    cells = np.arange(1, 4, dtype=np.uint8).reshape(3, 1, 1, 1)
    g = 128
    assert images.grid(cells)[..., 0].tolist() == [
        [g, g, g, g, g],
        [g, 1, g, 2, g],
        [g, g, g, g, g],
        [g, 3, g, g, g],
        [g, g, g, g, g],
    ]
    assert images.grid(cells, columns=3, padding=0, scale=2)[..., 0].tolist() == [
        [1, 1, 2, 2, 3, 3],
        [1, 1, 2, 2, 3, 3],
    ]
    assert images.grid(cells, columns=9, padding=0)[..., 0].tolist() == [[1, 2, 3]]


def test_grid_keeps_images_whole_and_in_colour() -> None:
    cells = np.random.RandomState(0).randint(0, 256, (4, 5, 7, 3)).astype(np.uint8)
    result = images.grid(cells, columns=2, padding=2)
    assert result.shape == (2 * 5 + 3 * 2, 2 * 7 + 3 * 2, 3)
    np.testing.assert_array_equal(result[2:7, 2:9], cells[0])
    np.testing.assert_array_equal(result[9:14, 11:18], cells[3])


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 4, 4, 1), np.float32),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((2, 4, 4, 2), np.uint8),
        np.zeros((0, 4, 4, 1), np.uint8),
    ],
)
def test_what_is_no_batch_of_images_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[N, H, W, 1 or 3\] is needed"):
        images.grid(bad)
    with pytest.raises(ValueError, match=r"uint8 \[N, H, W, 1 or 3\] is needed"):
        images.labelled_panels([("bad", bad)])


@pytest.mark.parametrize("arguments", [{"columns": 0}, {"padding": -1}, {"scale": 0}])
def test_grid_refuses_numbers_that_make_no_grid(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        images.grid(np.zeros((2, 4, 4, 1), np.uint8), **arguments)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 3)])
def test_save_png_round_trip(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    path = tmp_path / "new" / "picture.png"
    images.save_png(path, np.zeros((2, 2), np.uint8))
    images.save_png(path, array)  # replaces
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), array.squeeze())
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_save_png_failing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "picture.png"
    images.save_png(path, np.full((2, 2), 7, np.uint8))
    before = path.read_bytes()

    def torn(_: object, target: Path, **__: object) -> None:
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", torn)
    with pytest.raises(OSError, match="disk full"):
        images.save_png(path, np.zeros((2, 2), np.uint8))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


def test_save_png_refuses_what_is_no_picture(tmp_path: Path) -> None:
    for array in (np.zeros((2, 2)), np.zeros((2, 2, 2), np.uint8), np.zeros(2, np.uint8)):
        with pytest.raises(ValueError, match="the picture is"):
            images.save_png(tmp_path / "x.png", array)
    assert list(tmp_path.iterdir()) == []


class TestLabelledPanels:
    def test_gray_panels_are_enlarged_and_captioned(self) -> None:
        cells = np.full((4, 8, 8, 1), 40, np.uint8)
        result = images.labelled_panels([("real", cells), ("made", cells)])
        assert result.dtype == np.uint8
        assert result.ndim == 3
        assert result.shape[2] == 1
        # Each of the 2 · 4 images of 8 × 8 became 64 × 64, and nothing else has their colour.
        caption = result[: result.shape[0] - 2 * 64 - 3 - 8]
        assert (result == 40).sum() - (caption == 40).sum() == 8 * 64 * 64
        left, right = np.split(caption, 2, axis=1)
        assert left.min() < 64
        assert right.min() < 64
        assert not np.array_equal(left, right)

    def test_gray_beside_colour(self) -> None:
        gray = np.full((1, 8, 8, 1), 40, np.uint8)
        red = np.zeros((1, 32, 32, 3), np.uint8)
        red[..., 0] = 255
        result = images.labelled_panels([("gray", gray), ("red", red)])
        assert result.shape[2] == 3
        assert (result == [40, 40, 40]).all(-1).sum() >= 64 * 64
        assert (result == [255, 0, 0]).all(-1).sum() == 64 * 64

    def test_a_long_caption_is_not_cut(self) -> None:
        cells = np.zeros((1, 8, 8, 1), np.uint8)
        short = images.labelled_panels([("a", cells)])
        long = images.labelled_panels([("a caption much wider than its picture is", cells)])
        assert long.shape[1] > 2 * short.shape[1]
        assert long[:, -4:].min() == 255

    def test_pictures_align_whatever_their_captions(self) -> None:
        cells = np.full((1, 8, 8, 1), 40, np.uint8)
        result = images.labelled_panels([("a", cells), ("Two\nlines", cells), ("|gy", cells)])
        rows = (result[..., 0] == 40).sum(axis=1)
        assert (rows >= 3 * 64).sum() == 64

    def test_a_caption_that_the_font_lacks(self) -> None:
        with pytest.raises(ValueError, match="isn't ASCII"):
            images.labelled_panels([("Fréchet", np.zeros((1, 8, 8, 1), np.uint8))])

    def test_scale_and_columns_are_obeyed(self) -> None:
        cells = np.full((3, 8, 8, 1), 40, np.uint8)
        result = images.labelled_panels([("", cells)], columns=3, padding=0, scale=1)
        assert (result == 40).sum() == 3 * 64
        assert (result == 40).all(axis=(1, 2)).sum() == 0
        assert (result == 40).any(axis=(1, 2)).sum() == 8

    def test_nothing_to_show(self) -> None:
        with pytest.raises(ValueError, match="no panels"):
            images.labelled_panels([])


@pytest.mark.parametrize(("resolution", "scale"), [(8, 8), (28, 2), (32, 2), (64, 1), (256, 1)])
def test_visible_scale(resolution: int, scale: int) -> None:
    assert images.visible_scale(resolution) == scale
