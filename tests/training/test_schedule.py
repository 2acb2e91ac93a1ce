"""Periods in images: those of whole updates, and what becomes of them if the batch size changes."""

import math

import pytest

from diffjax.training.schedule import Schedule, images_of_kimg


def of_kimg(batch_size, **changes):
    periods = {"duration": 0.1, "log": 0.02, "grid": 0, "checkpoint": 0.05, "evaluate": 0}
    return Schedule.of_kimg(batch_size, **periods | changes)


def stops(schedule, images=0):
    """Images at which anything happens, found in the way of the loop."""
    found = []
    while not schedule.is_over(images):
        images += schedule.updates_to_stop(images) * schedule.batch_size
        found.append(images)
    return found


@pytest.mark.parametrize("batch_size", [1, 3, 8, 16, 30, 64, 100, 128])
def test_with_one_batch_size_periods_are_whole_updates(batch_size):
    schedule = of_kimg(batch_size)
    log, checkpoint = (max(1, round(n / batch_size)) for n in (20, 50))
    total = math.ceil(100 / batch_size)
    for update in range(1, total + 1):
        images = update * batch_size
        assert schedule.due(schedule.log, images) == (update % log == 0 or update == total)
        assert schedule.due(schedule.checkpoint, images) == (
            update % checkpoint == 0 or update == total
        )
        assert not schedule.due(schedule.grid, images)
        assert schedule.is_over(images) == (update == total)
        anything = update % log == 0 or update % checkpoint == 0 or update == total
        assert schedule.is_stop(images) == anything
        assert (images in stops(schedule)) == anything
    assert schedule.images_at_end(0) == total * batch_size
    assert schedule.updates_left(batch_size) == total - 1
    assert schedule.total == total


@pytest.mark.parametrize(("batch_size", "seen"), [(32, 16), (16, 40), (7, 33), (64, 99), (50, 1)])
def test_another_batch_size_goes_on_from_the_images_seen(batch_size, seen):
    schedule = of_kimg(batch_size)
    found = stops(schedule, seen)
    assert found[-1] == schedule.images_at_end(seen)
    assert 100 <= found[-1] < 100 + batch_size
    multiples = range(schedule.log, found[-1] + 1, schedule.log)
    met = [images for images in found if schedule.due(schedule.log, images)]
    # The update that meets or passes a multiple makes a line, and so does the last.
    passing = {
        seen + math.ceil((m - seen) / batch_size) * batch_size for m in multiples if m > seen
    }
    assert met == sorted(passing | {found[-1]})
    assert all(schedule.is_stop(images) for images in found)


def test_what_is_over_stays_over():
    schedule = of_kimg(16)
    assert all(map(schedule.is_over, (112, 1000)))
    assert (schedule.updates_left(1000), schedule.images_at_end(1000)) == (0, 1000)


@pytest.mark.parametrize(
    ("kimg", "images"), [(0.064, 64), (1.001, 1001), (204.8, 204800), (0.0001, 1), (4.35, 4350)]
)
def test_kimg_are_images(kimg, images):
    assert images_of_kimg(kimg) == images
