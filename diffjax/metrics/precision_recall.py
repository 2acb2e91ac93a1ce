"""Improved precision and recall: fidelity and coverage, apart from each other."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from diffjax.interfaces import Array
from diffjax.metrics._rows import as_row_pair

# Rows of one block of distances: against 50,000 others a block takes 200 MB.
_BLOCK_ROWS = 1024


def precision_recall(
    real: npt.ArrayLike, generated: npt.ArrayLike, *, k: int = 3
) -> tuple[float, float]:
    """Share of generated samples that look real, and of real ones that are covered.

    Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models",
    NeurIPS 2019, equations 1 to 3. The manifold of a set is the union of one ball around each of
    its samples, whose radius is the distance to the sample's k-th nearest neighbour in the set,
    itself not counted. Precision is the share of generated samples within the manifold of the real
    ones, recall the share of real samples within the manifold of the generated ones.

    Distances are computed on the default device, in float32 at full matmul precision and in blocks
    of rows, so that memory grows with N and not with its square.

    Args:
      real: [N, D] features.
      generated: [M, D] features.
      k: which neighbour sets the radius; 3 in the paper.

    Returns:
      (precision, recall), both in [0, 1].

    Raises:
      ValueError: real or generated isn't [N, D] and finite, D differs, one has no more than k rows,
        or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    rows_real, rows_generated = as_row_pair(
        "real", real, "generated", generated, at_least=k + 1, why=f"k={k}"
    )
    # Distances don't change, and |x|^2 + |y|^2 - 2 x.y loses fewer digits near the origin.
    centre = rows_real.mean(axis=0)
    x_real = jnp.asarray(rows_real - centre, jnp.float32)
    x_generated = jnp.asarray(rows_generated - centre, jnp.float32)
    precision = _share_within_manifold(x_generated, manifold=x_real, k=k)
    recall = _share_within_manifold(x_real, manifold=x_generated, k=k)
    return precision, recall


def _share_within_manifold(queries: Array, *, manifold: Array, k: int) -> float:
    radii = jnp.concatenate([_squared_radii(block, manifold, k) for block in _blocks(manifold)])
    within = [np.asarray(_is_within(block, manifold, radii)) for block in _blocks(queries)]
    return float(np.concatenate(within).mean())


def _blocks(rows: Array) -> Iterator[Array]:
    for start in range(0, len(rows), _BLOCK_ROWS):
        yield rows[start : start + _BLOCK_ROWS]


@functools.partial(jax.jit, static_argnames="k")
def _squared_radii(block: Array, manifold: Array, k: int) -> Array:
    # The nearest of all is the sample itself, hence k + 1.
    negated_nearest, _ = jax.lax.top_k(-_squared_distances(block, manifold), k + 1)
    return -negated_nearest[:, -1]


@jax.jit
def _is_within(block: Array, manifold: Array, squared_radii: Array) -> Array:
    return jnp.any(_squared_distances(block, manifold) <= squared_radii[None], axis=1)


def _squared_distances(x: Array, y: Array) -> Array:
    inner = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    squared = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)[None] - 2 * inner
    return jnp.maximum(squared, 0)
