"""Noise levels: distributions, loss weights, and the grid of samplers.

Drawing is split into raw draws and a function of them, so that a published run can be replayed.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion.process import Process
from diffjax.interfaces import Array, PRNGKey

# Standard deviation of the data in EDM, for which all published noise levels are. For other data
# they are multiplied by sigma_data over this.
PUBLISHED_SIGMA_DATA = 0.5


class SigmaDistribution(Protocol):
    """Distribution of noise levels."""

    def __call__(self, key: PRNGKey, shape: Sequence[int]) -> Array:
        """Draw noise levels σ > 0 of the given shape, float32."""
        ...


def lognormal_sigma(normal: Array, mean: float = -1.2, std: float = 1.2) -> Array:
    """Noise level with ln σ ~ N(mean, std²), from standard normals (EDM, Table 1: training).

    Args:
      normal: ~ N(0, 1), of any shape.
      mean: of ln σ.
      std: of ln σ.

    Returns:
      σ > 0, of the shape of `normal`.
    """
    return jnp.exp(normal * std + mean)


def karras_sigma(
    u: Array, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Array:
    """Warp u ∈ [0, 1] to noise levels by EDM's power law (EDM, equation 5).

    Args:
      u: in [0, 1], of any shape.
      sigma_min: σ at u = 0.
      sigma_max: σ at u = 1.
      rho: exponent; the larger, the more of the levels are small.

    Returns:
      σ in [sigma_min, sigma_max], of the shape of u.
    """
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (high + (1 - u) * (low - high)) ** rho


@dataclasses.dataclass(frozen=True)
class LogNormal:
    """Lognormal distribution of EDM's training, clipped to [sigma_min, sigma_max].

    Attributes:
      mean: of ln σ.
      std: of ln σ.
      sigma_min: the least σ.
      sigma_max: the greatest σ.
    """

    mean: float = -1.2
    std: float = 1.2
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def scaled(self, factor: float) -> "LogNormal":
        """Give the distribution of σ times a factor, within the same bounds."""
        return dataclasses.replace(self, mean=self.mean + math.log(factor))

    def __call__(self, key: PRNGKey, shape: Sequence[int]) -> Array:
        """Draw noise levels of the given shape, float32."""
        sigma = lognormal_sigma(jax.random.normal(key, shape, jnp.float32), self.mean, self.std)
        return jnp.clip(sigma, self.sigma_min, self.sigma_max)


@dataclasses.dataclass(frozen=True)
class KarrasUniform:
    """Distribution of SiD: u ~ U(0, t_max / 1000), warped by `karras_sigma` and clipped.

    Attributes:
      t_max: in (0, 1000]; SiD's 800 gives σ in [0.002, 24.4].
      grid_min: σ at u = 0.
      grid_max: σ at u = 1.
      rho: exponent of the warp.
      sigma_min: the least σ.
      sigma_max: the greatest σ.
    """

    t_max: float = 800.0
    grid_min: float = 0.002
    grid_max: float = 80.0
    rho: float = 7.0
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def scaled(self, factor: float) -> "KarrasUniform":
        """Give the distribution of σ times a factor, within the same bounds."""
        return dataclasses.replace(
            self, grid_min=self.grid_min * factor, grid_max=self.grid_max * factor
        )

    def __call__(self, key: PRNGKey, shape: Sequence[int]) -> Array:
        """Draw noise levels of the given shape, float32."""
        u = jax.random.uniform(key, shape, jnp.float32) * (self.t_max / 1000)
        sigma = karras_sigma(u, self.grid_min, self.grid_max, self.rho)
        return jnp.clip(sigma, self.sigma_min, self.sigma_max)


@dataclasses.dataclass(frozen=True)
class KarrasGrid:
    """Uniform distribution over a part of a grid that `karras_sigma` warps (Yin et al. 2024).

    Attributes:
      first: index of the least σ that is drawn; 20 for DMD2's generator, 0 for its fake score.
      last: index of the greatest; 980 and 999 there.
      points: of the grid, whose indices begin at 0.
      grid_min: σ at index 0.
      grid_max: σ at index points - 1.
      rho: exponent of the warp.
      sigma_min: the least σ.
      sigma_max: the greatest σ.
    """

    first: int = 0
    last: int = 999
    points: int = 1000
    grid_min: float = 0.002
    grid_max: float = 80.0
    rho: float = 7.0
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def scaled(self, factor: float) -> "KarrasGrid":
        """Give the distribution of σ times a factor, within the same bounds."""
        return dataclasses.replace(
            self, grid_min=self.grid_min * factor, grid_max=self.grid_max * factor
        )

    def at(self, index: Array) -> Array:
        """Look up noise levels by their indices."""
        u = index.astype(jnp.float32) / (self.points - 1)
        sigma = karras_sigma(u, self.grid_min, self.grid_max, self.rho)
        return jnp.clip(sigma, self.sigma_min, self.sigma_max)

    def __call__(self, key: PRNGKey, shape: Sequence[int]) -> Array:
        """Draw noise levels of the given shape, float32."""
        return self.at(jax.random.randint(key, shape, self.first, self.last + 1, jnp.int32))


@dataclasses.dataclass(frozen=True)
class FlowUniform:
    """Distribution of flow matching: a uniform time t of y = (1 − t) x + t n, as σ = t/(1 − t).

    Times are those of the noise levels that EDM's networks know, so that none is 0 or 1.

    Attributes:
      unit: σ at t = ½; 1 for data of standard deviation 0.5.
      least: least σ, for a unit of 1.
      greatest: greatest σ, for a unit of 1.
      sigma_min: the least σ, whatever the unit.
      sigma_max: the greatest σ, likewise.
    """

    unit: float = 1.0
    least: float = 0.002
    greatest: float = 80.0
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def scaled(self, factor: float) -> "FlowUniform":
        """Give the distribution of σ times a factor, within the same bounds."""
        return dataclasses.replace(self, unit=self.unit * factor)

    def time(self, sigma: Array) -> Array:
        """Times t = σ/(1 + σ) of noise levels, of their shape, in (0, 1).

        Args:
          sigma: σ > 0, of any shape.
        """
        return sigma / (self.unit + sigma)

    def __call__(self, key: PRNGKey, shape: Sequence[int]) -> Array:
        """Draw noise levels of the given shape, float32."""
        low, high = (sigma / (1 + sigma) for sigma in (self.least, self.greatest))
        t = jax.random.uniform(key, shape, jnp.float32, low, high)
        return jnp.clip(self.unit * t / (1 - t), self.sigma_min, self.sigma_max)


@dataclasses.dataclass(frozen=True)
class UniformTime:
    """Distribution of noise levels at uniform times of a diffusion process, as SiD-LSG draws them.

    Attributes:
      process: whose times they are, in the units of its data.
      first: share of its times, from the data on, at which those that are drawn begin, in [0, 1).
      last: share at which they end. Of a table of N times, round(first N) to round(last N) − 1 are
        drawn: 20 to 979 of 1000 in SiD-LSG.
      sigma_min: the least σ.
      sigma_max: the greatest σ.

    Raises:
      ValueError: if that leaves no time to draw.
    """

    process: Process
    first: float = 0.02
    last: float = 0.98
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def __post_init__(self) -> None:
        low, high = self.indices if self.process.table is not None else (self.first, self.last)
        if not 0 <= self.first < self.last <= 1 or low >= high:
            raise ValueError(f"no time lies between shares {self.first} and {self.last} of them.")

    @property
    def indices(self) -> tuple[int, int]:
        """First time of a table that is drawn, and the one after the last."""
        assert self.process.table is not None
        count = len(self.process.table)
        return round(self.first * count), round(self.last * count)

    def at(self, t: Array) -> Array:
        """Look up noise levels by times of the process, whole ones of a table, float32."""
        if self.process.table is not None:
            sigma = jnp.asarray(self.process.table, jnp.float32)[t]
        else:
            sigma = self.process.sigma(t)
        return jnp.clip(sigma, self.sigma_min, self.sigma_max)

    def __call__(self, key: PRNGKey, shape: Sequence[int]) -> Array:
        """Draw noise levels of the given shape, float32."""
        process = self.process
        if process.table is not None:
            return self.at(jax.random.randint(key, shape, *self.indices, jnp.int32))
        share = jax.random.uniform(key, shape, jnp.float32, self.first, self.last)
        ends = jnp.asarray([process.t_min, process.t_max], jnp.float32)
        data, far = jnp.where(jnp.less(*process.sigma(ends)), ends, ends[::-1])
        return self.at(data + share * (far - data))


def edm_weight(sigma: Array, sigma_data: float = PUBLISHED_SIGMA_DATA) -> Array:
    """Loss weight λ(σ) = (σ² + σ_data²) / (σ σ_data)², which evens EDM's loss over σ (Table 1).

    Args:
      sigma: σ > 0, of any shape.
      sigma_data: standard deviation of the data.

    Returns:
      λ(σ), of the shape of sigma, float32 or wider.
    """
    sigma = _wide(sigma)
    return (jnp.square(sigma) + sigma_data**2) / jnp.square(sigma * sigma_data)


def eps_weight(sigma: Array) -> Array:
    """Loss weight 1/σ², by which the loss of D is that of the noise ε that it implies.

    Args:
      sigma: σ > 0, of any shape.

    Returns:
      1/σ², of the shape of sigma, float32 or wider.
    """
    return 1 / jnp.square(_wide(sigma))


def _wide(sigma: Array) -> Array:
    """Give σ in float32 or wider: float16 ends at 65,504, and λ(0.002) is 250,000."""
    if isinstance(sigma, int | float):
        return sigma
    sigma = jnp.asarray(sigma)
    return sigma.astype(jnp.promote_types(sigma.dtype, jnp.float32))


def heun_sigmas(
    steps: int = 18, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> np.ndarray:
    """Grid of EDM's sampler: `steps` levels from σ_max down to σ_min, then 0 (equation 5).

    Args:
      steps: N, at least 2.
      sigma_min: the last level before 0.
      sigma_max: the first level.
      rho: exponent of the power law.

    Returns:
      [N + 1] float64, decreasing.

    Raises:
      ValueError: fewer than two steps, or a part of one, a range that is empty or endless, or a rho
        that isn't positive.
    """
    if steps < 2 or steps != int(steps):
        raise ValueError(f"steps={steps}: EDM's sampler takes a whole number, at least 2.")
    if not 0 < sigma_min < sigma_max < np.inf:
        raise ValueError(f"0 < sigma_min < sigma_max is needed, not {sigma_min} and {sigma_max}.")
    if not 0 < rho < np.inf:
        raise ValueError(f"rho={rho} must be positive and finite.")
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    grid = (high + np.arange(steps) / (steps - 1) * (low - high)) ** rho
    return np.append(grid, 0.0)
