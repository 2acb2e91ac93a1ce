"""Numbers of torch-fidelity 0.4.0 for the arrays that come with them."""

import pathlib

import numpy as np
import pytest

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "metrics.npz"


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """a [1500, 48], b [1200, 48] and logits [1500, 50], and what torch-fidelity made of them.

    The arrays were rounded to 14 significant bits after it ran, to be small: that moves its
    numbers by less than a hundredth of the tolerances here.
    """
    with np.load(GOLDEN) as arrays:
        return dict(arrays)
