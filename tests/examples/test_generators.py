"""The examples of generators: each is short, trained a little, and goes on with a method.

The tables of docs/results/generators.md are slow: `python -m pytest -m slow tests/examples`. They
were last made on 2026-11-28 by `python -m benchmarks.generators`, whose functions this calls.
"""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import examples, generators
from diffjax import models
from diffjax.distributed import sharding
from diffjax.evaluation import sampling
from diffjax.metrics import modes
from diffjax.models import contract
from diffjax.models.arrays import Arrays
from diffjax.runs import building, config_file, subjects, user_function
from diffjax.runs.train import train

ROOT = Path(__file__).parents[2]
TRAINED = {"dropped_modes": (), "dcgan": (20, 32)}


def load(folder, name, method):
    return config_file.load(f"{folder}/{name}_config.py:{method}")


@pytest.mark.parametrize("name", generators.NAMES)
def test_an_example_is_short_and_shown(name):
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 100
    page = (ROOT / "docs" / "guides" / "any-generator.md").read_text()
    for file in (f"{name}.py", f"{name}_config.py"):
        assert f"{{literalinclude}} ../../examples/{file}" in page


@pytest.mark.parametrize("name", TRAINED)
def test_absent_weights_are_one_line_with_the_command(name, folder, tmp_path, monkeypatch):
    module = importlib.import_module(name)
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / module.WEIGHTS.name)
    with pytest.raises(user_function.RefusedError) as told:
        building.build(load(folder, name, "diff_instruct"))
    assert str(told.value).startswith(f"config.student='{name}:generator' fails with FileNotFound")
    assert str(told.value).endswith(f"make it: python {module.__file__}")


def points(exp, params):
    mesh = sharding.make_mesh(data=1)
    sampler = exp.sampler(seed=7, mesh=mesh)
    return sampling.first_images(sampler, params, 4000, label_dim=0, mesh=mesh, quantise=False)


def test_modes_that_a_gan_dropped_are_regained(folder, trained, tmp_path):
    module = trained("dropped_modes")
    config = load(folder, "dropped_modes", "diff_instruct")
    config.update(grid_kimg=0.0, checkpoint_kimg=1e6, duration_kimg=128.0, ema_halflife_kimg=6.4)
    config.generator.decay_kimg = 64.0
    config.mesh.data = 1
    exp = building.build(config)
    exp.check_records()
    before = modes(points(exp, exp.sampled.init(jax.random.key(0))), module.CENTRES, module.SD)
    train(config, str(tmp_path))
    state, _ = subjects.restore(tmp_path, exp, sharding.make_mesh(data=1))
    after = modes(points(exp, exp.averaged(state)), module.CENTRES, module.SD)
    print(before, after)
    assert before[0] <= 4
    assert after[0] == 8
    assert after[1] > 0.5


def test_the_closed_form_is_the_mean_of_the_data_given_a_noisy_point(folder):
    """Against draws of the data, weighted by how likely they make the noisy point."""
    module = importlib.import_module("dropped_modes")
    x = np.asarray(module.data(jax.random.key(0), 200_000), np.float64)
    record = module.teacher()
    for sigma in (0.5, 2.0):
        y = np.array([[1.0, 0.7], [-2.0, 0.1]], np.float32)
        denoised = record.denoise(record.params, y, np.full(2, sigma, np.float32), None)
        for point, found in zip(y, denoised, strict=True):
            weight = np.exp(-0.5 * np.sum((x - point) ** 2, axis=1) / sigma**2)
            np.testing.assert_allclose(found, weight @ x / weight.sum(), atol=0.02)


def test_the_dcgan_is_conditional_and_keeps_its_statistics(folder, trained, caplog):
    module = trained("dcgan", *TRAINED["dcgan"])
    exp = building.build(load(folder, "dcgan", "diff_instruct"))
    generator = module.generator(None)
    statistics = generator.params["batch_stats"]
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(statistics["BatchNorm_0"]["mean"]))
    assert exp.sampled.abstract_params().keys() == {"params"}
    kept = Arrays(generator.params, generator.trainable)
    whole = kept.whole(jax.tree.map(lambda leaf: leaf + 1, kept.start()))
    jax.tree.map(np.testing.assert_array_equal, whole["batch_stats"], statistics)
    contract.short_generator(generator, exp.denoiser.cond, "dcgan:generator")
    assert not caplog.records  # each sample is its own, and of its class


def test_the_decoder_has_latents_of_its_own_for_whatever_teacher(folder):
    module = importlib.import_module("decoder")
    teacher = models.Teacher(lambda p, y, s, c: y, {}, (48,), 3.0, 0.1, 100.0)
    generator = module.generator(teacher)
    contract.check_generator(generator, teacher, "decoder:generator", "teacher")
    z = generator.latent(jax.random.key(0), 500)
    assert sum(leaf[0].size for leaf in jax.tree.leaves(z)) == 8
    np.testing.assert_allclose(np.linalg.norm(z["phase"], axis=1), 1, rtol=1e-5)


LIMITS = {  # distances of docs/results/generators.md, and what other seeds may differ by
    ("dropped_modes", "diff_instruct"): 0.12,
    ("dropped_modes", "sid"): 0.25,
    ("decoder", "diff_instruct"): 0.06,
    ("decoder", "sid"): 0.07,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), LIMITS)
def test_every_generator_of_the_table_is_near_the_data(name, method, tmp_path):
    if name == "decoder":
        examples.train_teacher("signals")
    generators.start(name)
    before = generators.untrained(name)
    after, seconds = generators.refined(name, method, tmp_path / "run")
    print(name, method, before, after, f"{seconds:.0f} s")
    assert after["distance"] < LIMITS[name, method] < before["distance"]
    assert after.get("modes", 8) == 8
