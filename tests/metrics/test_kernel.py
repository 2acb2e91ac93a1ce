import numpy as np
import pytest

from diffjax.metrics import kernel_distance


def test_matches_torch_fidelity(features, results):
    # Its number was made with one subset, of as many of the first rows as both have.
    size = min(map(len, features))
    a, b = (rows[:size] for rows in features)
    result = kernel_distance(a, b, subsets=1, subset_size=size)
    expected = results["kid"]["kernel_inception_distance_mean"]
    assert result == pytest.approx(expected, abs=1e-6)


def test_by_hand():
    # D = 1. k(0, y) = 1; k(1, 3) = 4^3; k(1, 2) = 3^3; k(3, 2) = 7^3.
    # Within a: 64, within b: 1; across: (1 + 27 + 1 + 343) / 4 = 93.
    result = kernel_distance([[1.0], [3.0]], [[0.0], [2.0]], subsets=1, subset_size=2)
    assert result == pytest.approx(64 + 1 - 2 * 93)


def test_subsets_are_drawn_as_torch_fidelity_draws_them(features):
    a, b = (rows.astype(np.float64) for rows in features)
    rng = np.random.RandomState(2020)
    expected = []
    for _ in range(3):
        rows_a = a[rng.choice(len(a), 20, replace=False)]
        rows_b = b[rng.choice(len(b), 20, replace=False)]
        expected.append(kernel_distance(rows_a, rows_b, subsets=1, subset_size=20))
    result = kernel_distance(a, b, subsets=3, subset_size=20, seed=2020)
    assert result == pytest.approx(np.mean(expected), rel=1e-12)
    assert result != kernel_distance(a, b, subsets=3, subset_size=20, seed=0)


def test_is_unbiased():
    a, b = np.random.default_rng(0).standard_normal((2, 2000, 4))
    estimates = [kernel_distance(a, b, subsets=1, subset_size=50, seed=seed) for seed in range(200)]
    # The biased estimate, with the diagonal, would be above 0.1 here.
    assert abs(np.mean(estimates)) < 0.02
    assert min(estimates) < 0


@pytest.mark.parametrize(
    ("shape_a", "shape_b", "settings", "message"),
    [
        ((9, 3, 1), (9, 3), {}, r"a must be \[N, D\]"),
        ((9, 3), (9, 4), {}, "same number of features, got 3 and 4"),
        ((9, 3), (7, 3), {"subset_size": 8}, "b has 7 rows, but subset_size=8"),
        ((9, 3), (9, 3), {}, "a has 9 rows, but subset_size=1000"),
        ((9, 3), (9, 3), {"subset_size": 1}, "subset_size must be at least 2"),
        ((9, 3), (9, 3), {"subsets": 0}, "subsets must be at least 1"),
    ],
)
def test_refuses(shape_a, shape_b, settings, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(np.zeros(shape_a), np.zeros(shape_b), **settings)


def test_refuses_nan():
    b = np.zeros((9, 3))
    b[4, 1] = np.nan
    with pytest.raises(ValueError, match=r"b holds NaN or infinity in 1 of 9 rows.* row 4"):
        kernel_distance(np.zeros((9, 3)), b, subset_size=5)
