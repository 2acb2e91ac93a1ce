import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffjax.files import images, previews

MARGIN = 8 + 1  # of a panel, and the line around a canvas


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def canvas(picture: Image.Image, *, width: int, height: int) -> np.ndarray:
    """The part of a picture under its text, without the line around it."""
    pixels = np.asarray(picture)
    bottom = pixels.shape[0] - MARGIN
    part = pixels[bottom - height : bottom, MARGIN : MARGIN + width]
    around = pixels[bottom - height - 1 : bottom + 1, MARGIN - 1 : MARGIN + width + 1]
    frame = np.concatenate([around[0], around[-1], around[:, 0], around[:, -1]])
    assert (frame == 128).all()
    return part


@pytest.mark.parametrize(
    ("shape", "mode"),
    [
        ((2,), "L"),
        ((1,), "L"),
        ((3,), "L"),
        ((16000,), "L"),
        ((8, 8, 1), "L"),
        ((1, 8, 8), "L"),
        ((8, 6, 3), "RGB"),
        ((3, 8, 6), "RGB"),
        ((8, 8, 4), "RGB"),
        ((4, 8, 8), "RGB"),
        ((4, 8), None),
        ((2, 8, 8), None),
        ((5, 8, 3, 3), None),
        ((), None),
    ],
)
def test_a_shape_has_its_picture(shape, mode):
    if shape == ():
        with pytest.raises(ValueError, match=r"float32 \[10\]: floating-point \[N, \*shape\]"):
            previews.picture(normal(10), sigma_data=1.0)
        return
    picture = previews.picture(normal(10, *shape), sigma_data=1.0)
    assert (picture and picture.mode) == mode
    again = previews.picture(jnp.asarray(normal(10, *shape)), sigma_data=1.0)
    assert picture == again


def test_dots_land_where_their_points_are():
    # Quantiles lie within ±1.5, so that the window is ±2 units of sigma_data = 10.
    corners = np.array([[-15.0, -15.0], [15.0, 15.0], [-15.0, 15.0], [10.0, -5.0]])
    picture = previews.picture(corners, sigma_data=10.0)
    part = canvas(picture, width=384, height=384)
    expected = np.full((384, 384), 255)
    for x, y in corners:
        column, row = round((x + 20) / 40 * 383), round((20 - y) / 40 * 383)
        expected[row - 1 : row + 2, column - 1 : column + 2] = 127
    np.testing.assert_array_equal(part, expected)


