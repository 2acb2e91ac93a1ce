"""Signs of collapse, in numbers made by hand."""

import json

import numpy as np
import pytest

from diffjax.training.collapse import CollapseWatch

SUSPECTS = {"alpha": 1.2, "generator.learning_rate": 1e-5, "init_sigma": 2.5}


def pictures(spread, seed=0):
    """Uint8 images whose values differ from one to the next by about `spread`."""
    values = 128 + spread * np.random.RandomState(seed).standard_normal((16, 4, 4, 3))
    return values.clip(0, 255).astype(np.uint8)


def told(watch, values):
    """The indices of the values of |Δ| that were warned of."""
    return [i for i, value in enumerate(values) if watch.look_at_delta(value)]


def test_equal_samples_are_told_once_each_time():
    watch = CollapseWatch(SUSPECTS, {})
    spreads = [40, 30, 10, 0, 0, 40, 2, 0]
    warnings = [watch.look_at_grid(pictures(spread)) for spread in spreads]
    assert [i for i, warning in enumerate(warnings) if warning] == [3, 6]
    assert "the samples are all but equal: their variance over the grid is 0, and" in warnings[3]
    assert (
        "may be collapsing. Likely causes: alpha=1.2, generator.learning_rate=1e-05, "
        in (warnings[3])
    )
    assert "init_sigma=2.5" in warnings[3]


def test_images_that_are_alike_in_themselves_are_no_collapse():
    """Variance is taken over images: equal pictures of high contrast collapse, flat ones don't."""
    flat = np.repeat(np.arange(0, 160, 10, dtype=np.uint8), 48).reshape(16, 4, 4, 3)
    one = np.broadcast_to(pictures(60)[:1], (16, 4, 4, 3))
    watch = CollapseWatch(SUSPECTS, {})
    assert watch.look_at_grid(flat) is None
    assert watch.look_at_grid(flat) is None
    assert watch.look_at_grid(one) is not None


def test_delta_is_compared_with_its_running_median():
    # Five lines are needed; within three times the median is no explosion.
    assert told(CollapseWatch(SUSPECTS, {}), [1, 1, 1, 1, 100]) == []
    assert told(CollapseWatch(SUSPECTS, {}), [1, 2, 3, 2, 1, 5.9, 6.1, 5]) == [6]
    # An explosion that lasts is told once and never becomes what is usual.
    values = [1.0] * 10 + [50.0] * 200 + [1.0] + [50.0]
    assert told(CollapseWatch(SUSPECTS, {}), values) == [10, 211]
    # A slow growth is followed.
    assert told(CollapseWatch(SUSPECTS, {}), 1.02 ** np.arange(400)) == []


def test_the_warning_names_both_numbers():
    watch = CollapseWatch(SUSPECTS, {})
    told(watch, [0.5] * 5)
    warning = watch.look_at_delta(20.0)
    assert warning.startswith("warning: |Δ| between teacher and fake score is 20, its running ")
    assert "median 0.5; " in warning
    assert "\n" not in warning


@pytest.mark.parametrize("cut", [0, 1, 5, 7, 8, 12])
def test_a_resumed_run_warns_as_one_that_never_stopped(cut):
    deltas = [1.0] * 7 + [50.0] * 3 + [1.0, 60.0, 60.0]
    grids = [pictures(40), *[pictures(0)] * 11, pictures(40)]

    def warnings(watch, part):
        return [
            (watch.look_at_delta(deltas[i]), watch.look_at_grid(grids[i])) for i in range(13)[part]
        ]

    undisturbed = warnings(CollapseWatch(SUSPECTS, {}), slice(None))
    assert sum(delta is not None for delta, _ in undisturbed) == 2
    assert sum(grid is not None for _, grid in undisturbed) == 1
    watch = CollapseWatch(SUSPECTS, {})
    before = warnings(watch, slice(cut))
    meta = json.loads(json.dumps(watch.meta()))
    assert before + warnings(CollapseWatch(SUSPECTS, meta), slice(cut, None)) == undisturbed
