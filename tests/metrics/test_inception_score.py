import numpy as np
import pytest

from diffjax.metrics import inception_score


def test_matches_torch_fidelity(golden, results):
    expected = [results["isc"][f"inception_score_{name}"] for name in ("mean", "std")]
    np.testing.assert_allclose(inception_score(golden.raw("logits")), expected, rtol=1e-4)


def test_uniform_predictions_score_one():
    mean, std = inception_score(np.zeros((20, 7)), splits=4)
    assert mean == pytest.approx(1.0)
    assert std == pytest.approx(0.0, abs=1e-12)


def test_certain_and_balanced_predictions_score_the_number_of_classes():
    # exp(-2000) underflows: probabilities of exactly 0 must not become NaN.
    logits = 2000 * np.tile(np.eye(5), (4, 1))
    mean, std = inception_score(logits, splits=2)
    assert mean == pytest.approx(5.0)
    assert std == pytest.approx(0.0, abs=1e-12)


def test_splits_are_consecutive_and_cover_all_rows():
    # 7 rows in 3 splits: 2, 2 and 3. Classes per split: 1, 2, 3.
    classes = [0, 0, 0, 1, 0, 1, 2]
    mean, std = inception_score(2000 * np.eye(3)[classes], splits=3)
    assert mean == pytest.approx(2.0)
    assert std == pytest.approx(np.std([1, 2, 3]))


@pytest.mark.parametrize("splits", [0, 5])
def test_refuses_splits(splits):
    with pytest.raises(ValueError, match=f"between 1 and the 4 rows of logits, got {splits}"):
        inception_score(np.zeros((4, 3)), splits=splits)


def test_refuses_arrays():
    with pytest.raises(ValueError, match=r"logits must be \[N, D\]"):
        inception_score(np.zeros(4))
    with pytest.raises(ValueError, match="logits holds NaN"):
        inception_score(np.full((20, 3), np.nan))
