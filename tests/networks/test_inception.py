import numpy as np
import pytest

from diffjax.networks import inception


@pytest.mark.parametrize(("height", "width"), [(32, 32), (300, 17), (299, 640)])
def test_resize_is_that_of_tensorflow_1(height, width):
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    result = np.asarray(inception.preprocess(images))
    assert result.shape == (2, 299, 299, 3)
    for y, x in [(0, 0), (298, 298), (7, 150), (299 - 2, 13), (120, 297)]:
        # Pixel y of the output shows the place y * height / 299; the last pixel is repeated.
        top, left = y * height // 299, x * width // 299
        down, right = y * height / 299 - top, x * width / 299 - left
        bottom, beside = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = (1 - right) * images[:, top, left] + right * images[:, top, beside]
        lower = (1 - right) * images[:, bottom, left] + right * images[:, bottom, beside]
        expected = ((1 - down) * upper + down * lower - 128) / 128
        # The network's places are float32, so off by up to 3e-5 of a pixel.
        np.testing.assert_allclose(result[:, y, x], expected, atol=2e-4)


def test_images_of_the_right_size_are_only_scaled():
    images = np.random.default_rng(0).integers(0, 256, (1, 299, 299, 3), np.uint8)
    expected = (images.astype(np.float32) - 128) / 128
    np.testing.assert_array_equal(inception.preprocess(images), expected)
