"""References: images, or statistics of the same features."""

import re

import numpy as np
import pytest

from diffjax import metrics
from diffjax.data import digits
from diffjax.distributed import sharding
from diffjax.evaluation import features, image_statistics, references, statistics_origin
from diffjax.files import download, images

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


def statistics_of(tmp_path, features_, shape=SHAPE):
    path = str(tmp_path / "own.npz")
    about = statistics_origin.describe(features_.record, shape, name="digits", sha256="1" * 64)
    moments = moments_of(PIXELS)
    image_statistics.save(path, moments, features_name=features_.name, measured=about)
    return path


def own(function, sha256="a" * 64):
    apply = features.load("pixels").apply
    return features.Features("embed", apply, function=function, sha256=sha256)


def test_statistics_of_another_module_s_function_of_that_name(tmp_path):
    path = statistics_of(tmp_path, own("a:embed"))
    assert load(path, own("a:embed")).record["statistics_of"] == "digits"
    with pytest.raises(ValueError, match=r"of the features a:embed, but features='b:embed'"):
        load(path, own("b:embed"))


def test_statistics_of_images_of_another_size(tmp_path):
    """Of as many features all the same, as Inception's are."""
    path = statistics_of(tmp_path, own("a:embed"), shape=(4, 16, 1))
    with pytest.raises(
        ValueError, match=r"images of \(4, 16, 1\), but the network makes \(8, 8, 1"
    ):
        load(path, own("a:embed"))


def test_released_statistics_say_their_size_by_their_name(tmp_path, monkeypatch):
    path = tmp_path / "released.npz"
    np.savez(path, mu=np.zeros(2048), sigma=np.eye(2048))
    monkeypatch.setattr(download, "fetch", lambda source: path)
    extract = features.Features("inception", lambda _, x: (np.zeros((len(x), 2048)), None))
    assert load("cifar10-32x32", extract, image_shape=(32, 32, 3)).record["image_shape"] == [
        32,
        32,
        3,
    ]
    with pytest.raises(ValueError, match=r"'ffhq-64x64' holds statistics of images of \(64, 64, 3"):
        load("ffhq-64x64", extract, image_shape=(32, 32, 3))


def test_what_statistics_do_not_say_is_told(tmp_path, caplog):
    path = str(tmp_path / "earlier.npz")
    image_statistics.save(path, moments_of(PIXELS), features_name="embed")
    load(path, own("a:embed"))
    assert "doesn't say of which images, and by which function" in caplog.text
    caplog.clear()
    load(statistics_of(tmp_path, own("a:embed")), own("a:embed", sha256="b" * 64))
    assert "another version of its file" in caplog.text


def test_the_same_images_are_known_by_their_pixels():
    one, two = (load("digits", features.load("pixels"), batch_size=size) for size in (100, 33))
    assert one.record == two.record
    assert (one.record["name"], one.record["count"]) == ("digits", 1797)


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
