"""Latents as EDM2's tool writes them: what is read, what is drawn of it, what is refused."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import data
from diffjax.data import arrays
from diffjax.data.source import LatentSource
from diffjax.methods.draws import Batch, Dataset, real_batch
from diffjax.models import latents
from diffjax.training import dataset as training_dataset
from tests.support import image_files

SCALE, BIAS = (np.asarray(each, np.float32) for each in (latents.EDM2.scale, latents.EDM2.bias))


def write(kind, path, contents):
    if kind == "zip":
        return str(image_files.write_zip(path / "set.zip", contents))
    return str(image_files.write_folder(path / "set", contents))


def opened(path, count=6, kind="zip", classes=True, **options):
    contents = image_files.laws(count, **options)
    labels = [i % 3 for i in range(count)] if classes else None
    contents["dataset.json"] = image_files.labels(list(contents), labels)
    return LatentSource(data.open_laws(write(kind, path, contents)), True, SCALE, BIAS)


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_laws_and_classes_come_back_in_the_units_of_edm2(kind, tmp_path):
    source = opened(tmp_path, kind=kind)
    assert (len(source), source.image_shape, source.num_classes) == (6, (8, 8, 4), 3)
    for i, content in enumerate(image_files.laws(6).values()):
        raw = np.load(io.BytesIO(content)).transpose(1, 2, 0)
        values, label = source[i]
        assert (values.dtype, label) == (np.float32, i % 3)
        np.testing.assert_allclose(values[..., :4], raw[..., :4] * SCALE + BIAS, rtol=1e-6)
        np.testing.assert_allclose(values[..., 4:], raw[..., 4:] * SCALE, rtol=1e-6)
    data.verify(source)


def test_a_folder_without_classes_has_none(tmp_path):
    assert opened(tmp_path, kind="folder", classes=False).num_classes == 0


def test_an_example_is_drawn_around_its_mean(tmp_path):
    """As EDM2 draws it: (mean + std n) scale + bias, anew each time."""
    loaded = training_dataset.load(opened(tmp_path, count=1))
    raw = np.load(io.BytesIO(next(iter(image_files.laws(1).values())))).transpose(1, 2, 0)
    assert jax.eval_shape(lambda: loaded) == training_dataset.abstract(opened(tmp_path, count=1))
    batch = Batch((8, 8, 4), 512, label_dim=3)
    draw = jax.jit(lambda key: real_batch(key, loaded, batch, x_flip=False, in_order=False)[0])
    x = draw(jax.random.key(0))
    assert not jnp.array_equal(x, draw(jax.random.key(1)))
    n = (x - (raw[..., :4] * SCALE + BIAS)) / (raw[..., 4:] * SCALE)
    assert abs(float(n.mean())) < 0.01
    assert float(n.std()) == pytest.approx(1, abs=0.01)
    # Of one pixel over the examples, and of one example over its pixels: none is drawn twice.
    assert np.std(n, axis=0).min() > 0.8
    assert np.std(n, axis=(1, 2, 3)).min() > 0.7


def test_a_flip_takes_mean_and_deviation_along():
    x = jnp.arange(4.0).reshape(1, 1, 4, 1)
    dataset = Dataset(100 * x, jnp.zeros(1, jnp.int32), 1e-3 * x)
    batch = Batch((1, 4, 1), 64)
    drawn, _ = real_batch(jax.random.key(0), dataset, batch, x_flip=True, in_order=False)
    means = np.round(drawn[:, 0, :, 0])
    assert {tuple(row) for row in means.tolist()} == {(0, 100, 200, 300), (300, 200, 100, 0)}
    place = np.asarray(means).argmin(axis=1)
    off = np.abs(drawn[:, 0, :, 0] - means)
    assert off[np.arange(64), place].max() == 0  # where the mean is 0, the deviation is
    assert np.delete(off, 0, axis=1).max() > 0


def test_without_deviations_nothing_is_drawn():
    x = jnp.ones((2, 1, 4, 1))
    dataset = Dataset(x, jnp.zeros(2, jnp.int32))
    drawn, _ = real_batch(
        jax.random.key(0), dataset, Batch((1, 4, 1), 8), x_flip=True, in_order=False
    )
    np.testing.assert_array_equal(drawn, 1)


def test_bytes_on_the_devices_are_those_of_floats(tmp_path, monkeypatch):
    source = opened(tmp_path)
    monkeypatch.setattr(training_dataset, "_MAX_RESIDENT_BYTES", 6 * 8 * 8 * 4 * 4 * 2)
    assert training_dataset.is_resident(source)
    monkeypatch.setattr(training_dataset, "_MAX_RESIDENT_BYTES", 6 * 8 * 8 * 4 * 4 * 2 - 1)
    assert not training_dataset.is_resident(source)


FLOATS = np.ones((8, 8, 8), np.float32)
NEGATIVE = np.concatenate([FLOATS[:4], -FLOATS[4:]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", "not a readable .npy"),
        (image_files.array(FLOATS)[:-4], "declares 2048 bytes and holds 2044"),
        (image_files.array(FLOATS.astype(np.int32)), "it holds int32; floats are needed"),
        (image_files.array(np.asarray([{}]), allow_pickle=True), "holds Python's objects"),
        (image_files.array(FLOATS[0]), r"it is of \[8, 8\]"),
        (image_files.array(FLOATS[:7]), "it has 7 channels"),
        (image_files.array(np.full_like(FLOATS, np.nan)), "holds NaN, infinity or a standard"),
        (image_files.array(NEGATIVE), "a standard deviation below 0"),
        (
            image_files.array(FLOATS).replace(b"(8, 8, 8)", b"(8, -8, -8)")[:-2],
            "not a readable|declares",
        ),
    ],
)
def test_arrays_that_are_none(content, message):
    with pytest.raises(ValueError, match=message):
        arrays.decode_law(content)


def test_a_header_takes_no_memory():
    """Of terabytes that aren't there."""
    content = image_files.array(FLOATS).replace(b"(8, 8, 8), }     ", b"(8, 999999, 99999),}")
    with pytest.raises(ValueError, match=r"not a readable|declares"):
        arrays.decode_law(content)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_floats_of_any_kind(dtype, order):
    values = np.arange(8 * 2 * 3).reshape(8, 2, 3).astype(dtype, order=order)
    np.testing.assert_array_equal(
        arrays.decode_law(image_files.array(values)), values.transpose(1, 2, 0)
    )


