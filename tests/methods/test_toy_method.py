"""A new method is one file in `diffjax/methods`, one config, and one test by hand: this one."""

import textwrap

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import methods
from diffjax.diffusion import noise
from diffjax.methods import base
from diffjax.methods.draws import Batch
from diffjax.runs.train import train
from diffjax.training import state
from diffjax.training.update import Update
from tests.support import given_draws

# As `diffjax/methods/toy.py` would hold it: a generator that goes where its teacher denoises to.
METHOD = '''
"""A toy: the generator follows the teacher's denoised samples, without a fake score."""

import dataclasses
from typing import ClassVar

from diffjax import losses
from diffjax.diffusion import noise
from diffjax.methods.base import Learner, Method, Turn, register
from diffjax.methods.denoising import diffuse
from diffjax.methods.draws import once
from diffjax.methods.settings import POSITIVE, setting


@register("toy")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(Method):
    """E[strength |x - D(x + sigma n)|^2], D held constant."""

    strength: float = setting(1.0, POSITIVE)

    learners: ClassVar = (Learner("generator", averaged=True),)
    reads: ClassVar = ("teacher",)
    samples_from: ClassVar = "generator"
    sampled_by: ClassVar = "one_step"
    shown: ClassVar = {"generator_loss": "generator"}
    suspects: ClassVar = ("strength",)

    def turns(self):
        return (
            Turn("generator", self.samples, self.loss, through_samples=True, prefix="generator_"),
        )

    def samples(self, params, draws):
        return self.networks["generator"](params["generator"], draws.z, labels=draws.labels)

    def loss(self, params, x, draws):
        y = diffuse(x, draws)
        denoised = self.networks["teacher"](params["teacher"], y, draws.sigma, labels=draws.labels)
        return losses.denoising(denoised, x, weight=self.strength), {}

    def draw(self, key, data=None):
        return {"generator": once(self.batch.latents(key, noise.LogNormal()))}
'''
CONFIG = """
from diffjax.runs import bases


def get_config():
    config = bases.distillation("toy")
    config.strength = 2.0
    config.generator.learning_rate = 1e-3
    config.batch_size, config.updates_per_call = 8, 1
    config.duration_kimg, config.log_kimg, config.checkpoint_kimg = 0.016, 0.008, 0.016
    config.grid.update(rows=1, columns=2)
    config.grid_kimg, config.heun.steps, config.mesh.data = 0.0, 2, 1
    return config
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The method's file, as if it lay in the package."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "toy.py").write_text(textwrap.dedent(METHOD))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    monkeypatch.setattr(base, "_registry", dict(base._registry))
    monkeypatch.delitem(__import__("sys").modules, "diffjax.methods.toy", raising=False)
    yield methods.get("toy")
    __import__("sys").modules.pop("diffjax.methods.toy", None)


def test_by_hand(toy):
    theta, phi = jnp.asarray([1.0, 0.0]), jnp.asarray([3.0, 1.0])

    def constant(params, x, *_, **__):
        return jnp.broadcast_to(params, x.shape)

    update = Update(
        method=toy(
            networks={"generator": constant, "teacher": constant},
            batch=Batch((2,), 4),
            strength=2.0,
        ),
        optimizers={"generator": optax.sgd(0.1)},
    )
    start = state.create({"generator": theta}, update.optimizers, update.averaged)
    draws = {"generator": given_draws.make(np.ones(4), (2,))["generator"]}
    after, metrics = update(start, {"teacher": phi}, draws)
    # 2 |theta - phi|^2 = 2 (4 + 1), gradient 4 (theta - phi) = (-8, -4)
    np.testing.assert_allclose(metrics["generator_loss"], 10, rtol=1e-6)
    np.testing.assert_allclose(after.params["generator"], [1.8, 0.4], rtol=1e-6)
    assert noise.LogNormal()  # the law that its draws follow


def test_a_config_runs_it(toy, teacher, tmp_path):
    scope = {}
    exec(CONFIG, scope)
    config = scope["get_config"]()
    config.teacher = str(teacher)
    train(config, str(tmp_path / "run"))
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "run" / "network" / "denoiser.json").exists()
