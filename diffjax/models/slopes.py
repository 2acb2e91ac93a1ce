"""Orthogonality of a denoiser's error, by noise level: a test of D(y; σ) that needs no labels.

With y = x + σ n and ε̂ = (y − D)/σ, a right denoiser has ε̂ = E[n | y], and so
E⟨ε̂, n⟩ = E‖ε̂‖², whatever the data. The ratio of the two, the slope, is 1.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion import noise, samplers
from diffjax.interfaces import Array, Params, PRNGKey

Denoise = Callable[[Array, Array, Any], Array]  # (y [N, ...], sigma [N], cond) -> [N, ...]

TOLERANCE = 0.1  # of a slope
_ENOUGH = 1600.0  # S at which four standard errors, 4/√S, are TOLERANCE
_RESOLVED = 32 * float(np.finfo(np.float32).eps)  # of (y − D)/y
_PAIRS = 8  # draws of n and −n for an example, at most
# Samples stop at the least level, and so hold its noise. Fresh noise is then tested above it.
_ABOVE = 1.25


@dataclasses.dataclass(frozen=True)
class Level:
    """Slope of a denoiser at one noise level.

    Attributes:
      sigma: noise level σ.
      slope: Σ⟨ε̂, n⟩ / Σ‖ε̂‖², 1 for a right denoiser; NaN if the output isn't finite.
      error: standard error of the slope, examples being independent.
      power: mean ‖ε̂‖² over the least that a right denoiser can have for data of this variance.
      draws: of n, over all examples; 0 where float32 doesn't resolve y − D, and nothing is
        measured.
    """

    sigma: float
    slope: float
    error: float
    power: float
    draws: int

    @property
    def tolerance(self) -> float:
        """Largest |slope − 1| that isn't a fault."""
        return max(TOLERANCE, 4 * self.error)

    @property
    def is_wrong(self) -> bool:
        """Whether a right denoiser would hardly ever show this."""
        return self.draws > 0 and not (abs(self.slope - 1) <= self.tolerance and self.power > 0.5)

    @property
    def is_told(self) -> bool:
        """Whether a fault would have been seen."""
        return self.is_wrong or self.tolerance <= 1.5 * TOLERANCE

    @property
    def verdict(self) -> str:
        """Verdict in words."""
        if self.is_wrong:
            return "wrong"
        return "right" if self.is_told else "can't be told here"


@dataclasses.dataclass(frozen=True)
class Examples:
    """Data, or samples that stand for them.

    Attributes:
      x: [N, ...], data plus noise of standard deviation `sigma`.
      cond: their conditions.
      sigma: 0 for data.
      origin: where they come from, in words.
    """

    x: Array
    cond: Any
    sigma: float
    origin: str

    @property
    def std(self) -> float:
        """Standard deviation of the data over all their numbers, without the noise; may be NaN."""
        x = np.asarray(self.x, np.float64)
        if not np.isfinite(x).all():
            return math.nan
        return math.sqrt(max(float(np.var(x)) - self.sigma**2, 0.0))

    @property
    def mean_square(self) -> float:
        """Mean square of the data, without the noise."""
        mean = float(np.mean(np.square(np.asarray(self.x, np.float64))))
        return max(mean - self.sigma**2, 0.0)


def compiled(function: Callable[..., Array], params: Params) -> Callable[..., Array]:
    """Compile a function of parameters that may hold more than arrays.

    Args:
      function: (params, …) -> array.
      params: pytree; its arrays are arguments of the program, all else is built in.

    Returns:
      Function of the same arguments. It is for these parameters, whatever it is given.
    """
    leaves, tree = jax.tree.flatten(params)
    is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    arrays = [leaf for leaf, it_is in zip(leaves, is_array, strict=True) if it_is]

    @jax.jit
    def program(arrays: list[Any], *rest: Any) -> Array:
        left = iter(arrays)
        merged = [
            next(left) if it_is else leaf for leaf, it_is in zip(leaves, is_array, strict=True)
        ]
        return function(jax.tree.unflatten(tree, merged), *rest)

    return lambda _, *rest: program(arrays, *rest)


def levels_between(low: float, high: float, count: int) -> list[float]:
    """Space noise levels geometrically, both ends included.

    Args:
      low: the least.
      high: the greatest.
      count: their number, at least 2.

    Returns:
      The levels, rising.
    """
    return [float(each) for each in np.geomspace(low, high, count)]


