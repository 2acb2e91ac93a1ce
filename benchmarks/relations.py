"""Figures of docs/methods/relations.md: Diff-Instruct beside a GAN, and SDS, where both are exact.

    python -m benchmarks.relations --gans=docs/gans.png --points=docs/points.png

Seconds on a CPU. Needs matplotlib: pip install 'diffjax[plot]'. The functions here are what
`tests/methods/test_relations.py` compares with each other.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffjax import losses, models
from diffjax.methods.draws import Batch
from diffjax.methods.sds import SDS
from diffjax.models.records import RecordGenerator
from diffjax.training import state
from diffjax.training.ema import Averages
from diffjax.training.update import Update

Array = jax.Array


class Gaussian(NamedTuple):
    """N(mean, root root^T): mean [d], root [d, d] lower triangular."""

    mean: Array
    root: Array

    def noised(self, sigma: float) -> tuple[Array, Array]:
        """Mean and covariance with noise of a level on it."""
        return self.mean, self.root @ self.root.T + sigma**2 * jnp.eye(len(self.mean))

    def log_density(self, x: Array, sigma: float = 0.0) -> Array:
        """Logarithm of the density at x [B, d], with noise of a level on it."""
        mean, covariance = self.noised(sigma)
        return jax.scipy.stats.multivariate_normal.logpdf(x, mean, covariance)

    def denoise(self, y: Array, sigma: float) -> Array:
        """E[x | x + sigma n = y], y [B, d]."""
        mean, covariance = self.noised(sigma)
        return y - sigma**2 * jnp.linalg.solve(covariance, (y - mean).T).T


# Generator and data, on a line and in the plane.
PAIRS = {
    1: (
        Gaussian(jnp.array([1.1]), jnp.array([[0.5]])),
        Gaussian(jnp.array([0.4]), jnp.array([[0.8]])),
    ),
    2: (
        Gaussian(jnp.array([1.1, -0.3]), jnp.array([[0.6, 0.0], [0.4, 0.5]])),
        Gaussian(jnp.array([0.4, 0.2]), jnp.array([[0.9, 0.0], [-0.5, 0.7]])),
    ),
}


def expectation(loss: Callable[[Array, Array], Array], generator: Gaussian) -> Array:
    """Average loss(x [B, d], n [B, d]) [B] over x ~ generator and n ~ N(0, I).

    Exact, by quadrature, for what is a polynomial of degree at most 5 in each variable.
    """
    dimension = len(generator.mean)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    grid = np.stack(np.meshgrid(*[nodes] * (2 * dimension)), axis=-1).reshape(-1, 2 * dimension)
    shares = np.stack(np.meshgrid(*[weights / weights.sum()] * (2 * dimension)), axis=-1)
    shares = shares.reshape(-1, 2 * dimension).prod(axis=1)
    z, n = jnp.asarray(grid[:, :dimension]), jnp.asarray(grid[:, dimension:])
    return jnp.sum(jnp.asarray(shares) * loss(generator.mean + z @ generator.root.T, n))


def diff_instruct_gradient(generator: Gaussian, data: Gaussian, sigma: float) -> Gaussian:
    """Gradient of Diff-Instruct's loss at one noise level, weight 1/sigma^2, fake score exact."""

    def loss(x: Array, n: Array) -> Array:
        y = x + sigma * n
        d_teacher, d_fake = data.denoise(y, sigma), generator.denoise(y, sigma)
        return losses.diff_instruct(x, d_teacher, d_fake, weight=sigma**-2)

    return jax.grad(lambda moving: expectation(loss, moving))(generator)


def gan_gradient(generator: Gaussian, logit: Callable[[Array], Array]) -> Gaussian:
    """Gradient of E logit(x), the discriminator held constant.

    Args:
      generator: of x.
      logit: x [B, d] -> [B]; that of a perfect discriminator is log(generator's density/data's).
    """
    return jax.grad(lambda moving: expectation(lambda x, n: logit(x), moving))(generator)


def perfect_logit(generator: Gaussian, data: Gaussian) -> Callable[[Array], Array]:
    """Logit of the discriminator that can't be bettered."""
    return lambda x: generator.log_density(x) - data.log_density(x)


