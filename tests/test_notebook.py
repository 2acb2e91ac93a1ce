"""The notebooks run from top to bottom in a checkout, at the reduced size that they offer.

Three are slow: `python -m pytest -m slow tests/test_notebook.py` passed in 165 s on two cores
beside other tests, on 2026-11-30.
"""

import base64
import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from diffjax.convert import teacher
from diffjax.runs import results
from tests.support import compiling
from tests.support.processes import PATIENCE

FOLDER = Path(__file__).parents[1] / "colab"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SMALL = "DIFFJAX_NOTEBOOK_SMALL"
MOST_BYTES = 500_000  # of a notebook's pictures
SLOW = ("distil_cifar", "refine_a_gan", "your_own_teacher")


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_is_committed_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in code(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


@pytest.mark.parametrize("name", NAMES)
def test_opens_with_the_one_cell_that_installs(name):
    install, *others = code(read(name))
    assert install.id == "install"
    assert re.search(r'^REPOSITORY = ""', install.source, re.MULTILINE)
    assert "--constraint" in install.source  # Colab's jax stays
    assert not [cell.id for cell in others if "pip " in cell.source]
    assert [cell.id for cell in others if SMALL in cell.source] == ["parameters"]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((?!https:)([^)]+)\)", cell.source):
                assert (FOLDER / target).exists(), target


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NAMES]
)
def test_runs(name, tmp_path, monkeypatch):
    # As a person's kernel would start: one device, and diffjax found through the checkout alone.
    quick = name != "digits" and compiling.QUICK in os.environ.get("XLA_FLAGS", "")
    monkeypatch.setenv("XLA_FLAGS", compiling.QUICK if quick else "")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv(SMALL, "1")
    notebook = read(name)
    (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    parameters.source = re.sub(
        r"^WORKDIR = .*$", f"WORKDIR = {str(tmp_path / 'run')!r}", parameters.source, flags=re.M
    )
    NotebookClient(
        notebook,
        timeout=PATIENCE,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute()
    outputs = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    shown = [image for each in outputs.values() for image in pictures(each)]
    assert 0 < sum(map(len, shown)) < MOST_BYTES
    CHECKS[name](outputs, tmp_path / "run")


def check_digits(outputs, workdir):
    assert len(pictures(outputs["grids"])) == 2  # at 0 kimg and at the end
    assert len(pictures(outputs["comparison"])) == 1
    assert "fd_pixels" in text(outputs["scalars"])
    s = float(re.search(r"s = (\S+)", text(outputs["losses"])).group(1))
    assert abs(s - 0.5) < 0.02
    assert {"metrics.jsonl", "samples", "network"} <= set(os.listdir(workdir))


def check_refine_a_gan(outputs, workdir):
    assert len(pictures(outputs["look"])) == 1
    found = re.findall(r"^(.+): (\d) of 8 modes", text(outputs["look"]), re.MULTILINE)
    covered = {name: int(count) for name, count in found}
    assert covered.keys() == {"data", "the GAN", "diff_instruct"}
    assert covered["the GAN"] <= 4
    assert covered["diff_instruct"] == covered["data"] == 8
    assert len(pictures(outputs["grids"])) == 3  # the GAN, the student, and both beside data
    measured = re.findall(r"fd_pixels_200 (\S+)  precision", text(outputs["measure"]))
    assert len(set(measured)) == 2  # the GAN and the student, which isn't the GAN any more


def check_losses_in_your_code(outputs, workdir):
    for cell in ("nnx", "equinox"):
        (animation,) = pictures(outputs[cell], "image/gif")
        assert animation.count(b"\x21\xf9\x04") == 5  # frames: the start, and four more
        found = re.findall(r"(before|after): .* distance (\S+)", text(outputs[cell]))
        distances = {when: float(distance) for when, distance in found}
        assert distances["after"] < 0.8 < 1.2 < distances["before"]


def check_your_own_teacher(outputs, workdir):
    for cell, name in (("check", "my_flow"), ("check-foreign", "their_model")):
        told = text(outputs[cell])
        assert f"{name}:teacher: no problem found" in told
        assert len(re.findall("right$", told, re.MULTILINE)) == 9  # noise levels
    assert "batched=False" in text(outputs["wrong"])
    for cell, name in (("flow-pictures", "my_flow"), ("distil-foreign", "their_model")):
        assert len(pictures(outputs[cell])) == 1
        assert (workdir / f"{name}_teacher" / "network").is_dir()


def check_convert_sample_measure(outputs, workdir):
    assert "'kind': 'student', 'init_sigma': 2.5" in text(outputs["convert"])
    assert len(pictures(outputs["sample"])) == 1
    result = json.loads(text(outputs["result"]))
    assert result["images"] == 100
    # Digits, if blurred ones; what isn't has no precision at all.
    assert result["precision_pixels_100"] > 0.5
    # What was measured is the shipped teacher, which went through the pickle unchanged.
    shipped = teacher.load("digits").params
    assert result["measured"]["network"]["sha256"] == results.sha256(shipped)
    assert "z ['B', 8, 8, 1] float32 - independent draws" in text(outputs["export"])
    assert "class ['B'] int32" in text(outputs["export"])
    assert "diffjax is loaded: False" in text(outputs["read"])
    difference = re.search(r"largest difference: (\S+)", text(outputs["read"]))
    assert float(difference[1]) < 1e-5


def check_distil_cifar(outputs, workdir):
    for cell, method in (("sid", "sid"), ("diff-instruct", "diff_instruct")):
        assert len(pictures(outputs[cell])) == 1  # the newest grid, in place of the first
        assert len(list((workdir / method / "samples").glob("samples_*.png"))) == 2
        assert (workdir / method / "network").is_dir()
    assert len(pictures(outputs["comparison"])) == 2


CHECKS = {
    "convert_sample_measure": check_convert_sample_measure,
    "distil_cifar": check_distil_cifar,
    "digits": check_digits,
    "losses_in_your_code": check_losses_in_your_code,
    "refine_a_gan": check_refine_a_gan,
    "your_own_teacher": check_your_own_teacher,
}


def pictures(outputs, *kinds):
    shown = [o for o in outputs if o.output_type == "display_data"]
    kinds = kinds or ("image/png", "image/gif")
    return [base64.b64decode(o.data[kind]) for o in shown for kind in kinds if kind in o.data]


def text(outputs):
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
