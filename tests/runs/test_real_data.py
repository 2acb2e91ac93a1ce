"""Distillations that compare with real images: what is read, and what is refused in one line."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from diffjax.runs import bases, building
from diffjax.runs.train import train


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
def test_streamed_images_are_those_that_updates_read(method, tmp_path, monkeypatch):
    """Several batches an update, where images come an update's at a time; and resumed."""
    from diffjax.training import dataset

    monkeypatch.setattr(dataset, "_MAX_RESIDENT_BYTES", 0)
    data = images(tmp_path / "real.zip")

    def config(updates):
        config = config_of(method, data, seed=3)
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
