import numpy as np
import pytest

from diffjax.metrics import precision_recall


def test_matches_torch_fidelity(features, results):
    a, b = features
    for key, real, generated in (
        ("prc_a_generated_b_real", b, a),
        ("prc_b_generated_a_real", a, b),
    ):
        expected = results[key]["precision"], results[key]["recall"]
        assert precision_recall(real, generated) == pytest.approx(expected, abs=1e-7)


def test_by_hand():
    real = [[0.0], [1.0], [3.0], [10.0]]  # radii for k = 1: 1, 1, 2, 7
    generated = [[-1.5], [4.5], [18.0]]  # radii for k = 1: 6, 6, 13.5
    # Real balls: [-1, 1], [0, 2], [1, 5], [3, 17] hold 4.5 alone.
    # Generated balls: [-7.5, 4.5], [-1.5, 10.5], [4.5, 31.5] hold all.
    assert precision_recall(real, generated, k=1) == (pytest.approx(1 / 3), 1.0)


def test_a_ball_holds_its_own_rim():
    # Radii for k = 1 are 1: 2 lies on the rim of the ball around 1.
    assert precision_recall([[0.0], [1.0]], [[2.0], [9.0]], k=1)[0] == 0.5


def test_the_same_set_is_covered_whole():
    features = np.random.default_rng(0).standard_normal((300, 16))
    assert precision_recall(features, features[::-1]) == (1.0, 1.0)


def test_far_sets_share_nothing():
    features = np.random.default_rng(0).standard_normal((100, 16))
    assert precision_recall(features, features + 100) == (0.0, 0.0)


def test_a_collapsed_generator_has_precision_without_recall():
    real = np.random.default_rng(0).standard_normal((200, 8))
    assert precision_recall(real, np.tile(real[:1] + 1e-3, (50, 1))) == (1.0, 0.0)


def test_blocks_agree_with_the_whole_distance_matrix():
    # More rows than one block, and not a multiple of it. The offset would ruin uncentred float32.
    rng = np.random.default_rng(0)
    real = rng.standard_normal((1500, 6)) + 300
    generated = 0.7 * rng.standard_normal((1100, 6)) + 300.5

    def share_within(queries, manifold):
        own = np.linalg.norm(manifold[:, None] - manifold, axis=-1)
        radii = np.sort(own, axis=1)[:, 3]
        return (np.linalg.norm(queries[:, None] - manifold, axis=-1) <= radii).any(axis=1).mean()

    expected = (share_within(generated, real), share_within(real, generated))
    assert 0.1 < expected[1] < expected[0] < 1
    assert precision_recall(real, generated) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("shape_real", "shape_generated", "k", "message"),
    [
        ((9,), (9, 3), 3, r"real must be \[N, D\]"),
        ((9, 3), (9, 4), 3, "same number of features, got 3 and 4"),
        ((3, 3), (9, 3), 3, "real has 3 rows, but k=3 needs at least 4"),
        ((9, 3), (5, 3), 5, "generated has 5 rows, but k=5 needs at least 6"),
        ((9, 3), (9, 3), 0, "k must be at least 1"),
    ],
)
def test_refuses(shape_real, shape_generated, k, message):
    with pytest.raises(ValueError, match=message):
        precision_recall(np.zeros(shape_real), np.zeros(shape_generated), k=k)


def test_refuses_nan():
    with pytest.raises(ValueError, match="generated holds NaN"):
        precision_recall(np.zeros((9, 3)), np.full((9, 3), np.nan))
