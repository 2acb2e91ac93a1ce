"""Distances between samples themselves: closed forms, naive sums, other packages."""

import numpy as np
import pytest
from scipy import stats

from diffjax.metrics import mmd, moments, sliced_wasserstein

DISTANCES = {
    "moments": lambda x, y: moments(x, y, sigma_data=1.0)["cov"],
    "sliced_wasserstein": sliced_wasserstein,
    "mmd": mmd,
    "energy": lambda x, y: mmd(x, y, kernel="energy"),
}
every_distance = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@every_distance
def test_shape_and_precision_of_an_example_have_no_meaning(distance):
    x, y = normal(40, 2, 3, 4), 2 * normal(30, 2, 3, 4, seed=1)
    expected = distance(x, y)
    assert expected == pytest.approx(distance(x.reshape(40, -1), y.reshape(30, -1)), rel=1e-12)
    assert expected == pytest.approx(distance(x.astype(np.float32), y), rel=1e-5)
    assert expected == pytest.approx(distance(y, x), rel=1e-12)
    assert expected == distance(x, y)


@every_distance
def test_a_number_may_be_an_example(distance):
    x, y = normal(20), 2 + normal(30, seed=1)
    assert distance(x, y) == distance(x[:, None], y[:, None]) > 0


@every_distance
@pytest.mark.parametrize(
    ("shape_x", "shape_y", "message"),
    [
        ((9, 2, 3), (9, 3, 2), r"one shape, got \(2, 3\) and \(3, 2\)"),
        ((9, 3), (0, 3), r"y must be \[N, \*shape\], got shape \(0, 3\)"),
        ((), (9, 3), r"x must be \[N, \*shape\]"),
    ],
)
def test_refuses_shapes(distance, shape_x, shape_y, message):
    with pytest.raises(ValueError, match=message):
        distance(np.zeros(shape_x), np.zeros(shape_y))


@every_distance
def test_refuses_what_is_not_finite(distance):
    y = normal(9, 2, 2)
    y[4, 1, 0] = np.inf
    with pytest.raises(ValueError, match=r"y holds NaN or infinity in 1 of 9 rows.* row 4"):
        distance(normal(9, 2, 2), y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: sliced_wasserstein(x, x, projections=0), "projections must be at least 1"),
        (lambda x: sliced_wasserstein(x, x, p=0.5), "p must be at least 1"),
        (lambda x: mmd(x, x[:1]), "y has 1 rows, but an unbiased estimate needs at least 2"),
        (lambda x: mmd(x, x, kernel="cubic"), "'gaussian' or 'energy', got 'cubic'"),
        (lambda x: mmd(x, x, kernel="energy", bandwidth=1.0), "energy kernel has no bandwidth"),
        (lambda x: mmd(x, x, bandwidth=-1.0), "widths must be positive"),
        (lambda x: mmd(x, x, scales=()), "widths must be positive"),
        (lambda x: mmd(0 * x, 0 * x), "most samples of x and y are equal"),
        (lambda x: moments(x[:1], x, sigma_data=1.0), "x has 1 rows, but a covariance needs"),
        (lambda x: moments(x, x, sigma_data=0.0), "sigma_data must be positive"),
    ],
)
def test_refuses_settings(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(9, 2))


@pytest.mark.parametrize("shape", [(2,), (4, 5, 6)], ids=["few coordinates", "many"])
def test_moments_of_shifted_and_scaled_samples(shape):
    x = 3 * normal(50, *shape)
    assert moments(x, x, sigma_data=3.0) == pytest.approx({"mean": 0, "std": 0, "cov": 0})
    shifted = moments(x, x + 1.5, sigma_data=3.0)
    assert shifted == pytest.approx({"mean": 0.5, "std": 0, "cov": 0}, abs=1e-12)

    flat = x.reshape(50, -1)
    scaled = moments(x, 1.1 * x, sigma_data=3.0)
    root_dim = np.sqrt(flat.shape[1])
    assert scaled["mean"] == pytest.approx(0.1 * np.linalg.norm(flat.mean(0)) / root_dim / 3)
    assert scaled["std"] == pytest.approx(
        0.1 * np.linalg.norm(flat.std(0, ddof=1)) / root_dim / 3, rel=1e-9
    )
    cov = np.cov(flat.T)
    assert scaled["cov"] == pytest.approx(0.21 * np.linalg.norm(cov) / root_dim / 9, rel=1e-9)


def test_moments_of_a_gaussian_that_is_too_wide():
    x, y = normal(20000, 2), 1.2 * normal(30000, 2, seed=1) + [0.3, 0.4]
    # |(0.3, 0.4)| / sqrt(2); 1.2 - 1; 1.44 - 1.
    expected = {"mean": 0.5 / np.sqrt(2), "std": 0.2, "cov": 0.44}
    assert moments(x, y, sigma_data=1.0) == pytest.approx(expected, abs=0.03)


