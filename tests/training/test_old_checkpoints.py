"""Runs of diffjax 0.1, whose state lay in other trees, go on here.

`old_checkpoints/KIND.tar.xz` is the work directory of its two updates of a tiny network, without
pictures and curves, the arrays' file packed anew by TensorStore. `KIND.jsonl` are the metrics of
four updates that nothing interrupted, and `trees.json` has a SHA-256 of each tree that it read.
"""

import hashlib
import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

from diffjax.distributed import sharding
from diffjax.models import denoiser, network_folder
from diffjax.runs import building, saved_config, subjects
from diffjax.runs.train import train
from diffjax.training.checkpointing import Checkpointer
from tests.support import golden_cases

FOLDER = Path(__file__).parent / "old_checkpoints"
WORKDIR = Path("run")
TEACHER = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 10,
    "model_channels": 4,
    "channel_mult": (1,),
    "channel_mult_emb": 1,
    "num_blocks": 0,
    "attn_resolutions": (),
    "dropout": 0.0,
}


@pytest.fixture
def unpacked(kind, tmp_path, monkeypatch):
    """The config of the run in `WORKDIR`, which names its teacher from there."""
    with tarfile.open(FOLDER / f"{kind}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    if kind == "sid":
        weights = golden_cases.weights(denoiser.from_edm_kwargs(TEACHER))
        network_folder.save_denoiser("teacher", TEACHER, weights)
    return saved_config.load(WORKDIR)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["sid", "denoising"])
def test_a_run_goes_on(kind, unpacked):
    config, updates = unpacked, 4
    config.duration_kimg = updates * config.batch_size / 1000
    train(config, str(WORKDIR))
    ours, theirs = rows(WORKDIR / "metrics.jsonl"), rows(FOLDER / f"{kind}.jsonl")
    assert [row["step"] for row in ours] == [1, 2, 3, 4]
    for row, wanted in zip(ours, theirs, strict=True):
        assert row.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(row[name], value, rtol=1e-5, err_msg=name)
    # The next start finds the layout of today.
    exp = building.build(config)
    with Checkpointer(WORKDIR / "checkpoints", read_only=True) as checkpointer:
        assert checkpointer.steps() == [2, updates]
        state, _ = checkpointer.restore(exp.abstract_state())
    assert int(state.step) == updates


def sha256(tree):
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("kind", ["sid", "denoising"])
def test_each_tree_has_its_place(kind, unpacked):
    exp, mesh = building.build(unpacked), sharding.make_mesh(**unpacked.mesh)
    state, meta = subjects.restore(WORKDIR, exp, mesh)
    assert meta["kimg"] == 2 * unpacked.batch_size / 1000
    assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (2, 0, 0)
    found = {
        **state.params,
        **{f"{name}_ema": tree for name, tree in state.averages.items()},
        **{f"{name}_opt": tree for name, tree in state.opt.items()},
    }
    if kind == "denoising":  # its rate counted updates itself; images seen now stand in for that
        found["denoiser_opt"] = (found["denoiser_opt"], np.int32(2))
    assert int(state.images) == 2 * unpacked.batch_size
    expected = json.loads((FOLDER / "trees.json").read_text())[kind]
    assert {name: sha256(tree) for name, tree in found.items()} == expected
    # Sampling reads one of them alone.
    with Checkpointer(WORKDIR / "checkpoints", read_only=True) as checkpointer:
        average, read = exp.restore_average(checkpointer, mesh)
    assert sha256(average) == expected[f"{exp.method.samples_from}_ema"]
    assert read == {**meta, "step": 2}
