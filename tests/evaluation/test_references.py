"""References: images, or statistics of the same features."""

import re

import numpy as np
import pytest

from diffjax import metrics
from diffjax.data import digits
from diffjax.distributed import sharding
from diffjax.evaluation import features, image_statistics, references
from diffjax.files import images

SHAPE = (8, 8, 1)
PIXELS = features.pixels(images.to_uint8(digits.load()[0]))


def load(source, extract, **changes):
    settings = {"image_shape": SHAPE, "keep_rows": True, "batch_size": 100} | changes
    return references.load(source, extract, mesh=sharding.make_mesh(data=2), **settings)


def moments_of(rows):
    return metrics.Moments.empty(rows.shape[1]).update(rows)


def test_images_are_their_features_and_moments():
    reference = load("digits", features.load("pixels"))
    np.testing.assert_array_equal(reference.rows, PIXELS)
    expected = moments_of(PIXELS)
    np.testing.assert_allclose(reference.mean, expected.mean, atol=1e-12)
    np.testing.assert_allclose(reference.cov, expected.cov, atol=1e-12)
    assert references.holds_images("digits")


def test_features_are_kept_only_if_they_are_needed():
    assert load("digits", features.load("pixels"), keep_rows=False).rows is None


def test_statistics(tmp_path):
    path = str(tmp_path / "digits.npz")
    image_statistics.save(path, moments_of(PIXELS), features_name="pixels")
    reference = load(path, features.load("pixels"))
    np.testing.assert_array_equal(reference.mean, PIXELS.mean(axis=0))
    assert reference.rows is None
    assert not references.holds_images(path)


@pytest.mark.parametrize(
    ("name", "dim", "wanted", "message"),
    [
        ("inception", 64, "pixels", "64 features 'inception', but .* are 64 of 'pixels'"),
        ("pixels", 63, "pixels", "63 features 'pixels', but .* are 64 of 'pixels'"),
        ("inception_random", 64, "inception_random", "random weights are for timing"),
    ],
)
def test_statistics_of_other_features(tmp_path, name, dim, wanted, message):
    path = str(tmp_path / "other.npz")
    image_statistics.save(path, moments_of(PIXELS[:, :dim]), features_name=name)
    extract = features.Features(wanted, features.load("pixels").apply)
    with pytest.raises(ValueError, match=re.escape(path) + ".*" + message):
        load(path, extract)


def test_images_of_another_size():
    with pytest.raises(ValueError, match=r"'digits' has images of \(8, 8, 1\), .* \(8, 8, 3\)"):
        load("digits", features.load("pixels"), image_shape=(8, 8, 3))


@pytest.mark.parametrize("label_dim", [0, 7, 10])
def test_examples_come_by_class(label_dim):
    pictures, classes = images.to_uint8(digits.load()[0]), digits.load()[1]
    shown = references.examples("digits", 25, label_dim=label_dim)
    np.testing.assert_array_equal(shown, references.examples("digits", 25, label_dim=label_dim))
    known = {picture.tobytes(): label for picture, label in zip(pictures, classes, strict=True)}
    labels = [known[picture.tobytes()] for picture in shown]
    assert len({picture.tobytes() for picture in shown}) == 25
    if label_dim == 10:
        assert labels == [i % 10 for i in range(25)]
