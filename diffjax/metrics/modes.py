"""Modes of a known mixture that a set of samples covers."""

import numpy as np
import numpy.typing as npt

from diffjax.metrics._rows import as_row_pair


def modes(
    samples: npt.ArrayLike,
    centres: npt.ArrayLike,
    sd: npt.ArrayLike,
    *,
    radius: float = 4.0,
    least_share: float = 0.1,
) -> tuple[int, float]:
    """Count the modes that samples cover, and the share of samples that lie in a mode.

    A sample is in its nearest centre's mode if it is within `radius` sd of it. A mode is covered
    if at least `least_share` of an even share (N / K samples) is in it, and at least one. Of an
    exact mixture of round Gaussians in two dimensions, 1 - exp(-radius^2 / 2) of samples are in
    one: 99.97 % at radius 4. A ring of samples through all centres covers every mode too: only the
    share tells it.

    Args:
      samples: [N, D].
      centres: [K, D] means of the mixture.
      sd: standard deviation of a mode by coordinate, a number or [K], in the units of samples.
      radius: the farthest that a sample in a mode is from the centre, in sd.
      least_share: the fewest samples that cover a mode, as a share of N / K.

    Returns:
      (covered, share): the number of modes covered, 0 to K, and the share of samples in any mode,
      in [0, 1].

    Raises:
      ValueError: samples or centres aren't [N, D] and finite, D differs, or a setting isn't
        positive.
    """
    points, means = as_row_pair("samples", samples, "centres", centres, at_least=1, why="a mode")
    widths = np.asarray(sd, np.float64)
    if widths.shape not in ((), (len(means),)):
        raise ValueError(f"sd must be a number or [{len(means)}], got shape {widths.shape}.")
    settings: dict[str, npt.ArrayLike] = {"sd": sd, "radius": radius, "least_share": least_share}
    for name, value in settings.items():
        number = np.asarray(value)
        if not np.all((number > 0) & np.isfinite(number)):
            raise ValueError(f"{name} must be positive and finite, got {value!r}.")
    distances = np.stack([np.linalg.norm(points - mean, axis=1) for mean in means], axis=1)
    nearest = distances.argmin(axis=1)
    reach = radius * np.broadcast_to(widths, len(means))
    inside = distances.min(axis=1) <= reach[nearest]
    counts = np.bincount(nearest[inside], minlength=len(means))
    covered = counts >= max(1.0, least_share * len(points) / len(means))
    return int(covered.sum()), float(inside.mean())
