import numpy as np

from diffjax.data import digits


def test_load_gives_all_digits_in_range() -> None:
    images, labels = digits.load()
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.float32
    assert labels.shape == (1797,)
    assert labels.dtype == np.int32
    assert images.min() == -1.0
    assert images.max() == 1.0
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_first_image_is_the_known_zero() -> None:
    images, labels = digits.load()
    assert labels[:3].tolist() == [0, 1, 2]
    # The first row of ink counts of scikit-learn's first digit is 0 0 5 13 9 1 0 0.
    np.testing.assert_array_equal(
        images[0, 0, :, 0], np.array([0, 0, 5, 13, 9, 1, 0, 0], np.float32) / 8 - 1
    )


def test_halves_are_disjoint_complete_and_decided_by_the_seed() -> None:
    images, _ = digits.load()
    first, second = digits.halves(0)
    assert first.shape == (899, 8, 8, 1)
    assert second.shape == (898, 8, 8, 1)
    rows = np.concatenate([first, second]).reshape(1797, -1)
    expected = images.reshape(1797, -1)
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    np.testing.assert_array_equal(first, digits.halves(0)[0])
    assert not np.array_equal(first, digits.halves(1)[0])
