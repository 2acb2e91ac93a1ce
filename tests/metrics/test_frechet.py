import numpy as np
import pytest

from diffjax.metrics import Moments, frechet_distance


def moments_of(features: np.ndarray) -> Moments:
    return Moments.empty(features.shape[1]).update(features)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    moments_a, moments_b = moments_of(a), moments_of(b)
    return frechet_distance(moments_a.mean, moments_a.cov, moments_b.mean, moments_b.cov)


def random_covariance(seed: int, dim: int, rank: int) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((dim, rank))
    return factor @ factor.T


def test_matches_torch_fidelity(features, results):
    assert distance(*features) == pytest.approx(results["fid"], rel=1e-4)


def test_matches_torch_fidelity_with_rank_deficient_covariances(features, results):
    first = results["fid_rank_deficient_first"]
    a, b = features
    assert first < a.shape[1]
    expected = results["fid_rank_deficient"]
    assert distance(a[:first], b[:first]) == pytest.approx(expected, rel=1e-4)


def test_one_dimension_by_hand():
    # (3 - 1)^2 + (sqrt(9) - sqrt(4))^2
    assert frechet_distance([1.0], [[4.0]], [3.0], [[9.0]]) == pytest.approx(5.0, abs=1e-12)


def test_commuting_covariances_by_hand():
    # (2 - 1)^2 + (0 - 3)^2 + (1 - 1)^2
    result = frechet_distance(np.zeros(3), np.diag([4, 0, 1]), np.zeros(3), np.diag([1, 9, 1]))
    assert result == pytest.approx(10.0, abs=1e-12)


def test_disjoint_subspaces_leave_only_the_traces():
    # Each root vanishes where the other doesn't.
    result = frechet_distance(np.zeros(2), np.diag([5.0, 0]), np.zeros(2), np.diag([0, 7.0]))
    assert result == pytest.approx(12.0, abs=1e-12)


@pytest.mark.parametrize("rank", [3, 20, 60])
def test_of_a_gaussian_with_itself_is_zero(rank):
    cov = random_covariance(0, 20, rank)
    assert 0 <= frechet_distance(np.ones(20), cov, np.ones(20), cov) < 1e-5


def test_is_symmetric_and_doesnt_depend_on_the_basis():
    cov_a, cov_b = random_covariance(1, 12, 5), random_covariance(2, 12, 30)
    mean_a, mean_b = np.random.default_rng(3).standard_normal((2, 12))
    basis, _ = np.linalg.qr(np.random.default_rng(4).standard_normal((12, 12)))
    forward = frechet_distance(mean_a, cov_a, mean_b, cov_b)
    backward = frechet_distance(mean_b, cov_b, mean_a, cov_a)
    turned = frechet_distance(
        basis @ mean_a, basis @ cov_a @ basis.T, basis @ mean_b, basis @ cov_b @ basis.T
    )
    assert backward == pytest.approx(forward, rel=1e-9)
    assert turned == pytest.approx(forward, rel=1e-6)


def test_accepts_covariances_rounded_to_float32():
    cov = random_covariance(5, 30, 4)
    assert frechet_distance(np.zeros(30), cov.astype(np.float32), np.zeros(30), cov) < 1e-2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 1)), np.eye(2), np.zeros(2), np.eye(2)), r"mean_a must be \[D\]"),
        ((np.zeros(2), np.eye(2), np.zeros(2), np.eye(3)), r"cov_b \[D, D\]"),
        ((np.zeros(2), np.eye(2), np.zeros(3), np.eye(3)), "same shape"),
        ((np.zeros(2), np.eye(2), np.array([0, np.nan]), np.eye(2)), "mean_b holds NaN"),
        ((np.zeros(2), np.diag([1, np.inf]), np.zeros(2), np.eye(2)), "cov_a holds NaN"),
        ((np.zeros(2), np.array([[1, 1], [0, 1]]), np.zeros(2), np.eye(2)), "symmetric"),
        ((np.zeros(2), np.eye(2), np.zeros(2), np.diag([1.0, -1.0])), "cov_b must be positive"),
    ],
)
def test_refuses_what_isnt_a_gaussian(arguments, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(*arguments)


def test_moments_are_those_of_numpy(features):
    moments = moments_of(features[0])
    assert moments.count == len(features[0])
    rows = features[0].astype(np.float64)
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.cov, np.cov(rows, rowvar=False), rtol=0, atol=1e-13)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_moments_dont_depend_on_the_batches(batch_size):
    # A mean of 1e6 against a deviation of 1: sums of squares would lose the covariance.
    rows = np.random.default_rng(0).standard_normal((64, 5)) + 1e6
    moments = Moments.empty(5)
    for start in range(0, 64, batch_size):
        moments = moments.update(rows[start : start + batch_size])
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.cov, np.cov(rows, rowvar=False), rtol=0, atol=1e-8)


def test_moments_merge():
    rows = np.random.default_rng(0).standard_normal((50, 4))
    merged = moments_of(rows[:13]).merge(moments_of(rows[13:]))
    assert merged.count == 50
    np.testing.assert_allclose(merged.mean, rows.mean(axis=0), atol=1e-14)
    np.testing.assert_allclose(merged.cov, np.cov(rows, rowvar=False), atol=1e-14)
    assert Moments.empty(4).merge(Moments.empty(4)).count == 0


def test_update_leaves_the_old_moments_alone():
    old = moments_of(np.ones((3, 2)))
    old.update(np.zeros((3, 2)))
    assert old.count == 3
    np.testing.assert_array_equal(old.mean, np.ones(2))


def test_moments_refuse_what_they_cant_hold():
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        _ = moments_of(np.ones((1, 3))).cov
    with pytest.raises(ValueError, match="of 3 features can't be combined"):
        Moments.empty(3).update(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"features must be \[N, D\].*\(3,\)"):
        Moments.empty(3).update(np.ones(3))
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 2 rows, the first being row 1"):
        Moments.empty(2).update(np.array([[0, 0], [0, np.inf]]))