def sample(
    denoise: Denoise,
    key: PRNGKey,
    shape: Sequence[int],
    cond: Any,
    *,
    sigma_min: float,
    sigma_max: float,
    sigma_data: float,
    steps: int = 24,
) -> Examples:
    """Sample from a denoiser by Heun's method down to sigma_min, whose noise is left in.

    A last step to 0 would give the posterior's mean, which is narrower than the data where they
    are thinner than sigma_min.

    Args:
      denoise: (y, sigma, cond) -> array of y's shape, compiled.
      key: of the latents.
      shape: [N, ...] of the samples.
      cond: [N, ...] conditions.
      sigma_min: least level that the denoiser is asked about.
      sigma_max: greatest such level, from whose distribution of y the sampler starts.
      sigma_data: standard deviation of the data, which that distribution has besides the noise.
      steps: of the sampler, two evaluations each.

    Returns:
      The samples; they aren't finite where the denoiser isn't.
    """
    # The sampler ends with a step of Euler's; one of no length, so that all others are Heun's.
    grid = noise.heun_sigmas(steps + 1, sigma_min, sigma_max)
    grid[-1] = sigma_min
    latents = jax.random.normal(key, tuple(shape), jnp.float32)
    latents = latents * math.hypot(1.0, sigma_data / sigma_max)
    x = samplers.edm_heun(lambda y, sigma: denoise(y, sigma, cond), latents, grid, loop="unroll")
    return Examples(x, cond, sigma_min, "the teacher's own samples")


def measure(denoise: Denoise, examples: Examples, sigma: float, key: PRNGKey) -> Level:
    """Measure the slope at one noise level; draws are added until it can be told.

    Args:
      denoise: (y, sigma, cond) -> array of y's shape, compiled.
      examples: x, with their own noise if they are samples.
      sigma: σ of y; raised to 1.25 times the samples' own noise if it lies below.
      key: of the noise.

    Returns:
      The level, whose `sigma` is where it was measured.
    """
    sigma = max(sigma, _ABOVE * examples.sigma)
    fresh = math.sqrt(sigma**2 - examples.sigma**2)  # y's noise is what x has, and this
    x = jnp.asarray(examples.x, jnp.float32)
    count, size = x.shape[0], int(np.prod(x.shape[1:]))
    sigmas = jnp.full((count,), sigma, jnp.float32)
    # What a right denoiser has at least: the posterior is no wider than a Gaussian's would be.
    least = sigma**2 / (sigma**2 + examples.mean_square)
    if least < _RESOLVED:
        return Level(sigma, math.nan, math.inf, 1.0, 0)
    products, squares = np.zeros(count), np.zeros(count)
    level = Level(sigma, math.nan, math.inf, 0.0, 0)
    for pair in range(_PAIRS):
        n = jax.random.normal(jax.random.fold_in(key, pair), x.shape, jnp.float32)
        # Both signs: what is odd in n cancels, which at small σ is most of the variance.
        for signed in (n, -n):
            y = x + fresh * signed
            eps = np.asarray((y - denoise(y, sigmas, examples.cond)) / sigma, np.float64)
            eps, drawn = eps.reshape(count, size), np.asarray(signed).reshape(count, size)
            if not np.isfinite(eps).all():
                return Level(sigma, math.nan, math.inf, 0.0, 2 * (pair + 1) * count)
            products += (eps * drawn).sum(1) * (sigma / fresh)
            squares += (eps * eps).sum(1)
        draws = 2 * (pair + 1) * count
        level = _level(sigma, products, squares, size * least, draws)
        seen = squares.sum() * (fresh / sigma) ** 2
        if seen >= _ENOUGH and (level.is_wrong or 4 * level.error <= TOLERANCE):
            break
    return level


def _level(
    sigma: float, products: np.ndarray, squares: np.ndarray, least: float, draws: int
) -> Level:
    total = float(squares.sum())
    if total == 0:
        return Level(sigma, math.inf, math.inf, 0.0, draws)
    slope = float(products.sum()) / total
    error = float(np.sqrt(np.sum((products - slope * squares) ** 2))) / total
    return Level(sigma, slope, error, total / draws / least, draws)
