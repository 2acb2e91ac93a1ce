"""The picture of SDS, in miniature, and what its command line refuses before any compute."""

import re
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import sds
from diffjax.convert import teacher as teachers
from diffjax.files import download
from diffjax.models import network_folder


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["sds", *flags])
    sds.main()


def folder_with_label_dropout(path):
    """The digits' teacher, said to have been trained with label dropout."""
    ours = teachers.load("digits")
    kwargs = {**ours.init_kwargs, "label_dropout": 0.1}
    network_folder.save_denoiser(path, kwargs, ours.params, card=ours.card)
    return str(path)


def test_a_panel_of_samples_and_one_of_each_scale(tmp_path, monkeypatch, capsys):
    picture = tmp_path / "new" / "sds.png"
    teacher = folder_with_label_dropout(tmp_path / "teacher")
    small = ["--count=2", "--batch=20", "--updates=2", f"--picture={picture}"]
    run(monkeypatch, f"--teacher={teacher}", "--scales=1,3", *small)
    out = capsys.readouterr().out
    spread = [float(each) for each in re.findall(r"points of a class (\S+)", out)]
    assert len(spread) == 3
    assert all(0.1 < each < 1 for each in spread)
    height, width = np.asarray(Image.open(picture)).shape[:2]
    assert width > 3 * 10 * 32
    assert 2 * 32 < height < 4 * 32


def test_points_start_alike_whatever_the_scale(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(sds, "sampled", lambda teacher, count: np.zeros((1, 10, 8, 8, 1)))
    monkeypatch.setattr(sds.images, "labelled_panels", lambda panels, **_: made.extend(panels))
    monkeypatch.setattr(sds.images, "save_png", lambda *_: None)
    teacher = folder_with_label_dropout(tmp_path / "teacher")
    small = ["--count=1", "--batch=10", "--updates=1", "--rate=1e-6", "--picture=x.png"]
    run(monkeypatch, f"--teacher={teacher}", "--scales=1,3", *small)
    (_, _), (_, one), (_, other) = made
    assert np.abs(one.astype(int) - other).max() <= 1  # of 255 grey levels
    assert one.std() > 20


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--teacher=digit"], "--teacher='digit' is unknown; the nearest is 'digits', shipped."),
        (["--teacher=no/such"], "--teacher=no/such: there is no such file or folder."),
        (["--teacher=edm-cifar10-32x32-uncond-vp"], "=edm-cifar10-32x32-uncond-vp has no classes"),
        (["--scales=2"], "--teacher=digits was trained without label dropout"),
        (["--scales="], "--scales='': a number or more are needed, such as 1,2,4"),
        (["--scales=1,x"], "--scales='1,x': a number or more are needed"),
        (["--scales=nan"], "--scales='nan': a number or more are needed"),
        (["--count=0"], "argument --count: '0' must be a positive whole number"),
        (["--rate=0"], "argument --rate: '0' must be a positive number"),
        (["--std=-1"], "argument --std: '-1' must be a positive number"),
        (["--weight=sigma"], "argument --weight: invalid choice: 'sigma'"),
    ],
)
def test_a_mistake_is_told_before_any_compute(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "fetch", None)
    monkeypatch.setattr(sds, "distil", None)
    monkeypatch.setattr(sds, "sampled", None)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *flags, f"--picture={tmp_path / 'sds.png'}")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
