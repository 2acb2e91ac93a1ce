"""Distillations that compare with real images: what is read, and what is refused in one line."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from diffjax.files import digests
from diffjax.runs import bases, building
from diffjax.runs.train import train
from tests.runs import test_edm2
from tests.support import image_files


def images(path, *, size=8, classes=10, count=20, mode="L"):
    """A zip in EDM's format, of images of one grey each."""
    with zipfile.ZipFile(path, "w") as archive:
        labels = []
        for number in range(count):
            name, buffer = f"00000/img{number:08d}.png", io.BytesIO()
            grey = (number,) * len(mode) if mode != "L" else number
            Image.new(mode, (size, size), grey).save(buffer, "png")
            archive.writestr(name, buffer.getvalue())
            labels.append([name, number % max(1, classes)])
        archive.writestr("dataset.json", json.dumps({"labels": labels if classes else None}))
    return path


def config_of(method, data, **fields):
    config = bases.distillation(method)
    config.teacher, config.data = "digits", str(data)
    config.batch_size, config.updates_per_call = 4, 1
    for field, value in fields.items():
        config[field] = value
    return config


@pytest.mark.parametrize("method", ["sida", "dmd2"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "config.data='': the method compares with real images: name a data set, a folder"),
        ({"size": 16}, r"has images of \(16, 16, 1\), and the teacher digits denoises \(8, 8, 1\)"),
        ({"mode": "RGB"}, r"has images of \(8, 8, 3\), and the teacher digits denoises"),
        ({"classes": 7}, "has 7 classes, and the teacher digits 10; name its own data"),
        ({"classes": 0}, "has no classes, and the teacher has; name its own data"),
    ],
)
def test_data_that_does_not_fit_is_told_in_one_line(method, change, message, tmp_path):
    data = "" if change is None else images(tmp_path / "real.zip", **change)
    with pytest.raises(ValueError, match=message) as told:
        building.build(config_of(method, data))
    assert "\n" not in str(told.value)


def test_data_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.data="):
        building.build(config_of("sida", tmp_path / "none.zip"))


def test_a_method_without_data_has_no_such_field():
    with pytest.raises(AttributeError, match="data"):
        bases.distillation("sid").data = "digits"


def test_a_teacher_of_other_units_is_refused(tmp_path):
    data = images(tmp_path / "real.zip")
    with pytest.raises(ValueError, match=r"offers no features|in units of its own"):
        building.build(config_of("sida", data, teacher="tests.support.my_teacher:points"))


@pytest.mark.parametrize("method", ["sida", pytest.param("dmd2", marks=pytest.mark.slow)])
def test_streamed_images_are_those_that_updates_read(method, teacher, tmp_path, monkeypatch):
    """Several batches an update, where images come an update's at a time; and resumed."""
    from diffjax.training import dataset

    monkeypatch.setattr(dataset, "_MAX_RESIDENT_BYTES", 0)
    data = images(tmp_path / "real.zip")

    def config(updates):
        config = config_of(method, data, seed=3, teacher=str(teacher))
        config.mesh.data = 1
        config.generator.frozen_kimg = 0.0
        config.fake_score.updates = 2
        config.duration_kimg = updates * 4 / 1000
        config.log_kimg = config.checkpoint_kimg = 0.004
        config.grid_kimg = 0.0
        config.grid.update(rows=1, columns=1)
        config.heun.steps = 2
        return config

    exp = building.build(config(2))
    (stream,) = [each for each in exp.inputs.values() if getattr(each, "is_streamed", False)]
    assert stream.batches == 2
    train(config(2), str(tmp_path / "whole"))
    train(config(1), str(tmp_path / "parts"))
    train(config(2), str(tmp_path / "parts"))
    whole, parts = ((tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "parts"))
    assert whole == parts
    assert len(whole.splitlines()) == 2
    assert np.isfinite(json.loads(whole.splitlines()[0])["discriminator"])


@pytest.fixture(scope="module")
def latent_teacher(tmp_path_factory):
    """A small EDM2 of latents [8, 8, 4] with 2 classes."""
    changes = {"img_resolution": 8, "img_channels": 4}
    return test_edm2.make_teacher(tmp_path_factory.mktemp("latent"), **changes)


