import numpy as np
import pytest

from diffjax.metrics import modes
from tests.support import toys

CENTRES = toys.eight_gaussians_centres()


def test_of_the_mixture_itself():
    covered, share = modes(toys.eight_gaussians(20000), CENTRES, toys.EIGHT_GAUSSIANS_SD)
    assert covered == 8
    assert share == pytest.approx(1 - np.exp(-8), abs=5e-4)


def test_by_hand():
    centres = [[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]
    # Within 4 sd of the first, on its rim, beyond it, and within the second's, which is wider.
    samples = [[0.0, 1.0], [4.0, 0.0], [0.0, 4.01], [10.0, 7.9]]
    assert modes(samples, centres, [1.0, 2.0, 1.0]) == (2, 0.75)
    assert modes(samples, centres, 1.0) == (1, 0.5)
    assert modes(samples, centres, 1.0, radius=1.0) == (1, 0.25)


def test_a_stray_sample_covers_no_mode():
    samples = np.concatenate([np.zeros((59, 1)), np.full((1, 1), 5.0)])
    centres = [[0.0], [5.0]]
    assert modes(samples, centres, 0.1) == (1, 1.0)  # 1 of 60, with an even share of 30
    assert modes(samples, centres, 0.1, least_share=1 / 30) == (2, 1.0)


def test_a_ring_covers_all_modes_and_has_a_low_share():
    angle = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    ring = np.linalg.norm(CENTRES[0]) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    covered, share = modes(ring, CENTRES, toys.EIGHT_GAUSSIANS_SD)
    # A chord of 4 sd = 0.4 at radius 2 spans an angle of 2 asin(0.1) to each side.
    assert covered == 8
    assert share == pytest.approx(8 * 4 * np.arcsin(0.1) / (2 * np.pi), abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((np.zeros((3, 2)), np.zeros((4, 3)), 1.0), {}, "same number of features, got 2 and 3"),
        ((np.full((3, 2), np.nan), np.zeros((4, 2)), 1.0), {}, "samples holds NaN"),
        ((np.zeros((3, 2)), np.zeros((4, 2)), [1.0, 1.0]), {}, r"sd must be a number or \[4\]"),
        ((np.zeros((3, 2)), np.zeros((4, 2)), 0.0), {}, "sd must be positive"),
        ((np.zeros((3, 2)), np.zeros((4, 2)), 1.0), {"radius": -1.0}, "radius must be positive"),
    ],
)
def test_refuses(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        modes(*arguments, **settings)
