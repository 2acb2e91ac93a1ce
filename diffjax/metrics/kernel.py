"""Distances between two sets by a kernel: KID on features, MMD on samples themselves."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from diffjax.metrics._rows import Float64Array, as_flat_pair, as_row_pair

Kernel = Callable[[Float64Array, Float64Array], Float64Array]

# Rows of one block of a kernel's matrix: against 50,000 others a block takes 400 MB.
_BLOCK_ROWS = 1024
# Rows of each set from which the median distance is taken.
_MEDIAN_ROWS = 1000


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
        estimates.append(_unbiased_mmd2(_cubic_kernel, subset_a, subset_b))
    return float(np.mean(estimates))


def mmd(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    kernel: Literal["gaussian", "energy"] = "gaussian",
    bandwidth: float | None = None,
    scales: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0),
) -> float:
    """Squared maximum mean discrepancy of two sets of samples, without features, unbiased.

    Gretton et al., "A Kernel Two-Sample Test", JMLR 2012, equation 3, for sets of any sizes: the
    mean of k over pairs of different samples within each set, less twice its mean across. Being
    unbiased it lies about zero, on both sides, where the sets are of one distribution.

    The Gaussian kernel is k(x, y) = mean over s of exp(-|x - y|^2 / (2 (s bandwidth)^2)). The
    energy kernel is k(x, y) = -|x - y|, which makes this the energy distance of Székely and Rizzo,
    2013; it has no bandwidth.

    Time grows with (N + M)^2 D; memory doesn't, the kernel being taken in blocks of rows.

    Args:
      x: [N, *shape] samples, N at least 2.
      y: [M, *shape] samples, M at least 2.
      kernel: which kernel; the widths below are the Gaussian's alone.
      bandwidth: the Gaussian's middle width, in the units of x; None: the median distance
        between samples of both sets together (of at most 1,000 of each, evenly spaced). To
        compare several sets with one, give all the same.
      scales: widths of the Gaussian kernel, as multiples of the bandwidth.

    Returns:
      The squared discrepancy, which can be slightly negative: at most 2 with the Gaussian kernel,
      in the units of x with the energy kernel.

    Raises:
      ValueError: shapes of examples differ, a set has fewer than 2 or isn't finite, the kernel has
        another name, or a width isn't positive or not the kernel's.
    """
    rows_x, rows_y = as_flat_pair("x", x, "y", y, at_least=2, why="an unbiased estimate")
    if kernel == "energy":
        if bandwidth is not None:
            raise ValueError(f"the energy kernel has no bandwidth, got {bandwidth}.")
        return _unbiased_mmd2(_energy_kernel, rows_x, rows_y)
    if kernel != "gaussian":
        raise ValueError(f"kernel must be 'gaussian' or 'energy', got {kernel!r}.")
    if bandwidth is None:
        bandwidth = _median_distance(rows_x, rows_y)
        if bandwidth == 0:
            raise ValueError("most samples of x and y are equal: give mmd a bandwidth.")
    widths = bandwidth * np.asarray(scales, np.float64)
    if widths.size == 0 or not np.all((widths > 0) & np.isfinite(widths)):
        raise ValueError(f"widths must be positive, got {bandwidth} times {tuple(scales)}.")

    def gaussians(a: Float64Array, b: Float64Array) -> Float64Array:
        exponents = _squared_distances(a, b) / -2
        total = np.zeros_like(exponents)
        for width in widths:
            total += np.exp(exponents / width**2)
        return total / len(widths)

    return _unbiased_mmd2(gaussians, rows_x, rows_y)


def _unbiased_mmd2(kernel: Kernel, x: Float64Array, y: Float64Array) -> float:
    """Unbiased squared MMD of two sets (Gretton et al., JMLR 2012, equation 3)."""
    within = _mean_off_diagonal(kernel, x) + _mean_off_diagonal(kernel, y)
    across = sum(kernel(x[start:stop], y).sum() for start, stop in _blocks(len(x)))
    return float(within - 2 * across / (len(x) * len(y)))


def _mean_off_diagonal(kernel: Kernel, x: Float64Array) -> float:
    total = 0.0
    for start, stop in _blocks(len(x)):
        # A kernel is symmetric: what lies right of the diagonal's block stands for both sides.
        block = kernel(x[start:stop], x[start:])
        square = block[:, : len(block)]
        total += 2 * block.sum() - square.sum() - np.trace(square)
    return total / (len(x) * (len(x) - 1))


def _blocks(rows: int) -> list[tuple[int, int]]:
    return [(start, start + _BLOCK_ROWS) for start in range(0, rows, _BLOCK_ROWS)]


def _cubic_kernel(x: Float64Array, y: Float64Array) -> Float64Array:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _energy_kernel(x: Float64Array, y: Float64Array) -> Float64Array:
    return -np.sqrt(_squared_distances(x, y))


def _squared_distances(x: Float64Array, y: Float64Array) -> Float64Array:
    squared = np.sum(x**2, axis=1)[:, None] + np.sum(y**2, axis=1) - 2 * (x @ y.T)
    return np.maximum(squared, 0)


def _median_distance(x: Float64Array, y: Float64Array) -> float:
    """Median over pairs of different samples of both sets together."""
    some = np.concatenate([_evenly_spaced(x), _evenly_spaced(y)])
    above = np.triu_indices(len(some), k=1)
    return float(np.median(np.sqrt(_squared_distances(some, some)[above])))


def _evenly_spaced(rows: Float64Array) -> Float64Array:
    count = min(len(rows), _MEDIAN_ROWS)
    return rows[np.arange(count) * len(rows) // count]
