"""A checkpoint opens on any number of devices and any mesh, and goes on there."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest

from diffjax.distributed import sharding
from diffjax.models import network_folder
from diffjax.runs import building, saved_config, subjects
from diffjax.runs.evaluate import evaluate
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from diffjax.training import checkpointing
from tests.runs.test_train import assert_trees_equal, lines, state_of
from tests.support import fault_config

MESHES = {"1": (1, 1), "8 data parallel": (8, 1), "8 fully sharded": (1, 8), "2 x 4": (2, 4)}


def mesh_of(name):
    data, fsdp = MESHES[name]
    return sharding.make_mesh(data=data, fsdp=fsdp)


def random_state(exp, mesh):
    """A state with another number in every place, laid out over a mesh."""
    draw = np.random.default_rng(0)

    def fill(leaf):
        if np.issubdtype(leaf.dtype, np.floating):
            return draw.normal(size=leaf.shape).astype(leaf.dtype)
        return draw.integers(0, 100, size=leaf.shape).astype(leaf.dtype)

    state = jax.tree.map(fill, exp.abstract_state())
    return jax.device_put(state, sharding.state(state, mesh))


@functools.cache
def build(kind):
    return building.build(fault_config.get_config(kind))


@pytest.mark.parametrize("kind", ["teacher", pytest.param("sid", marks=pytest.mark.slow)])
@pytest.mark.parametrize("saved_on", MESHES)
def test_the_same_arrays_on_any_mesh(tmp_path, saved_on, kind):
    state = random_state(build(kind), mesh_of(saved_on))
    with checkpointing.Checkpointer(tmp_path / "checkpoints") as checkpointer:
        checkpointer.save(7, state, {"kimg": 0.112})
    for opened_on in MESHES.keys() - {saved_on}:
        restored, meta = subjects.restore(tmp_path, build(kind), mesh_of(opened_on))
        assert meta == {"kimg": 0.112}
        assert_trees_equal(restored, state)
        wanted = sharding.state(state, mesh_of(opened_on))
        places = jax.tree.map(lambda leaf: leaf.sharding, restored)
        assert jax.tree.leaves(places) == jax.tree.leaves(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("opened_on", ["8 data parallel", "8 fully sharded"])
def test_a_run_of_one_device_is_trained_sampled_measured_and_exported_on_eight(
    tmp_path, undisturbed, opened_on
):
    shutil.copytree(undisturbed(), tmp_path, dirs_exist_ok=True)
    settings = fault_config.get_config("teacher")
    before = state_of(tmp_path, settings)
    settings.mesh.data, settings.mesh.fsdp = MESHES[opened_on]
    assert_trees_equal(state_of(tmp_path, settings), before)

    evaluate(settings, str(tmp_path))
    measured = json.loads((tmp_path / "evaluation_student.json").read_text())["fd_pixels_24"]
    assert measured == pytest.approx(lines(tmp_path)[-1]["fd_pixels_24"], rel=1e-3)
    settings.sample.count, settings.sample.format = 16, "npz"
    sample(settings, str(tmp_path))
    there = np.load(tmp_path / "samples" / "student_seed0_16.npz")["images"]
    assert there.shape == (16, 8, 8, 1)

    settings.duration_kimg = (fault_config.UPDATES + 1) * settings.batch_size / 1000
    train(settings, str(tmp_path))  # the mesh is no change of the config
    assert lines(tmp_path)[-1]["step"] == fault_config.UPDATES + 1
    assert saved_config.load(tmp_path).mesh == settings.mesh
    denoiser = building.build(settings).denoiser
    exported = network_folder.load_params(tmp_path / "network", denoiser.abstract_params())
    settings.mesh.data, settings.mesh.fsdp = 1, 1
    assert_trees_equal(exported, state_of(tmp_path, settings).averages["denoiser"])
