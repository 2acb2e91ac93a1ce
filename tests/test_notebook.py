"""The notebooks run from top to bottom in a checkout, with less training."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.processes import PATIENCE

FOLDER = Path(__file__).parents[1] / "colab"
NAMES = [path.stem for path in FOLDER.glob("*.ipynb")]


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", NAMES)
def test_is_committed_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """(name, parameters) -> outputs of the notebook's cells, by their names."""
    # As a person's kernel would start: one device, and diffjax found through the checkout alone.
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))

    def execute(name, values):
        notebook = read(name)
        (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
        for parameter, value in values.items():
            parameters.source, count = re.subn(
                rf"^{parameter} = .*$",
                f"{parameter} = {value!r}",
                parameters.source,
                flags=re.MULTILINE,
            )
            assert count == 1
        NotebookClient(
            notebook,
            timeout=PATIENCE,
            kernel_name="python3",
            resources={"metadata": {"path": str(FOLDER)}},
        ).execute()
        return {cell.id: cell.get("outputs", []) for cell in notebook.cells}

    return execute


def test_runs(executed, tmp_path):
    outputs = executed("digits", {"WORKDIR": str(tmp_path / "run"), "DURATION_KIMG": 1.024})
    assert len(pictures(outputs["grids"])) == 2  # at 0 kimg and at the end
    assert len(pictures(outputs["comparison"])) == 1
    assert "fd_pixels" in text(outputs["scalars"])
    s = float(re.search(r"s = (\S+)", text(outputs["losses"])).group(1))
    assert abs(s - 0.5) < 0.02
    assert {"metrics.jsonl", "samples", "network"} <= set(os.listdir(tmp_path / "run"))


def test_dropped_modes_come_back(executed, tmp_path):
    values = {"WORKDIR": str(tmp_path / "run"), "DURATION_KIMG": 153.6}
    outputs = executed("dropped_modes", values)
    assert len(pictures(outputs["look"])) == 1
    found = re.findall(r"^(.+): (\d) of 8 modes", text(outputs["look"]), re.MULTILINE)
    covered = {name: int(count) for name, count in found}
    assert covered.keys() == {"data", "the GAN", "diff_instruct"}
    assert covered["the GAN"] <= 4
    assert covered["diff_instruct"] == covered["data"] == 8


def pictures(outputs):
    return [o for o in outputs if o.output_type == "display_data" and "image/png" in o.data]


def text(outputs):
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
