"""Exact denoisers of Gaussian mixtures, and the networks that they would be over any process."""

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import models
from diffjax.diffusion import predictions
from diffjax.diffusion.process import Process

PARAMS = {"one": jnp.ones(())}
VP = Process.vp(1.0, 10.0)
FLOW = Process.rectified_flow()


def per_example(values, like):
    return jnp.expand_dims(values, tuple(range(1, like.ndim)))


class Mixture:
    """Equal Gaussians of standard deviation `sd` at `means`, [K, *shape]."""

    def __init__(self, means, sd):
        self.means, self.sd = np.asarray(means, np.float32), sd
        self.shape = self.means.shape[1:]
        self.std = float(np.sqrt(self.means.var() + sd**2))

    def denoise(self, y, sigma):
        """[B, *shape] posterior means."""
        means = jnp.asarray(self.means.reshape(len(self.means), -1))
        flat = y.reshape(len(y), -1)
        variance = (self.sd**2 + sigma**2)[:, None]
        distance = jnp.square(flat[:, None] - means[None]).sum(-1)
        mean = jax.nn.softmax(-distance / 2 / variance, -1) @ means
        return (mean + self.sd**2 / variance * (flat - mean)).reshape(y.shape)

    def draw(self, seed, n):
        rng = np.random.default_rng(seed)
        chosen = self.means[rng.integers(len(self.means), size=n)]
        return chosen + self.sd * rng.standard_normal((n, *self.shape), np.float32)

    def net(self, process, predicts):
        """The network that was trained on a process without a fault."""

        def net(params, x, t, cond=None):
            t = jnp.asarray(t, jnp.float32)
            (a, da), (s, ds) = (predictions.with_derivative(f, t) for f in (process.a, process.s))
            a, da, s, ds = (per_example(each, x) for each in (a, da, s, ds))
            x0 = self.denoise(x / a, (s / a).reshape(-1))
            eps = (x - a * x0) / s
            outputs = {
                "x0": x0,
                "eps": eps,
                "score": -eps / s,
                "v": a * eps - s * x0,
                "velocity": da * x0 + ds * eps,
            }
            return params["one"] * outputs[predicts]

        return net

    def teacher(self, denoise, **changes):
        fields = {"sigma_data": self.std, "sigma_min": 0.02, "sigma_max": 20.0} | changes
        return models.Teacher(denoise, PARAMS, self.shape, **fields)


def points():
    angle = np.arange(8) * np.pi / 4
    return Mixture(np.stack([np.cos(angle), np.sin(angle)], -1), 0.1)


def signals():
    t = np.linspace(0, 1, 64)
    return Mixture(
        [np.sin(2 * np.pi * (k * t + phase)) for k in (1, 2, 3) for phase in (0, 0.3)], 0.2
    )


def images():
    x = np.random.default_rng(0).standard_normal((5, 8, 8, 1))
    return Mixture(0.5 * x, 0.05)
