"""A user's module, as runs load it: an untrained teacher in two dimensions, students, mistakes."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import models

PROCESS = models.Process.vp(beta=1.0, t_max=10.0)
CLASSES = 3


def network(params, x, t, cond):
    wave = jnp.sin(t[:, None] * params["fourier"])
    hidden = jnp.concatenate([x, wave] + ([] if cond is None else [cond]), axis=1)
    # Of data ~ N(0, I), and a little of something that training can change.
    exact = x * PROCESS.s(t)[:, None]
    return exact + 1e-2 * jax.nn.tanh(hidden @ params["layers"][0]) @ params["layers"][1]


def _params(inputs, seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    return {
        "fourier": 2.0 ** jnp.arange(4),
        "layers": [
            jax.random.normal(keys[0], (inputs, 8)),
            jax.random.normal(keys[1], (8, 2)),
            None,
        ],
        "count": jnp.arange(3),
        "name": "a text",
    }


def _teacher(cond=None, seed=0):
    params = _params(6 + (CLASSES if cond else 0), seed)
    return models.Teacher(
        PROCESS.denoiser(network, "eps"),
        params,
        shape=(2,),
        sigma_data=1.0,
        sigma_min=0.05,
        sigma_max=100.0,
        cond=cond,
        process=PROCESS,
        trainable=lambda path, leaf: path[-1] != "fourier",
    )


def points():
    return _teacher()


def of_classes():
    return _teacher(models.one_hot(CLASSES))


def fresh():
    return _teacher(seed=7)


def like(teacher):
    return dataclasses.replace(teacher, params=_params(6, seed=8))


def small(teacher):
    params = {"w": jax.random.normal(jax.random.key(3), (5, 2)), "frozen": jnp.ones(2)}

    def generate(params, z, cond):
        return z["u"] @ params["w"] * params["frozen"]

    return models.Generator(generate, params, lambda key, n: {"u": models.normal(5)(key, n)})


def wide(teacher):
    made = small(teacher)
    return dataclasses.replace(made, params={"w": jnp.ones((5, 3)), "frozen": jnp.ones(3)})


def unmapped():
    def denoise(params, y, sigma, cond):
        return params["w"] @ y / (1 + sigma**2)

    return models.Teacher(denoise, {"w": jnp.eye(2)}, (2,), 1.0, 0.05, 100.0)


def halved():
    teacher = points()

    def denoise(params, y, sigma, cond):
        return teacher.denoise(params, y, sigma, cond).astype(jnp.bfloat16)

    return dataclasses.replace(teacher, denoise=denoise)


def not_finite():
    def denoise(params, y, sigma, cond):
        return params["w"] * y / jnp.where(sigma < 0.1, 0.0, 1 + sigma**2)[:, None]

    return models.Teacher(denoise, {"w": jnp.ones(())}, (2,), 1.0, 0.05, 100.0)


def nothing():
    pass


def fails():
    raise OSError("the weights\nare gone")


number = 3


def data(count, seed):
    return np.random.default_rng(seed).standard_normal((count, 2)).astype(np.float32)


def of_pairs():
    teacher = _teacher(models.uniform({"class": CLASSES, "width": (0.5, 2.0)}))

    def denoise(params, y, sigma, cond):
        labels = jax.nn.one_hot(cond["class"], CLASSES) * cond["width"][:, None]
        return teacher.denoise(params, y, sigma, labels)

    return dataclasses.replace(teacher, denoise=denoise)


def of_rows():
    teacher = _teacher(models.one_hot(CLASSES))
    rows = np.random.default_rng(0).standard_normal((1000, CLASSES)).astype(np.float32)
    return dataclasses.replace(teacher, cond=models.from_array(rows))


def signals():
    def denoise(params, y, sigma, cond):
        variance = params["std"] ** 2
        return y * variance / (variance + sigma[:, None] ** 2)

    return models.Teacher(denoise, {"std": jnp.full(32, 3.0)}, (32,), 3.0, 0.05, 300.0)


def of_folder():
    from diffjax.convert import teacher as teachers
    from diffjax.models.denoiser import from_edm_kwargs

    network = teachers.load(os.environ["MY_NETWORK"])
    record = from_edm_kwargs({**network.init_kwargs, "dropout": 0.0}).as_teacher(network.params)
    return dataclasses.replace(record, sigma_min=1e-9, sigma_max=1e9)


def broken(teacher):
    made = small(teacher)
    return dataclasses.replace(made, params={"w": jnp.full((5, 2), jnp.nan), "frozen": jnp.ones(2)})


def broken_fresh():
    teacher = fresh()
    layers = [jnp.full_like(teacher.params["layers"][0], jnp.nan), *teacher.params["layers"][1:]]
    return dataclasses.replace(teacher, params=teacher.params | {"layers": layers})


def of_formula():
    return dataclasses.replace(points(), trainable=lambda path, leaf: False)


def still(teacher):
    return dataclasses.replace(small(teacher), trainable=lambda path, leaf: False)


def deaf():
    made = points()
    return dataclasses.replace(made, denoise=lambda _, *rest: made.denoise(made.params, *rest))


def deaf_student(teacher):
    made = small(teacher)
    return dataclasses.replace(made, generate=lambda _, *rest: made.generate(made.params, *rest))
