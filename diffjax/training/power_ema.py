"""Averages of parameters by power functions of time, and averages of any length made afterwards.

Karras et al. 2024 (EDM2, arXiv:2312.02696), section 3 and appendix C. A profile weighs the
parameters at time t in proportion to t^γ up to its end. Its length is told by σ_rel, the standard
deviation of that density over its end: 0.05 and 0.10 are kept while training.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array, Params

_Numbers = Array | np.ndarray | float


def exponent(std: np.ndarray | float) -> np.ndarray:
    """Exponent γ of the profile of relative standard deviation σ_rel (algorithm 2).

    Args:
      std: σ_rel, 0 < σ_rel < 0.28, of any shape.

    Returns:
      γ > 0, float64: the largest root of γ³ + 7γ² + (16 − σ⁻²)γ + 12 − σ⁻².
    """
    inverse = np.asarray(std, np.float64) ** -2
    roots = [np.roots([1, 7, 16 - t, 12 - t]).real.max() for t in inverse.ravel()]
    return np.reshape(roots, inverse.shape)


def relative_std(exponent: np.ndarray | float) -> np.ndarray:
    """Relative standard deviation σ_rel of the profile of exponent γ (equation 123).

    Args:
      exponent: γ, of any shape.
    """
    gamma = np.asarray(exponent, np.float64)
    return np.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def new_share(images_seen: _Numbers, batch_size: _Numbers, std: np.ndarray | float) -> Array:
    """Weight 1 − β of the new parameters in an update of the average (equation 127).

    β = (1 − batch_size / images_seen)^(γ + 1). 1 − β is given, since float32 keeps no digits of it
    in β where a run is long.

    Args:
      images_seen: images after the update.
      batch_size: images of the update.
      std: σ_rel, known beforehand.

    Returns:
      In (0, 1], of the broadcast shape; 1 in a run's first update. float64 unless from JAX.
    """
    xp: Any = jnp if isinstance(images_seen, jax.Array) else np
    power: Any = exponent(std) + 1
    with np.errstate(divide="ignore"):
        return -xp.expm1(power * xp.log1p(-xp.asarray(batch_size / images_seen)))


def blend(average: Params, params: Params, share: Array) -> Params:
    """Move an average towards parameters: (1 − share) · average + share · params.

    Args:
      average: before an update.
      params: after it.
      share: as `new_share` gives it; at 1 the parameters themselves are the result.
    """

    def leaf(old: Array, new: Array) -> Array:
        difference, small = new - old, jnp.asarray(share, old.dtype)
        rest = jnp.asarray(1 - share, old.dtype)
        return jnp.where(share < 0.5, old + small * difference, new - rest * difference)

    return jax.tree.map(leaf, average, params)


@dataclasses.dataclass(frozen=True)
class PowerAverages:
    """Averages of one learner's parameters, one for each length.

    Attributes:
      stds: σ_rel of each.
    """

    stds: tuple[float, ...] = (0.05, 0.10)

    def start(self, params: Params) -> tuple[Params, ...]:
        """Copies of the parameters, one for each length."""
        return tuple(jax.tree.map(jnp.copy, params) for _ in self.stds)

    def follow(
        self, averages: Sequence[Params], params: Params, *, images_seen: Array, batch_size: int
    ) -> tuple[Params, ...]:
        """Move the averages towards the parameters of an update.

        Args:
          averages: before the update.
          params: after it.
          images_seen: images after the update.
          batch_size: images of the update.
        """
        shares = [new_share(images_seen, batch_size, std) for std in self.stds]
        pairs = zip(averages, shares, strict=True)
        return tuple(blend(average, params, share) for average, share in pairs)


def response(end: np.ndarray | float, std: np.ndarray | float, steps: int) -> np.ndarray:
    """Weights by which a profile averages the parameters at times 0 to steps − 1.

    Args:
      end: of the profile, in steps.
      std: σ_rel, of any shape; `end` is broadcast against it.
      steps: number of times.

    Returns:
      [..., steps] float64, of sum 1.
    """
    end, gamma = np.broadcast_arrays(np.asarray(end, np.float64), exponent(std))
    time = np.arange(steps)
    ratio = time / end[..., None]
    weights = np.where(ratio <= 1, ratio ** gamma[..., None], 0)
    return weights / weights.sum(axis=-1, keepdims=True)


def correlation(
    ends: np.ndarray, stds: np.ndarray, other_ends: np.ndarray, other_stds: np.ndarray
) -> np.ndarray:
    """Integrals over time of the product of each two profiles (equation 134).

    Args:
      ends: times at which profiles end, [I], in any unit.
      stds: their σ_rel, [I].
      other_ends: likewise, [J], in that unit.
      other_stds: likewise, [J].

    Returns:
      [I, J] float64.
    """
    a, b = np.asarray(ends, np.float64)[:, None], np.asarray(other_ends, np.float64)[None]
    power_a, power_b = exponent(stds)[:, None], exponent(other_stds)[None]
    # Both reach from 0 to the earlier end, at which the other is (earlier / later)^γ of its end.
    later_power = np.where(a < b, power_b, power_a)
    earlier, later = np.minimum(a, b), np.maximum(a, b)
    height = (power_a + 1) * (power_b + 1) / (power_a + power_b + 1) / later
    return height * (earlier / later) ** later_power


def posthoc_weights(
    ends: np.ndarray, stds: np.ndarray, out_end: np.ndarray | float, out_stds: np.ndarray | float
) -> np.ndarray:
    """Weights that make averages of other lengths from those that were kept (equation 135).

    The least-squares fit of the wanted profiles by those at hand, each normalised to the sum 1.

    Args:
      ends: images at which each snapshot of an average was kept, [I].
      stds: its σ_rel, [I].
      out_end: images at which the wanted averages end, a number or [J].
      out_stds: their σ_rel, [J].

    Returns:
      [I, J] float64.

    Raises:
      ValueError: if two snapshots are of one profile.
    """
    ends, stds = np.asarray(ends, np.float64), np.asarray(stds, np.float64)
    out_ends, out_stds = np.broadcast_arrays(*np.atleast_1d(out_end, out_stds))
    if len(set(zip(ends.tolist(), stds.tolist(), strict=True))) < len(ends):
        raise ValueError("two snapshots are of one end and one std: leave one of them out")
    within = correlation(ends, stds, ends, stds)
    weights = np.linalg.solve(within, correlation(ends, stds, out_ends, out_stds))
    return weights / weights.sum(axis=0)


def reconstruct(snapshots: Iterable[Params], weights: Sequence[float] | np.ndarray) -> Params:
    """Average snapshots by weights, in float64 on the host.

    Args:
      snapshots: trees of arrays, which may be read one at a time.
      weights: of each, a column of what `posthoc_weights` gives.

    Returns:
      Tree of NumPy arrays in the types of the first snapshot.

    Raises:
      ValueError: if there are more or fewer snapshots than weights, or none.
    """
    total, first = None, None
    for weight, snapshot in zip(weights, snapshots, strict=True):
        scaled = jax.tree.map(lambda x, w=weight: w * np.asarray(x, np.float64), snapshot)
        if total is None:
            total, first = scaled, jax.tree.map(lambda x: np.asarray(x).dtype, snapshot)
        else:
            total = jax.tree.map(np.add, total, scaled)
    if total is None:
        raise ValueError("there are no snapshots to average")
    return jax.tree.map(lambda x, dtype: x.astype(dtype), total, first)


def of_posthoc(snapshots: Mapping[tuple[float, float], Params], end: float, std: float) -> Params:
    """Average of a length that wasn't kept, from the snapshots of those that were.

    Args:
      snapshots: (images seen, σ_rel) -> an average's parameters there.
      end: images at which the wanted average ends.
      std: its σ_rel.

    Returns:
      Tree of NumPy arrays.

    Raises:
      ValueError: if there are no snapshots.
    """
    if not snapshots:
        raise ValueError("there are no snapshots to average")
    ends, stds = np.asarray(list(snapshots), np.float64).T
    return reconstruct(snapshots.values(), posthoc_weights(ends, stds, end, std)[:, 0])
