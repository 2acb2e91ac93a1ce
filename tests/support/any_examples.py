"""Exact teachers of Gaussians of many shapes, as users write them, and what measures them."""

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import models

SD = 3.0
WEIGHTS = {"class": 4.0, "snr": 10.0}  # of a condition in the mean of its examples


def teacher(shape, cond=None, **fields):
    """N(m, SD²), where the mean m is a weighted sum of the condition's numbers."""

    def denoise(params, y, sigma, c):
        broadcast = (-1,) + (1,) * len(shape)
        s2, mean = (sigma**2).reshape(broadcast), mean_of(c).reshape(broadcast)
        return (SD**2 * y + s2 * (mean + params["shift"])) / (SD**2 + s2)

    params = {"shift": jnp.zeros(shape)}
    return models.Teacher(denoise, params, shape, SD, 0.01, 300.0, cond=cond, **fields)


def mean_of(c):
    if c is None:
        return jnp.zeros(())
    if isinstance(c, dict):
        return sum(WEIGHTS[name] * c[name] for name in c)
    return WEIGHTS["class"] * (c * jnp.arange(c.shape[1])).sum(axis=1)


def points():
    return teacher((2,))


def signals():
    return teacher((50,), models.uniform({"class": 4, "snr": (0.0, 1.0)}))


def pictures():
    return teacher((1, 6, 5), models.one_hot(3))


def volumes():
    return teacher((2, 3, 4, 5), models.from_frequencies([1, 0, 3]))


def tables():
    return teacher((2,), models.from_array(np.eye(3, dtype=np.float32)[:, :2]))


def drawn():
    return teacher((2, 2), preview=lambda x: np.full((4, 6), 7 * len(x), np.uint8))


def failing():
    return teacher((2,), preview=lambda x: x.no_such)


def empty():
    return teacher((2,), preview=lambda x: None)


def student(of):
    """Latents of their own: two arrays, one of which scales and the other shifts."""

    def latent(key, batch):
        return {"n": jax.random.normal(key, (batch, 2)), "one": jnp.ones((batch, 1))}

    def generate(params, z, cond):
        return SD * z["n"] + params["b"] * z["one"]

    return models.Generator(generate, {"b": jnp.asarray(100.0)}, latent)


def reference(count, seed):
    return SD * np.random.default_rng(seed).standard_normal((count, 2))


def elsewhere(count, seed):
    return np.zeros((count, 3))


def whole_numbers(count, seed):
    return np.zeros((count, 2), np.int32)


def not_numbers(count, seed):
    return np.full((count, 2), np.nan)


def nothing(count, seed):
    return None


def raising(count, seed):
    raise KeyError("no\nsuch")


def squares(x):
    assert x.dtype == np.float32
    return np.concatenate([x, x**2], axis=1)


@jax.jit
def doubled(x):
    return 2 * x


def infinite(x):
    return np.where(x > 1, np.inf, x)
