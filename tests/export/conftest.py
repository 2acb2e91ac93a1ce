import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.models import network_folder, record_folder
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.models.generator import DenoiserGenerator
from diffjax.models.model_card import ModelCard
from diffjax.runs import networks, results
from tests.support import golden_cases

KWARGS = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 3,
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 0,  # the decoder's first block has attention all the same
    "attn_resolutions": [],
    "dropout": 0.0,
}
SIGMA = 2.5


def save(folder, kwargs=KWARGS, card=None, classes=()):
    model = from_edm_kwargs(kwargs)
    params = golden_cases.weights(model)
    network_folder.save_denoiser(folder, kwargs, params, card=card, classes=classes)
    return model, params


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A work directory as a run of a released teacher leaves it, but for what it has no use of."""
    workdir = tmp_path_factory.mktemp("run")
    card = ModelCard("student", "sid", SIGMA, 1, 3, 0.5, "float32", 1000)
    _, params = save(workdir / "network", card=card, classes=(0, 2))
    save(workdir / "best" / "7", card=card)
    config = {"method": "sid", "teacher": "edm-cifar10-32x32-cond-vp"}
    config |= {"evaluate": {"reference": "/home/somebody/images"}}
    texts = {
        "config.json": config,
        "network/trained.json": {"step": 9, "kimg": 1.0},
        "best/7/metric.json": {"metric": "fd", "value": 1.5, "step": 7, "kimg": 0.5},
    }
    digest = results.sha256(jax.tree.map(jnp.asarray, params))
    for name, sha256 in {"student": digest, "teacher": "0" * 64}.items():
        record = {"fd": 2.5, "measured": {"network": {"sha256": sha256}}}
        texts[f"evaluation_{name}.json"] = record
    for name, text in texts.items():
        (workdir / name).write_text(json.dumps(text))
    return workdir


@pytest.fixture(scope="session")
def expected(run):
    """The student's own samples of z and classes."""
    network = networks.trained(str(run / "network"), field="test")
    params, generator = network.load(), DenoiserGenerator(network.model, SIGMA)

    @jax.jit
    def sample(z, classes):
        return generator(params, z, labels=jax.nn.one_hot(classes, 3))

    return sample


def save_record(folder, teacher, student="", card=None):
    """The folder of a user's network, as a run of it writes it."""
    network = networks.teacher(teacher)
    if student:
        network = networks.student(student, network)
    arrays = network.model.arrays
    card = card or ModelCard("student", "sid", SIGMA, 1)
    record_folder.save(folder, network.origin, arrays, arrays.start(), card)
    return network


@pytest.fixture
def z():
    return np.asarray(jax.random.normal(jax.random.key(1), (5, 8, 8, 1)))
