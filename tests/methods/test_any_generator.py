"""Every method with a generator takes any: latents of a pytree, and leaves that aren't trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import methods, models
from diffjax.methods.draws import Batch, Dataset
from diffjax.models.arrays import Arrays
from diffjax.models.records import RecordDenoiser, RecordGenerator
from diffjax.models.teacher import checked
from diffjax.training import state
from diffjax.training.update import Update

BATCH, SHAPE = 8, (3,)
LAW = models.uniform({"class": 4, "width": (0.5, 1.5)})
# Discriminators judge by an encoder and take classes from data; records of users' have neither, and
# runs refuse them.
METHODS = [
    name
    for name in methods.names()
    if methods.get(name).sampled_by == "one_step"
    and "teacher" in methods.get(name).reads
    and not methods.get(name).judged_by
]


def latent(key, batch):
    keys = jax.random.split(key)
    place = jax.random.randint(keys[0], (batch,), 0, 5)
    return {"place": place, "maps": (models.normal((2, 2))(keys[1], batch),)}


def generate(params, z, cond):
    normed = (z["maps"][0].reshape(-1, 4) - params["stats"]["mean"]) * params["frozen"]["scale"]
    h = params["table"][z["place"]] + normed @ params["layers"][0]
    h = params["shift"].astype(jnp.float32) + jnp.tanh(h)
    return h[:, params["order"]] * cond["width"][:, None]


def generator():
    draw = np.random.default_rng(0).standard_normal
    params = {
        "table": draw((5, 3), np.float32),
        "layers": [draw((4, 3), np.float32), None],
        "shift": jnp.full(3, 0.5, jnp.bfloat16),
        "stats": {"mean": draw(4, np.float32), "count": np.int32(7)},
        "frozen": {"scale": draw(4, np.float32)},
        "order": np.array([2, 0, 1]),
        "key": jax.random.key(3),
        "name": "a text",
    }
    return models.Generator(generate, params, latent, lambda path, leaf: path[0] != "stats")


def denoise(params, y, sigma, cond):
    return y @ params["w"] / (1 + sigma[:, None]) + params["by_class"][cond["class"]]


def teacher(seed):
    draw = np.random.default_rng(seed).standard_normal
    params = {"w": draw((3, 3), np.float32), "by_class": draw((4, 3), np.float32)}
    return checked(models.Teacher(denoise, params, SHAPE, 1.0, 0.05, 50.0, cond=LAW), "teacher")


def shares(name):
    return "share_samples" in {each.name for each in methods.get(name).settings()}


@pytest.mark.parametrize(
    ("name", "share"),
    [(name, share) for name in METHODS for share in (False, True) if shares(name) or not share],
)
def test_a_generator_of_any_form(name, share):
    cls, record = methods.get(name), generator()
    student = RecordGenerator(record, "student", SHAPE)
    networks = {each.name: RecordDenoiser(teacher(2), each.name) for each in cls.learners}
    networks |= {"teacher": RecordDenoiser(teacher(1), "teacher"), cls.samples_from: student}
    options = {"share_samples": True} if share else {}
    method = cls(
        networks=networks,
        batch=Batch(SHAPE, BATCH, 1, cond=LAW, latent=latent),
        **options,
    )
    optimizers = {each.name: optax.adam(1e-2) for each in cls.learners}
    update = Update(method=method, optimizers=optimizers, max_skipped_in_a_row=2)
    start = {each.name: networks[each.name].init(jax.random.key(0)) for each in cls.learners}
    inputs = {"teacher": networks["teacher"].init(jax.random.key(0))}
    data = None
    if "data" in method.reads:
        data = Dataset(images=np.zeros((20, *SHAPE), np.uint8), classes=np.zeros(20, int))

    @jax.jit
    def step(now, key):
        return update(now, inputs, method.draw(key, data))

    now = state.create(start, optimizers, update.averaged)
    for i in range(2):
        now, metrics = step(now, jax.random.key(i))
        assert metrics["skipped"] == 0
    after = Arrays(record.params, record.trainable).whole(now.params[cls.samples_from])
    trained = {"table", "layers", "shift"}
    assert now.params[cls.samples_from].keys() == trained
    assert jax.tree.structure(after) == jax.tree.structure(record.params)
    for each, before in record.params.items():
        for a, b in zip(jax.tree.leaves(after[each]), jax.tree.leaves(before), strict=True):
            if each in trained:
                assert a.dtype == b.dtype
                assert np.any(np.asarray(a) != np.asarray(b))
            else:
                assert a is b  # untouched, to the bit