def kl_gradient(generator: Gaussian, data: Gaussian) -> Gaussian:
    """Gradient of KL(generator || data) in closed form."""

    def kl(moving: Gaussian) -> Array:
        p, q = moving.root @ moving.root.T, data.root @ data.root.T
        offset = data.mean - moving.mean
        between = jnp.trace(jnp.linalg.solve(q, p)) + offset @ jnp.linalg.solve(q, offset)
        return 0.5 * (between + jnp.linalg.slogdet(q)[1] - jnp.linalg.slogdet(p)[1])

    return jax.grad(kl)(generator)


def fitted_logit(
    generator: Gaussian, data: Gaussian, count: int, key: Array
) -> Callable[[Array], Array]:
    """Logit of a discriminator trained on samples: logistic regression on quadratic features.

    Args:
      generator: whose samples are to be told from the data's.
      data: the others.
      count: of samples of each.
      key: of the samples.
    """
    z = jax.random.normal(key, (2, count, len(data.mean)))
    fakes, reals = (g.mean + each @ g.root.T for g, each in zip((generator, data), z, strict=True))
    x = features(jnp.concatenate([fakes, reals]))
    is_fake = jnp.repeat(jnp.array([1.0, 0.0]), count)
    coefficients = jnp.zeros(x.shape[1])
    for _ in range(12):  # of Newton's method
        guess = jax.nn.sigmoid(x @ coefficients)
        hessian = x.T @ (x * (guess * (1 - guess))[:, None])
        coefficients += jnp.linalg.solve(hessian, x.T @ (is_fake - guess))
    return lambda x: features(x) @ coefficients


def features(x: Array) -> Array:
    """All monomials of x [B, d] up to the second degree, [B, 1 + d + d(d + 1)/2]."""
    first, second = np.triu_indices(x.shape[1])
    return jnp.concatenate([jnp.ones((len(x), 1)), x, x[:, first] * x[:, second]], axis=1)


def distance(a: Gaussian, b: Gaussian) -> float:
    """Norm of a - b relative to that of b, over mean and root."""
    difference = jax.tree.map(jnp.subtract, a, b)
    return float(optax.tree.norm(difference) / optax.tree.norm(b))


CENTRE, WIDTH = 1.0, 0.2  # of two modes on a line, at -1 and 1


def denoise_modes(params: Any, y: Array, sigma: Array, cond: Any = None) -> Array:
    """Denoise two Gaussians of equal shares, y [B, 1], sigma [B]."""
    del cond
    total = WIDTH**2 + sigma[:, None] ** 2
    centre = params["centre"] * jnp.tanh(params["centre"] * y / total)
    return (WIDTH**2 * y + sigma[:, None] ** 2 * centre) / total


MODES = models.Teacher(
    denoise_modes, {"centre": np.array([CENTRE], np.float32)}, (1,), CENTRE, 0.01, 100.0
)


def trajectories(
    teacher: models.Teacher,
    sigmas: Sequence[float],
    updates: int,
    *,
    count: int = 16,
    batch: int = 4096,
) -> Array:
    """Let SDS move points at one noise level, by plain gradient descent of rate 1/2 a point.

    Args:
      teacher: of examples of any shape.
      sigmas: noise levels, in the teacher's units, of a run each.
      updates: steps.
      count: number of points.
      batch: draws an update, over all points.

    Returns:
      [len(sigmas), updates + 1, count, *shape], the start first.
    """
    generator = RecordGenerator(models.points(teacher, count), "points", teacher.shape)
    start = {"generator": generator.arrays.start()}

    def denoiser(params: Any, y: Array, sigma: Array, labels: Any = None) -> Array:
        return teacher.denoise(params, y, sigma, labels)

    def run(log_sigma: Array) -> Array:
        method = SDS(
            networks={"generator": generator, "teacher": denoiser},
            batch=Batch(teacher.shape, batch, latent=generator.latent),
            p_mean=log_sigma,
            p_std=0.0,
        )
        update = Update(method, {"generator": optax.sgd(count / 2)}, Averages(batch * 10))

        def one(current: state.TrainState, _: None) -> tuple[state.TrainState, Any]:
            draws = method.draw(jax.random.fold_in(jax.random.key(0), current.step))
            current, _ = update(current, {"teacher": teacher.params}, draws)
            return current, generator.arrays.whole(current.params["generator"])["points"]

        begin = state.create(start, update.optimizers, update.averaged)
        return jax.lax.scan(one, begin, length=updates)[1]

    moved = jax.jit(jax.vmap(run))(jnp.log(jnp.asarray(sigmas)))
    begun = generator.arrays.whole(start["generator"])["points"]
    return jnp.concatenate([jnp.broadcast_to(begun, (len(sigmas), 1, *begun.shape)), moved], axis=1)


