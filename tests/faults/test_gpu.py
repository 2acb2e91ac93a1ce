"""Exact resume on a GPU, and checkpoints that go from a CPU to a GPU and back.

On a machine with an NVIDIA GPU: `python -m pytest -m slow tests/faults/test_gpu.py`. The tests'
own process stays on the CPU; the runs are processes of their own.
"""

import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.runs.test_train import BATCH, ROOT, lines, state_of
from tests.support import fault_config
from tests.support.running import Process, assert_same_runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="there is no NVIDIA GPU here"),
]

HALF = f"--config.duration_kimg={fault_config.UPDATES // 2 * BATCH / 1000}"
RESTORE = """
import sys
import jax, numpy as np
from tests.runs.test_train import state_of
from tests.support import fault_config
state = state_of(sys.argv[1], fault_config.get_config(sys.argv[2]))
leaves = jax.tree.leaves(state)
assert {d.platform for leaf in leaves for d in leaf.devices()} == {"gpu"}
np.savez(sys.argv[3], *map(np.asarray, leaves))
"""


@pytest.fixture
def use(monkeypatch):
    """A function that names the device of the processes started after it."""

    def platforms(name):
        monkeypatch.setenv("JAX_PLATFORMS", name)
        monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

    return platforms


def run(workdir, kind, *flags):
    process = Process(workdir, kind, *flags)
    assert process.end() == 0, process.lines


@pytest.mark.parametrize("kind", fault_config.KINDS)
def test_a_stopped_and_killed_run_equals_the_undisturbed_one(tmp_path, use, kind):
    use("cuda")
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    run(undisturbed, kind, "--config.deterministic")
    for number, updates in ((signal.SIGTERM, 3), (signal.SIGKILL, 4)):
        process = Process(disturbed, kind, "--config.deterministic", "--config.duration_kimg=100")
        process.wait_for_updates(updates)
        process.signal(number)
        assert process.end() == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    assert not (disturbed / "network").exists()
    run(disturbed, kind, "--config.deterministic")
    assert_same_runs(disturbed, undisturbed, kind)


@pytest.mark.parametrize("kind", fault_config.KINDS)
@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_checkpoint_goes_from_one_to_the_other(tmp_path, use, first, then, kind):
    use(first)
    run(tmp_path, kind, HALF)
    here = [
        np.asarray(leaf)
        for leaf in jax.tree.leaves(state_of(tmp_path, fault_config.get_config(kind)))
    ]
    use("cuda")
    subprocess.run(
        [sys.executable, "-c", RESTORE, tmp_path, kind, tmp_path / "gpu.npz"], cwd=ROOT, check=True
    )
    with np.load(tmp_path / "gpu.npz") as there:
        assert len(there.files) == len(here)
        for ours, theirs in zip(here, there.values(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    use(then)
    run(tmp_path, kind)
    assert lines(tmp_path)[-1]["step"] == fault_config.UPDATES
    assert (tmp_path / "network").exists()
