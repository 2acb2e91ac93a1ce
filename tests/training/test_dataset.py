import itertools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.data import digits
from diffjax.distributed import sharding
from diffjax.methods.denoising import Denoising
from diffjax.methods.draws import Batch, Dataset
from diffjax.runs import building
from diffjax.runs import logger as run_logging
from diffjax.runs.train import train
from diffjax.training import dataset as training_dataset
from tests.support import image_files

CONFIG = Path(__file__).parents[2] / "configs" / "teacher_digits.py"


def write_zip(path, images, classes=None):
    contents = image_files.files(images)
    if classes is not None:
        contents["dataset.json"] = image_files.labels(list(contents), classes)
    return str(image_files.write_zip(path / "set.zip", contents))


def miniature(dataset, **changes):
    """Four updates of 16 images, on a network that is as small as can be."""
    config = runpy.run_path(str(CONFIG))["get_config"]()
    config.update({"dataset": dataset, "batch_size": 16, "grid": {"rows": 1, "columns": 2}})
    config.duration_kimg, config.log_kimg, config.checkpoint_kimg = 0.064, 0.016, 0.032
    config.grid_kimg = config.evaluate.every_kimg = 0
    config.evaluate.reference = ""
    config.network.model_channels = 8
    config.network.channel_mult = (1,)
    config.network.attn_resolutions = ()
    config.heun.steps = 2
    config.update(changes)
    return config


def losses(workdir):
    return [row["loss"] for row in run_logging.read_scalars(workdir / "metrics.jsonl")]


def assert_described(source, loaded):
    """What is compiled before a data set is read."""
    assert training_dataset.abstract(source) == jax.eval_shape(lambda: loaded)


def test_digits_keep_their_exact_ink():
    source = training_dataset.open_square("digits", conditional=True)
    loaded = training_dataset.load(source)
    np.testing.assert_array_equal(loaded.images, digits.load()[0])
    assert loaded.images.dtype == jnp.float32
    assert training_dataset.is_resident(source)
    assert_described(source, loaded)


def test_small_sets_lie_on_the_devices_as_uint8(tmp_path):
    images, classes = image_files.pictures(6), [0, 1, 2, 0, 1, 2]
    source = training_dataset.open_square(write_zip(tmp_path, images, classes), conditional=True)
    loaded = training_dataset.load(source)
    assert loaded.images.dtype == jnp.uint8
    np.testing.assert_array_equal(loaded.images, images)
    assert loaded.classes.tolist() == classes
    assert_described(source, loaded)


def test_what_is_resident():
    class Sized:
        def __init__(self, count, *shape):
            self.count, self.image_shape = count, shape

        def __len__(self):
            return self.count

    assert training_dataset.is_resident(Sized(50_000, 32, 32, 3))  # CIFAR-10
    assert training_dataset.is_resident(Sized(70_000, 64, 64, 3))  # FFHQ
    assert not training_dataset.is_resident(Sized(1_281_167, 64, 64, 3))  # ImageNet


def test_a_stream_is_split_over_the_devices_and_goes_on(tmp_path):
    images = image_files.pictures(20)
    source = training_dataset.open_square(write_zip(tmp_path, images), conditional=False)
    mesh = sharding.make_mesh()

    def take(start, count):
        batches = training_dataset.stream(
            source, batch_size=8, seed=0, x_flip=False, start=start, mesh=mesh
        )
        return list(itertools.islice(batches, count))

    batches = take(0, 5)
    seen = np.concatenate([batch.images for batch in batches])
    expected = sorted(image.tobytes() for image in images)
    assert sorted(x.tobytes() for x in seen[:20]) == expected
    assert sorted(x.tobytes() for x in seen[20:]) == expected
    assert batches[0].images.sharding.is_equivalent_to(sharding.batch(mesh), 4)
    assert [s.data.shape for s in batches[0].images.addressable_shards] == [(1, 8, 8, 3)] * 8
    for again, batch in zip(take(3 * 8, 2), batches[3:], strict=True):
        np.testing.assert_array_equal(again.images, batch.images)


