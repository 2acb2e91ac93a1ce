"""Fréchet distance between two Gaussians, and the moments that it is computed from."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from diffjax.metrics._rows import Float64Array, as_rows

# Covariances that were stored as float32 have eigenvalues down to about -1e-7 of the largest.
_NEGATIVE_EIGENVALUE_TOLERANCE = 1e-4
_ASYMMETRY_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and covariance of a stream of feature batches, in one pass and in float64.

    Immutable: `update` and `merge` return new moments, which depend on how the rows were cut into
    batches only through rounding. Batches are combined as in Chan, Golub and LeVeque, "Updating
    formulae and a pairwise algorithm for computing sample variances", 1979, which keeps deviations
    from the mean instead of raw second moments and so doesn't cancel.

        moments = Moments.empty(2048)
        for features in batches:
            moments = moments.update(features)
        frechet_distance(moments.mean, moments.cov, reference.mean, reference.cov)

    Attributes:
      count: rows seen.
      mean: [D] mean of the rows, zeros before the first.
      scatter: [D, D] sum over rows of (row - mean)(row - mean)^T.
    """

    count: int
    mean: Float64Array
    scatter: Float64Array

    @classmethod
    def empty(cls, dim: int) -> "Moments":
        """Moments of no rows at all, of `dim` features."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    @property
    def cov(self) -> Float64Array:
        """Unbiased covariance [D, D], divided by count - 1 as `np.cov` does.

        Raises:
          ValueError: fewer than two rows were seen.
        """
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 rows, got {self.count}.")
        return self.scatter / (self.count - 1)

    def update(self, features: npt.ArrayLike) -> "Moments":
        """Moments of the rows seen so far and of `features`.

        Args:
          features: [N, D], anything that NumPy or JAX can hold.

        Raises:
          ValueError: `features` isn't [N, D] with this D, or isn't finite.
        """
        rows = as_rows("features", features)
        mean = rows.mean(axis=0)
        deviations = rows - mean
        return self.merge(Moments(len(rows), mean, deviations.T @ deviations))

    def merge(self, other: "Moments") -> "Moments":
        """Moments of two streams together, such as those of two hosts.

        Args:
          other: of as many features.

        Raises:
          ValueError: the two have different numbers of features.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"Moments of {self.mean.size} features can't be combined with features of "
                f"dimension {other.mean.size}."
            )
        count = self.count + other.count
        if count == 0:
            return self
        shift = other.mean - self.mean
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return Moments(
            count=count,
            mean=self.mean + shift * (other.count / count),
            scatter=self.scatter + other.scatter + between,
        )


def frechet_distance(
    mean_a: npt.ArrayLike, cov_a: npt.ArrayLike, mean_b: npt.ArrayLike, cov_b: npt.ArrayLike
) -> float:
    """Squared Fréchet (2-Wasserstein) distance between two Gaussians.

    On Inception features this is the FID of Heusel et al., "GANs Trained by a Two Time-Scale Update
    Rule Converge to a Local Nash Equilibrium", NeurIPS 2017, equation 6:

        |mean_a - mean_b|^2 + Tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2))

    cov_a cov_b has the eigenvalues of M M^T, M = cov_a^(1/2) cov_b^(1/2), so that the trace of its
    root is the sum of the singular values of M. This holds for covariances of any rank, and needs
    no matrix root of a non-symmetric matrix and no offset on the diagonal.

    Args:
      mean_a: [D].
      cov_a: [D, D] symmetric and positive semi-definite.
      mean_b: [D].
      cov_b: [D, D] symmetric and positive semi-definite.

    Returns:
      The distance, at least 0, in squared units of the features.

    Raises:
      ValueError: shapes don't fit, a number isn't finite, or a covariance isn't one.
    """
    mean_a, cov_a = _as_gaussian("a", mean_a, cov_a)
    mean_b, cov_b = _as_gaussian("b", mean_b, cov_b)
    if mean_a.shape != mean_b.shape:
        raise ValueError(
            f"mean_a and mean_b must have the same shape, got {mean_a.shape} and {mean_b.shape}."
        )
    product = _symmetric_sqrt("cov_a", cov_a) @ _symmetric_sqrt("cov_b", cov_b)
    trace_of_root = np.linalg.svd(product, compute_uv=False).sum()
    distance = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b) - 2 * trace_of_root
    # Rounding can leave equal Gaussians a hair below zero.
    return max(float(distance), 0.0)


def _as_gaussian(name: str, mean: Any, cov: Any) -> tuple[Float64Array, Float64Array]:
    mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    if mean.ndim != 1 or cov.shape != (mean.size, mean.size):
        raise ValueError(
            f"mean_{name} must be [D] and cov_{name} [D, D], got {mean.shape} and {cov.shape}."
        )
    for field, value in ((f"mean_{name}", mean), (f"cov_{name}", cov)):
        if not np.isfinite(value).all():
            raise ValueError(f"{field} holds NaN or infinity.")
    if np.abs(cov - cov.T).max() > _ASYMMETRY_TOLERANCE * np.abs(cov).max():
        raise ValueError(f"cov_{name} must be symmetric.")
    return mean, cov


def _symmetric_sqrt(name: str, cov: Float64Array) -> Float64Array:
    values, vectors = np.linalg.eigh(cov)
    if values[0] < -_NEGATIVE_EIGENVALUE_TOLERANCE * np.abs(values).max():
        raise ValueError(
            f"{name} must be positive semi-definite, got eigenvalues from {values[0]:.3g} to "
            f"{values[-1]:.3g}."
        )
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
