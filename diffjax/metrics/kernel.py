"""Kernel distance between two sets of features (KID)."""

import numpy as np
import numpy.typing as npt

from diffjax.metrics._rows import Float64Array, as_row_pair


def kernel_distance(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> float:
    """Squared maximum mean discrepancy of two sets under a cubic polynomial kernel.

    On Inception features this is the KID of Bińkowski et al., "Demystifying MMD GANs", ICLR 2018,
    section 4: the mean over random subsets of the unbiased estimate, so it can be below zero, with
    k(x, y) = (x . y / D + 1)^3. For each subset the rows of `a` and then those of `b` are drawn
    without replacement, by NumPy's `RandomState(seed).choice`: torch-fidelity draws the same with
    its `rng_seed` (2020 by default), so both give one number for one seed.

    Args:
      a: [N, D] features.
      b: [M, D] features.
      subsets: number of subsets to average over.
      subset_size: rows of each set in a subset, at least 2.
      seed: of the draws of subsets.

    Returns:
      The mean over subsets, which can be slightly negative.

    Raises:
      ValueError: a or b isn't [N, D] and finite, D differs, one has fewer than `subset_size` rows,
        or a setting is too small.
    """
    if subsets < 1:
        raise ValueError(f"subsets must be at least 1, got {subsets}.")
    if subset_size < 2:
        raise ValueError(f"subset_size must be at least 2, got {subset_size}.")
    rows_a, rows_b = as_row_pair(
        "a", a, "b", b, at_least=subset_size, why=f"subset_size={subset_size}"
    )
    rng = np.random.RandomState(seed)
    estimates = []
    for _ in range(subsets):
        subset_a = rows_a[rng.choice(len(rows_a), subset_size, replace=False)]
        subset_b = rows_b[rng.choice(len(rows_b), subset_size, replace=False)]
        estimates.append(_unbiased_mmd2(subset_a, subset_b))
    return float(np.mean(estimates))


def _unbiased_mmd2(x: Float64Array, y: Float64Array) -> float:
    """Unbiased squared MMD for |x| = |y| (Gretton et al., JMLR 2012, equation 3)."""
    within = _mean_off_diagonal(_cubic_kernel(x, x)) + _mean_off_diagonal(_cubic_kernel(y, y))
    return float(within - 2 * _cubic_kernel(x, y).mean())


def _cubic_kernel(x: Float64Array, y: Float64Array) -> Float64Array:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_off_diagonal(square: Float64Array) -> float:
    n = len(square)
    return (square.sum() - np.trace(square)) / (n * (n - 1))
