"""The notebook runs from top to bottom in a checkout, with less training."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.processes import PATIENCE

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "colab" / "digits.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_is_committed_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_runs(notebook, tmp_path, monkeypatch):
    (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    for name, value in {"WORKDIR": str(tmp_path / "run"), "DURATION_KIMG": 1.024}.items():
        parameters.source, count = re.subn(
            rf"^{name} = .*$", f"{name} = {value!r}", parameters.source, flags=re.MULTILINE
        )
        assert count == 1
    # As a person's kernel would start: one device, and diffjax found through the checkout alone.
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))

    client = NotebookClient(
        notebook,
        timeout=PATIENCE,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    )
    client.execute()

    outputs = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    assert len(pictures(outputs["grids"])) == 2  # at 0 kimg and at the end
    assert len(pictures(outputs["comparison"])) == 1
    assert "fd_pixels" in text(outputs["scalars"])
    s = float(re.search(r"s = (\S+)", text(outputs["losses"])).group(1))
    assert abs(s - 0.5) < 0.02
    assert {"metrics.jsonl", "samples", "network"} <= set(os.listdir(tmp_path / "run"))


def pictures(outputs):
    return [o for o in outputs if o.output_type == "display_data" and "image/png" in o.data]


def text(outputs):
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