def test_dots_on_top_of_each_other_are_darker_and_those_on_the_edge_are_cut():
    points = np.array([[0.0, 0.0]] * 3 + [[2.0, -2.0], [-2.0, 2.0]])
    part = canvas(previews.picture(points, sigma_data=1.0), width=384, height=384)
    rows, columns = np.nonzero(part == 255 // 8)
    assert (rows.mean(), columns.mean()) == (192, 192)
    assert len(rows) == 9
    assert (part[-2:, -2:] == 127).all()
    assert (part[:2, :2] == 127).all()
    assert (part < 255).sum() == 9 + 4 + 4


def test_a_far_point_does_not_shrink_the_others():
    points = np.concatenate([normal(1000, 2), [[1e6, 0.0]]])
    near = previews.picture(points[:-1], sigma_data=1.0)
    far = previews.picture(points, sigma_data=1.0)
    np.testing.assert_array_equal(
        canvas(near, width=384, height=384), canvas(far, width=384, height=384)
    )


def captions(monkeypatch) -> list[str]:
    found = []
    draw = images.labelled_panels

    def spy(panels, **settings):
        found.extend(caption for caption, _ in panels)
        return draw(panels, **settings)

    monkeypatch.setattr(images, "labelled_panels", spy)
    return found


def test_the_text_says_ranges_and_what_lies_outside(monkeypatch):
    found = captions(monkeypatch)
    scatter = np.concatenate([np.full((999, 2), [3.0, 100.2]), [[-900.0, 100.2]]])
    previews.picture(scatter, sigma_data=0.5)
    previews.picture(scatter[:, :1], sigma_data=0.5)
    previews.picture(np.array([[-1.0, 0.2, 0.4]] * 20), sigma_data=0.5)
    previews.picture(scatter, sigma_data=0.5, examples=7)
    assert found == [
        "x: 2.5 to 3.5\ny: 99.5 to 100.5\n1000 samples, 1 outside",
        "x: 2.5 to 3.5\n1000 samples, 1 outside",
        "8 of 20 samples\neach: -1 to 0.5, 3 values",
        "x: 2.5 to 3.5\ny: 99.5 to 100.5\n7 samples",
    ]


def test_a_histogram_has_its_bars_where_the_numbers_are():
    values = np.array([[-0.5]] * 30 + [[1.5]] * 10)
    part = canvas(previews.picture(values, sigma_data=1.0), width=384, height=128)
    heights = (part == 0).sum(axis=0)
    # The window is -1 to 2, with bins of 1/32: 4 pixels each.
    assert np.flatnonzero(heights).tolist() == [*range(64, 68), *range(320, 324)]
    assert set(heights[64:68]) == {128}
    assert set(heights[320:324]) == {43}
    assert (part[0, 64:68] == 0).all()
    assert (part[-43:, 320:324] == 0).all()


def test_curves_lie_below_each_other_on_one_scale():
    curves = np.stack([np.full(100, -2.0), np.linspace(-2.0, 2.0, 100), np.full(100, 2.0)])
    picture = previews.picture(curves, sigma_data=1.0)
    part = canvas(picture, width=512, height=3 * 64 + 2)
    low, rising, high = (part[start : start + 64] for start in (0, 65, 130))
    assert (low[63] == 0).all()
    assert (high[0] == 0).all()
    for column in (0, 128, 255, 511):
        row = np.flatnonzero(rising[:, column] == 0).mean()
        assert row == pytest.approx(63 * (1 - column / 511), abs=1.01)
    assert previews.picture(curves, sigma_data=1.0, examples=2).height == picture.height - 65


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_either_layout_are_in_units_of_sigma_data(channels):
    x = 0.4 * normal(5, 6, 7, channels)
    expected = images.to_uint8(x / 0.8)
    np.testing.assert_array_equal(previews.as_images(x, sigma_data=0.4), expected)
    first = np.moveaxis(x, 3, 1)
    np.testing.assert_array_equal(previews.as_images(first, sigma_data=0.4), expected)
    picture = previews.picture(x, sigma_data=0.4, columns=2)
    pixels = np.asarray(picture).reshape(picture.height, picture.width, channels)
    grid = images.grid(expected, columns=2, scale=images.visible_scale(7))
    np.testing.assert_array_equal(pixels, grid)


def test_the_last_axis_wins():
    x = normal(2, 3, 5, 4)
    assert previews.as_images(x, sigma_data=1.0).shape == (2, 3, 5, 3)


def test_latents_show_every_channel():
    gray = previews.as_images(np.zeros((1, 4, 2, 2)), sigma_data=1.0)
    assert (gray == 128).all()
    shown = set()
    for channel in range(4):
        x = np.zeros((1, 4, 2, 2))
        x[:, channel] = 1.0
        shown.add(tuple(previews.as_images(x, sigma_data=1.0)[0, 0, 0]))
    # ±1/2 of a colour's range of ±2.
    assert shown == {(159, 159, 159), (159, 96, 96), (96, 159, 96), (96, 96, 159)}


def test_sixty_four_images_are_enough():
    assert previews.picture(normal(100, 8, 8, 1), sigma_data=1.0).size == (8 * 65 + 1,) * 2
    few = previews.picture(normal(100, 8, 8, 1), sigma_data=1.0, examples=2, columns=2)
    assert few.size == (2 * 65 + 1, 65 + 1)


@pytest.mark.parametrize("shape", [(2,), (1,), (9,)])
@pytest.mark.parametrize("value", [0.0, 3.25, 1e30, -1e30])
def test_samples_that_are_all_one_have_a_picture(shape, value):
    picture = previews.picture(np.full((5, *shape), value), sigma_data=0.5)
    assert np.asarray(picture).min() == 0


@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        (np.zeros((3, 2), np.uint8), {}, r"uint8 \[3, 2\]: floating-point \[N, \*shape\]"),
        (np.zeros((0, 2)), {}, r"float64 \[0, 2\]"),
        (np.zeros((3, 2)), {"sigma_data": 0.0}, "sigma_data is 0.0, it must be positive"),
        (np.zeros((3, 2)), {"examples": 0}, "examples is 0, it must be positive"),
        (np.zeros((3, 8, 8, 1)), {"columns": 0}, "columns is 0, it must be positive"),
    ],
)
def test_refuses(x, settings, message):
    with pytest.raises(ValueError, match=message):
        previews.picture(x, **{"sigma_data": 1.0, **settings})


@pytest.mark.parametrize("shape", [(2,), (1,), (5,), (4, 4, 1)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_what_has_diverged(shape, value):
    x = normal(3, *shape)
    x[1] = value
    with pytest.raises(FloatingPointError, match="hold NaN or infinity"):
        previews.picture(x, sigma_data=1.0)
