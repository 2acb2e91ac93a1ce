"""The compiled call, around an update that is all counters: what is skipped, and where it halts."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.distributed import sharding
from diffjax.methods import Method
from diffjax.methods.draws import Batch
from diffjax.training import compilation, guard
from diffjax.training.metric_sums import RunningMeans

LIMIT = 3
NAN = float("nan")
INPUTS = {"teacher": np.zeros(2, np.float32)}


@flax.struct.dataclass
class State:
    step: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array
    value: jax.Array


class Nothing(Method):
    """A method without networks, that draws nothing."""

    def draw(self, key, data=None):
        return {}


@dataclasses.dataclass(frozen=True)
class Counting:
    """An update that adds one; at bad steps its loss is NaN, else the step."""

    bad_steps: tuple[int, ...]
    max_skipped_in_a_row: int = LIMIT
    method: Method = dataclasses.field(
        default_factory=lambda: Nothing(networks={}, batch=Batch((), 1))
    )

    def init_state(self):
        return State(*(jnp.zeros((), jnp.int32) for _ in range(3)), value=jnp.zeros(2))

    def abstract_state(self):
        return jax.eval_shape(self.init_state)

    def __call__(self, state, inputs, draws) -> tuple[Any, dict[str, jax.Array]]:
        is_bad = (state.step == jnp.asarray((*self.bad_steps, -1))).any()
        after = state.replace(value=state.value + 1 + 0 * inputs["teacher"])
        metrics = {"loss": jnp.where(is_bad, NAN, state.step), "norm": jnp.float32(2)}
        limit = self.max_skipped_in_a_row
        finite = guard.all_finite(metrics)
        settled = guard.settle(state, after, finite, max_skipped_in_a_row=limit)
        return settled, {**metrics, "skipped": is_bad.astype(jnp.float32)}


def run(bad_steps, counts, updates_per_call):
    update, mesh = Counting(bad_steps), sharding.make_mesh(data=1)
    call = compilation.compile_updates(update, update.abstract_state(), mesh, updates_per_call)
    state, totals, means = update.init_state(), [], RunningMeans({})
    for count in counts:
        state, latest = call(state, INPUTS, jax.random.key(0), count)
        totals.append(jax.device_get(latest))
        means.add(latest)
        means = RunningMeans(means.meta())  # as through a checkpoint
    return jax.device_get(state), totals, means


@pytest.mark.parametrize(
    ("bad_steps", "counters", "loss"),
    [
        ((), (12, 0, 0), 66),
        ((4,), (12, 1, 0), 62),
        ((2, 3, 8, 11), (12, 4, 1), 66 - 24),
        # Halts after step 7, in the middle of a call of six, whatever would come after it.
        ((1, 5, 6, 7, 9), (8, 4, 3), 0 + 2 + 3 + 4),
    ],
)
def test_calls_of_any_length_come_to_the_same(bad_steps, counters, loss):
    for updates_per_call, counts in ((1, [1] * 12), (6, [6, 6]), (6, [5, 1, 4, 2]), (16, [12])):
        state, totals, means = run(bad_steps, counts, updates_per_call)
        assert (state.step, state.skipped, state.skipped_in_a_row) == counters
        kept = counters[0] - counters[1]
        np.testing.assert_array_equal(state.value, [kept, kept])
        assert sum(int(each.kept) for each in totals) == kept
        assert sum(int(each.skipped) for each in totals) == counters[1]
        assert sum(int(each.not_finite["loss"]) for each in totals) == counters[1]
        assert sum(int(each.not_finite["norm"]) for each in totals) == 0
        done = [step for step in bad_steps if step < counters[0]]
        assert max(int(each.last_skipped) for each in totals) == max(done, default=-1)
        assert totals[-1].skipped_in_a_row == counters[2]
        assert means.take() == {"loss": loss / kept, "norm": 2.0, "skipped": counters[1]}


def test_where_all_are_skipped_there_is_no_mean():
    _, totals, means = run((0, 1), [2], 2)
    assert (totals[0].last_skipped, totals[0].skipped_in_a_row) == (1, 2)
    assert means.take() == {"skipped": 2}
    assert means.take() == {"skipped": 0}


def test_a_halted_state_can_go_on():
    update, mesh = Counting((0, 1, 2)), sharding.make_mesh(data=1)
    call = compilation.compile_updates(update, update.abstract_state(), mesh, 1)
    state, key = update.init_state(), jax.random.key(0)
    for _ in range(5):
        state, _ = call(state, INPUTS, key, 1)
    assert guard.halted(state, LIMIT)
    assert (int(state.step), int(state.value[0])) == (3, 0)
    state, totals = call(guard.resume(state), INPUTS, key, 1)
    assert not guard.halted(state, LIMIT)
    assert (int(state.step), int(state.value[0]), int(totals.kept)) == (4, 1, 1)