def test_images_are_no_latents_and_latents_no_images(tmp_path):
    laws = image_files.write_zip(tmp_path / "laws.zip", image_files.laws(2))
    with pytest.raises(ValueError, match=r"neither PNG nor JPEG; .* for a teacher of latents"):
        data.open_source(str(laws))
    pictures = image_files.files(image_files.pictures(2))
    images = image_files.write_zip(tmp_path / "images.zip", pictures)
    with pytest.raises(ValueError, match=r"is an image, and latents are needed: EDM2's `dataset_t"):
        data.open_laws(str(images))
    other = image_files.write_zip(tmp_path / "other.zip", {**image_files.laws(1), "a.bin": b""})
    with pytest.raises(ValueError, match=r"'a\.bin' is no \.npy"):
        data.open_laws(str(other))
    empty = image_files.write_zip(tmp_path / "empty.zip", {"readme.txt": b""})
    with pytest.raises(ValueError, match=r"no arrays of latents, \.npy, in it"):
        data.open_laws(str(empty))
    with pytest.raises(FileNotFoundError, match=r"config\.data='none\.zip': no such file"):
        data.open_laws("none.zip", field="config.data")


def test_all_are_of_one_size(tmp_path):
    odd = {"00009/z.npy": image_files.array(np.ones((8, 4, 4), np.float32))}
    path = image_files.write_zip(tmp_path / "a.zip", {**image_files.laws(2), **odd})
    with pytest.raises(ValueError, match=r"'00009/z.npy' is 4x4 with 8 channels, but"):
        data.verify(data.open_laws(str(path)))
