import itertools
import json

import numpy as np
import pytest

from diffjax import data
from diffjax.data.source import ArraySource
from tests.support import image_files


def numbered(count: int = 12) -> ArraySource:
    """Image i is of colour i and class i, its left column of colour 200."""
    images = np.empty((count, 4, 4, 1), np.uint8)
    images[:] = np.arange(count)[:, None, None, None]
    images[:, :, 0] = 200
    return ArraySource("numbered", images, np.arange(count, dtype=np.int32), count)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def classes(batches):
    return [batch.classes.tolist() for batch in batches]


def test_an_epoch_holds_every_image_once_in_an_order_of_its_own():
    batches = take(data.shuffled(numbered(), batch_size=4, seed=0), 9)
    epochs = np.concatenate(classes(batches)).reshape(3, 12)
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert len({tuple(epoch) for epoch in epochs} | {tuple(range(12))}) == 4
    for batch in batches:
        assert batch.images.shape == (4, 4, 4, 1)
        assert batch.images.dtype == np.uint8
        assert batch.classes.dtype == np.int32
        np.testing.assert_array_equal(batch.images[:, 0, 3, 0], batch.classes)


def test_only_the_seed_decides_the_order():
    def first(seed, threads):
        return classes(take(data.shuffled(numbered(), batch_size=5, seed=seed, threads=threads), 8))

    assert first(3, 1) == first(3, 16)
    assert first(3, 1) != first(4, 1)


@pytest.mark.parametrize("x_flip", [False, True])
def test_processes_share_each_batch(x_flip):
    """Batch i holds the same images, mirrored alike, on 1, 2 and 4 processes."""

    def batches(process_count):
        shares = [
            take(
                data.shuffled(
                    numbered(),
                    batch_size=8,
                    seed=1,
                    x_flip=x_flip,
                    process_index=index,
                    process_count=process_count,
                ),
                5,
            )
            for index in range(process_count)
        ]
        assert {len(b.classes) for share in shares for b in share} == {8 // process_count}
        return [sorted(x.tobytes() for share in shares for x in share[i].images) for i in range(5)]

    assert batches(1) == batches(2) == batches(4)


@pytest.mark.parametrize("x_flip", [False, True])
def test_goes_on_in_the_middle_of_an_epoch(x_flip):
    def stream(start=0):
        return data.shuffled(numbered(), batch_size=5, seed=2, x_flip=x_flip, start=start)

    def fingerprint(batches):
        return [batch.images.tobytes() for batch in batches]

    whole = fingerprint(take(stream(), 12))
    assert len(set(whole)) == 12
    iterator = stream()
    take(iterator, 4)
    state = json.loads(json.dumps(iterator.get_state()))
    restored = stream()
    restored.set_state(state)
    assert fingerprint(take(restored, 8)) == whole[4:]
    assert fingerprint(take(stream(start=4 * 5), 8)) == whole[4:]
    assert fingerprint(take(stream(start=4_000_000), 1))  # at once, without reading what is skipped


def test_half_of_the_images_are_mirrored_and_anew_each_epoch():
    source = numbered(50)
    batches = take(data.shuffled(source, batch_size=50, seed=0, x_flip=True), 20)
    is_mirrored = np.stack(
        [batch.images[np.argsort(batch.classes), 0, 0, 0] != 200 for batch in batches]
    )
    assert 0.45 < is_mirrored.mean() < 0.55  # of 1000; 3 standard deviations are 0.047
    assert is_mirrored.any(axis=0).all()
    assert not is_mirrored.all(axis=0).any()
    for batch in batches:
        for picture, label in zip(batch.images, batch.classes, strict=True):
            original = source[label][0]
            is_same = (picture == original).all()
            assert is_same or (picture == original[:, ::-1]).all()


def test_in_order_gives_all_once_the_rest_last():
    batches = list(data.in_order(numbered(11), batch_size=4))
    assert classes(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_a_bad_image_is_named_by_the_loader_too(tmp_path):
    contents = image_files.files(image_files.pictures(6))
    contents["00001/img00000005.png"] = b"hello"
    source = data.open_source(str(image_files.write_zip(tmp_path / "a.zip", contents)))
    with pytest.raises(ValueError, match=r"'00001/img00000005\.png': not a readable PNG"):
        list(data.in_order(source, batch_size=4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 5, "process_count": 2}, "batch_size=5 does not divide"),
        ({"batch_size": 0}, "batch_size=0"),
        (
            {"batch_size": 4, "process_count": 2, "process_index": 2},
            "process_index=2 must be below",
        ),
        ({"batch_size": 4, "start": -1}, "start=-1 at least 0"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message):
        data.shuffled(numbered(), seed=0, **settings)
