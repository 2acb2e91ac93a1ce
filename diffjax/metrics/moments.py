"""Differences of the first two moments of two sets of samples."""

import numpy as np
import numpy.typing as npt

from diffjax.metrics._rows import Float64Array, as_flat_pair


def moments(x: npt.ArrayLike, y: npt.ArrayLike, *, sigma_data: float) -> dict[str, float]:
    """Differences of mean, standard deviation and covariance of two sets of samples.

    All three are root mean squares over the D coordinates (or, for the covariance, over D
    orthogonal directions), so that they mean the same for a point and for an image:

        mean  |mean_x - mean_y| / (sqrt(D) sigma_data)
        std   |std_x - std_y| / (sqrt(D) sigma_data), std by coordinate
        cov   |cov_x - cov_y|_F / (sqrt(D) sigma_data^2), with Frobenius' norm

    A shift of each coordinate by c gives mean = c / sigma_data. Samples wider than those of
    N(0, sigma_data^2 I) by a factor of 1 + e give std = e and cov = 2 e + e^2. Covariances are
    unbiased, divided by N - 1. Of finite sets, cov alone is far above zero where D is large, about
    sqrt(D (1/N + 1/M)) for independent coordinates.

    Args:
      x: [N, *shape] samples, N at least 2.
      y: [M, *shape] samples, M at least 2.
      sigma_data: standard deviation of the data, in the units of x.

    Returns:
      "mean", "std" and "cov", each at least 0 and without unit.

    Raises:
      ValueError: shapes of examples differ, a set has fewer than 2 or isn't finite, or sigma_data
        isn't positive.
    """
    if not 0 < sigma_data < np.inf:
        raise ValueError(f"sigma_data must be positive and finite, got {sigma_data}.")
    rows_x, rows_y = as_flat_pair("x", x, "y", y, at_least=2, why="a covariance")
    units = np.sqrt(rows_x.shape[1]) * sigma_data
    means = [rows.mean(axis=0) for rows in (rows_x, rows_y)]
    # Each has its covariance as its product with itself, transposed.
    roots = [
        (rows - mean) / np.sqrt(len(rows) - 1)
        for rows, mean in zip((rows_x, rows_y), means, strict=True)
    ]
    stds = [np.sqrt(np.sum(root**2, axis=0)) for root in roots]
    return {
        "mean": float(np.linalg.norm(means[0] - means[1]) / units),
        "std": float(np.linalg.norm(stds[0] - stds[1]) / units),
        "cov": float(_norm_of_difference(*roots) / (units * sigma_data)),
    }


def _norm_of_difference(a: Float64Array, b: Float64Array) -> float:
    """Compute |a^T a - b^T b|_F, without a [D, D] matrix where there are fewer rows than that."""
    if len(a) + len(b) < a.shape[1]:
        # [a; b]^T = Q R, and Q's orthonormal columns leave the norm of Q (R S R^T) Q^T as it is.
        r: Float64Array = np.linalg.qr(np.concatenate([a, b]).T)[1]
        a, b = r[:, : len(a)].T, r[:, len(a) :].T
    return float(np.linalg.norm(a.T @ a - b.T @ b))
