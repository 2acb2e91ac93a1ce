"""Runs under other settings of JAX, as its variables in the environment would have it."""

import contextlib

import jax
import numpy as np
import pytest

from diffjax.runs.sample import sample
from diffjax.runs.train import train
from tests.support import fault_config

OTHERS = {
    "jax_enable_x64": True,
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 3,
    "jax_default_matmul_precision": "bfloat16",
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_disable_jit": True,
    "jax_debug_nans": True,
    "jax_transfer_guard": "disallow",
}


@contextlib.contextmanager
def others(settings):
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.fixture(scope="module")
def config(teacher):
    config = fault_config.get_config("sid")
    config.duration_kimg = 2 * config.batch_size / 1000
    config.teacher = str(teacher)
    config.sample.source, config.sample.format, config.sample.count = "student", "npz", 6
    return config


def made(config, workdir):
    train(config, str(workdir))
    sample(config, str(workdir))
    files = [(workdir / name).read_text() for name in ("metrics.jsonl", "numerics.json")]
    with np.load(workdir / "samples" / "student_seed0_6.npz") as images:
        return [*files, {name: (str(x.dtype), x.tolist()) for name, x in images.items()}]


def test_a_run_has_its_own_numerics(config, tmp_path, capfd):
    wanted = made(config, tmp_path / "ordinary")
    assert "not followed" not in capfd.readouterr().out
    with others(OTHERS):
        found = made(config, tmp_path / "others")
    assert found == wanted
    (line, again) = [line for line in capfd.readouterr().out.splitlines() if "not followed" in line]
    assert line == again
    assert all(f"{name.upper()}=" in line for name in OTHERS)