def draw(dataset, size, label_dim, **settings):
    """Draws of an update of one round, [B, ...] each."""
    batch = Batch(dataset.images.shape[1:], size, label_dim=label_dim)
    method = Denoising(networks={}, batch=batch, **settings)
    draws = method.draw(jax.random.key(0), dataset)["denoiser"]
    return jax.tree.map(lambda x: x[0, 0], draws)


def test_draws_of_a_stream_are_its_batch():
    images = jnp.asarray(image_files.pictures(4))
    dataset = Dataset(images, jnp.array([2, 0, 1, 1]))
    draws = draw(dataset, 4, label_dim=3, x_flip=True, in_order=True)
    np.testing.assert_allclose(draws.real, np.asarray(images, np.float32) / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(draws.labels.argmax(axis=1), [2, 0, 1, 1])


def test_draws_on_the_device_are_mirrored():
    """Half of them, and otherwise what they are without."""
    dataset = Dataset(jnp.asarray(image_files.pictures(5)), jnp.arange(5))
    plain = draw(dataset, 400, label_dim=5)
    flipped = draw(dataset, 400, label_dim=5, x_flip=True)
    same = np.asarray((flipped.real == plain.real).all(axis=(1, 2, 3)))
    mirrored = np.asarray((flipped.real == plain.real[:, :, ::-1]).all(axis=(1, 2, 3)))
    assert (same ^ mirrored).all()
    assert 0.4 < mirrored.mean() < 0.6  # 4 standard deviations
    np.testing.assert_array_equal(flipped.labels, plain.labels)
    np.testing.assert_array_equal(flipped.noise, plain.noise)


@pytest.mark.parametrize("is_resident", [pytest.param(True, marks=pytest.mark.slow), False])
def test_training_on_a_zip_resumes_in_the_middle_of_an_epoch(is_resident, tmp_path, monkeypatch):
    if not is_resident:
        monkeypatch.setattr(training_dataset, "_MAX_RESIDENT_BYTES", 1000)
    dataset = write_zip(tmp_path, image_files.pictures(40), [i % 4 for i in range(40)])
    config = miniature(dataset, x_flip=True)
    exp = building.build(config)
    assert exp.denoiser.image_shape == (8, 8, 3)
    assert exp.denoiser.label_dim == 4
    assert (exp.stream(0, sharding.make_mesh()) is None) == is_resident
    train(config, str(tmp_path / "whole"))
    whole = losses(tmp_path / "whole")
    assert len(whole) == 4
    train(miniature(dataset, x_flip=True, duration_kimg=0.032), str(tmp_path / "parts"))
    train(config, str(tmp_path / "parts"))
    assert losses(tmp_path / "parts") == whole


def test_a_bad_image_stops_training_before_anything_is_written(tmp_path, monkeypatch):
    contents = {**image_files.files(image_files.pictures(3)), "z.png": b"hello"}
    dataset = str(image_files.write_zip(tmp_path / "set.zip", contents))
    for most in (1 << 30, 1):
        monkeypatch.setattr(training_dataset, "_MAX_RESIDENT_BYTES", most)
        with pytest.raises(ValueError, match=r"set\.zip: 'z\.png': not a readable"):
            train(miniature(dataset, conditional=False), str(tmp_path / "run"))
        assert list((tmp_path / "run").iterdir()) == []


def test_mistakes(tmp_path, monkeypatch):
    unlabelled = write_zip(tmp_path, image_files.pictures(3))
    with pytest.raises(ValueError, match=r"config\.conditional=True, but config\.dataset=.*set it"):
        building.build(miniature(unlabelled))
    config = miniature(unlabelled, conditional=False)
    with config.ignore_type():
        config.x_flip = 1
    with pytest.raises(ValueError, match=r"config\.x_flip=1: True or False is needed"):
        building.build(config)
    monkeypatch.setattr(training_dataset, "_MAX_RESIDENT_BYTES", 1)
    with pytest.raises(ValueError, match=r"config\.updates_per_call=2 needs a data set that fits"):
        building.build(miniature(unlabelled, conditional=False, updates_per_call=2))
    wide = image_files.encoded(image_files.pictures(1)[0][:4])
    dataset = str(image_files.write_zip(tmp_path / "wide.zip", {"a.png": wide}))
    with pytest.raises(ValueError, match=r"wide\.zip' has images of 4x8; networks take square"):
        building.build(miniature(dataset, conditional=False))