def test_sliced_wasserstein_of_numbers_is_wasserstein():
    x, y = normal(31), 1 + 2 * normal(47, seed=1)  # sizes without a common divisor
    assert sliced_wasserstein(x, y, p=1) == pytest.approx(stats.wasserstein_distance(x, y))
    # By hand: quantiles 0, 3 by halves against 0, 1, 5 by thirds.
    cost = (0 * 2 + 1 * 1 + (3 - 1) ** 2 * 1 + (5 - 3) ** 2 * 2) / 6
    assert sliced_wasserstein([3.0, 0.0], [5.0, 0.0, 1.0]) == pytest.approx(np.sqrt(cost))


def test_sliced_wasserstein_of_equal_sizes_matches_sorted_samples():
    x, y = normal(64, 5), normal(64, 5, seed=1)
    rng = np.random.default_rng(2)
    directions = rng.standard_normal((5, 40000))
    directions /= np.linalg.norm(directions, axis=0)
    by_hand = np.sort(x @ directions, axis=0) - np.sort(y @ directions, axis=0)
    for p in (1.0, 2.0, 3.0):
        result = sliced_wasserstein(x, y, projections=2000, p=p)
        assert result == pytest.approx(np.mean(np.abs(by_hand) ** p) ** (1 / p), rel=0.01)


def test_sliced_wasserstein_of_shifted_and_scaled_samples():
    x, shift = normal(100, 4), np.array([3.0, 0.0, -4.0, 1.0])
    for seed in (0, 1):
        result = sliced_wasserstein(x, x + shift, seed=seed)
        assert result == pytest.approx(np.linalg.norm(shift) / 2)
    # A set twice is the same distribution.
    assert sliced_wasserstein(x, np.concatenate([x, x])) == pytest.approx(0, abs=1e-12)
    # Along any direction, u.x = s n and u.y = t n have W_2 = |s - t|.
    y = 1.5 * normal(20000, 4, seed=1)
    assert sliced_wasserstein(normal(20000, 4), y) == pytest.approx(0.5, abs=0.02)


def test_sliced_wasserstein_takes_as_many_directions_as_it_is_asked_for():
    x, y = normal(50, 3), normal(50, 3, seed=1)
    results = {sliced_wasserstein(x, y, projections=count) for count in (1, 2, 3, 4, 128)}
    results.add(sliced_wasserstein(x, y, seed=1))
    assert len(results) == 6


@pytest.mark.parametrize(
    ("kernel", "k"),
    [
        ("energy", lambda d: -d),
        ("gaussian", lambda d: (np.exp(-(d**2) / 8) + np.exp(-(d**2) / 72)) / 2),
    ],
)
def test_mmd_matches_a_naive_sum(kernel, k):
    x, y = normal(13, 3), 1 + normal(9, 3, seed=1)

    def mean(a, b, same):
        pairs = [
            k(np.linalg.norm(p - q))
            for i, p in enumerate(a)
            for j, q in enumerate(b)
            if not same or i != j
        ]
        return np.mean(pairs)

    settings = {"bandwidth": 2.0, "scales": (1.0, 3.0)} if kernel == "gaussian" else {}
    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert mmd(x, y, kernel=kernel, **settings) == pytest.approx(expected, rel=1e-10)


def test_mmd_does_not_depend_on_its_blocks(monkeypatch):
    x, y = normal(50, 3), 1 + normal(70, 3, seed=1)
    whole = mmd(x, y), mmd(x, y, kernel="energy")
    monkeypatch.setattr("diffjax.metrics.kernel._BLOCK_ROWS", 16)
    assert (mmd(x, y), mmd(x, y, kernel="energy")) == pytest.approx(whole, rel=1e-12)


def test_mmd_takes_the_median_distance_of_both():
    x, y = normal(40, 2), 5 + normal(40, 2, seed=1)
    both = np.concatenate([x, y])
    median = np.median([np.linalg.norm(p - q) for i, p in enumerate(both) for q in both[:i]])
    assert mmd(x, y) == pytest.approx(mmd(x, y, bandwidth=median), rel=1e-10)
    assert mmd(x, y) == pytest.approx(mmd(1e3 * x, 1e3 * y), rel=1e-10)


def test_mmd_of_gaussians():
    # N(0, 1) and N(m, 1), kernel of width h: E k = h / sqrt(v) exp(-m^2 / (2 v)), v = h^2 + 2.
    m, h = 1.5, 0.8
    v = h**2 + 2
    expected = 2 * h / np.sqrt(v) * (1 - np.exp(-(m**2) / (2 * v)))
    x, y = normal(3000), m + normal(3000, seed=1)
    assert mmd(x, y, bandwidth=h, scales=(1.0,)) == pytest.approx(expected, abs=0.02)
    energy = stats.energy_distance(x, y) ** 2  # biased: with the zeros of the diagonal
    assert mmd(x, y, kernel="energy") == pytest.approx(energy, abs=2e-3)


@pytest.mark.parametrize("kernel", ["gaussian", "energy"])
def test_mmd_is_unbiased(kernel):
    estimates = [
        mmd(normal(20, 2, seed=seed), normal(30, 2, seed=1000 + seed), kernel=kernel)
        for seed in range(300)
    ]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates)) < 4 * error
    assert min(estimates) < 0