@functools.cache
def resting_place(sigma: float) -> float:
    """Where SDS must leave a point, at least 0: the least of KL(N(x, sigma^2) || modes noised).

    By quadrature over the noise, on a grid of x.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    x = np.linspace(0, 1.5, 3001)
    y, total = x[:, None] + sigma * nodes, WIDTH**2 + sigma**2
    log_density = np.logaddexp(
        -((y - CENTRE) ** 2) / (2 * total), -((y + CENTRE) ** 2) / (2 * total)
    )
    return float(x[np.argmax(log_density @ weights)])


def draw_gans(path: Path) -> None:
    """Draw how far Diff-Instruct's gradient is from a GAN's, by noise level."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    sigmas = np.geomspace(0.01, 10, 31)
    with jax.enable_x64(True):
        for dimension, pair in PAIRS.items():
            generator, data = jax.tree.map(lambda x: x.astype(jnp.float64), pair)
            exact = gan_gradient(generator, perfect_logit(generator, data))
            errors = [distance(diff_instruct_gradient(generator, data, s), exact) for s in sigmas]
            colour = f"C{dimension - 1}"
            axes.loglog(sigmas, errors, colour, label=f"Diff-Instruct, {dimension}-D")
            fitted = fitted_logit(generator, data, 100_000, jax.random.key(0))
            error = distance(gan_gradient(generator, fitted), exact)
            label = f"trained discriminator, {dimension}-D"
            axes.axhline(error, color=colour, linestyle="--", label=label)
    axes.loglog(sigmas[:13], 12 * sigmas[:13] ** 2, "0.6", linestyle=":", label="slope 2")
    axes.set(xlabel="noise level", ylabel="relative distance from the GAN's gradient")
    axes.legend(fontsize="small")
    _save(figure, path)


def draw_points(path: Path) -> None:
    """Draw where SDS takes points between two modes, and where it must, by noise level."""
    from matplotlib.figure import Figure

    shown, levels = [0.3, 0.6, 1.5], np.linspace(0.1, 1.5, 15)
    paths = np.asarray(trajectories(MODES, [*shown, *levels], 150))[..., 0]
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots(1, 5, sharey=True, width_ratios=[1, 2, 2, 2, 3])
    x = np.linspace(-1.8, 1.8, 400)
    density = np.exp(-((x - CENTRE) ** 2) / (2 * WIDTH**2))
    axes[0].fill_betweenx(x, 0, density + density[::-1], color="0.8")
    axes[0].set(title="data", ylabel="x", xticks=[])
    for axis, level, run in zip(axes[1:], shown, paths, strict=False):
        axis.plot(run[:60], "C0", linewidth=0.7)
        axis.set(title=f"SDS at {level:g}", xlabel="updates")
    fine = np.linspace(0.05, 1.6, 100)
    rest = np.array([resting_place(level) for level in fine])
    for sign in (1, -1):
        axes[-1].plot(fine, sign * rest, "0.5", label="theory" if sign > 0 else None)
    ends = paths[len(shown) :, -50:].mean(axis=1)
    axes[-1].plot(np.repeat(levels, ends.shape[1]), ends.ravel(), "C0.", label="SDS", markersize=4)
    axes[-1].set(title="where points end", xlabel="noise level")
    axes[-1].legend(fontsize="small")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main() -> None:
    """Draw both figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gans", type=Path, required=True, help="a PNG to write")
    parser.add_argument("--points", type=Path, required=True, help="a PNG to write")
    arguments = parser.parse_args()
    draw_gans(arguments.gans)
    draw_points(arguments.points)


if __name__ == "__main__":
    main()