def laws(path, *, classes=2, **options):
    contents = image_files.laws(12, **options)
    labels = [(i + 1) % classes for i in range(12)] if classes else None
    contents["dataset.json"] = image_files.labels(list(contents), labels)
    return image_files.write_zip(path, contents)


def floats(path, *, shape=(8, 8, 4), classes=2, dtype=np.float32, **arrays):
    x = np.random.default_rng(0).standard_normal((12, *shape)).astype(dtype)
    known = {"classes": np.arange(12, dtype=np.int32) % classes} if classes else {}
    np.savez(path, **{"images": x, **known, **arrays})
    return path


def latent_config(teacher, data, method="sida"):
    made = test_edm2.config(teacher, method, images_=8)
    made.data = str(data)
    made.generator.frozen_kimg = 0.0
    return bases.with_edm2(made) if method == "sida" else made


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ["zip", "npz"])
def test_a_teacher_of_latents_is_compared_with_latents(
    kind, streamed, latent_teacher, tmp_path, monkeypatch
):
    from diffjax.training import dataset

    if streamed:
        monkeypatch.setattr(dataset, "_MAX_RESIDENT_BYTES", 0)
    data = laws(tmp_path / "a.zip") if kind == "zip" else floats(tmp_path / "a.npz")
    config = latent_config(latent_teacher, data)
    exp = building.build(config)
    assert exp.inputs["data"].is_streamed is streamed
    assert exp.inputs["data"].content()["sha256"] == digests.of_file(data)["sha256"]
    if streamed == (kind == "zip"):  # of each way one
        train(config, str(tmp_path / "run"))
        lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
        assert all(np.isfinite(json.loads(line)["discriminator"]) for line in lines)
        assert len(lines) == 2


@pytest.mark.parametrize("method", ["sida", "dmd2"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: laws(p / "a.zip", size=4), r"standard deviations of \(4, 4, 4\), and the teach"),
        (
            lambda p: laws(p / "a.zip", channels=3),
            r"standard deviations of \(8, 8, 3\), and the te",
        ),
        (lambda p: laws(p / "a.zip", classes=3), "has 3 classes, and the teacher .* 2; name its"),
        (lambda p: laws(p / "a.zip", classes=0), "has no classes, and the teacher .* 2; name its"),
        (lambda p: images(p / "a.zip"), "is an image, and latents are needed: EDM2's `dataset_t"),
        (lambda p: p / "none.zip", r"config\.data=.*none\.zip': no such file or folder"),
        (lambda p: p / "none.npz", r"config\.data=.*none\.npz': there is no such file"),
        (lambda p: floats(p / "a.npz", shape=(8, 8, 3)), r"\[12, 8, 8, 3\], but the teacher's"),
        (lambda p: floats(p / "a.npz", dtype=np.int32), "floats in the teacher's units are needed"),
        (lambda p: floats(p / "a.npz", classes=0), "has no array 'classes', and the teacher"),
        (lambda p: floats(p / "a.npz", classes=3), "12 whole numbers from 0 to 1 are needed"),
        (
            lambda p: floats(p / "a.npz", classes=0, images=np.full((2, 8, 8, 4), np.nan)),
            "NaN or infinity in 2 of 2 examples",
        ),
    ],
)
def test_latents_that_do_not_fit_are_told_in_one_line(
    method, make, message, latent_teacher, tmp_path
):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as told:
        building.build(latent_config(latent_teacher, make(tmp_path), method))
    assert "\n" not in str(told.value)


def test_latents_in_other_units_are_told(latent_teacher, tmp_path, caplog):
    half = np.random.default_rng(0).normal(0, 0.5, (12, 8, 8, 4))
    for data in (laws(tmp_path / "a.zip"), floats(tmp_path / "a.npz", images=half)):
        building.build(latent_config(latent_teacher, data))
    assert "standard deviation" not in caplog.text
    building.build(latent_config(latent_teacher, floats(tmp_path / "b.npz")))
    assert "b.npz': in the teacher's units" in caplog.text


def test_latents_for_a_teacher_of_images(tmp_path):
    with pytest.raises(ValueError, match="take it out; arrays of latents are for a teacher of lat"):
        building.build(config_of("sida", laws(tmp_path / "a.zip")))
