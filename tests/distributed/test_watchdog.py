"""The watchdog on a clock that is set by hand, and once on a process that really hangs."""

import subprocess
import sys
import time

import pytest

from diffjax.distributed.peers import Peers
from diffjax.distributed.watchdog import Watchdog
from tests.support.processes import PATIENCE


class Case:
    """A watchdog whose thread isn't started: `check` is called by hand."""

    def __init__(self, **settings):
        self.now = 0.0
        self.lines, self.ends = [], []
        self.dog = Watchdog(
            **{"slow_factor": 10.0, "slow_seconds": 3.0, "hang_seconds": 100.0, **settings},
            peers=Peers(silent_seconds=1.0),
            report=self.lines.append,
            end=self.ends.append,
            clock=lambda: self.now,
        )
        self.step = 0

    def update(self, seconds, count=1):
        self.now += seconds
        self.step += count
        self.dog.done(self.step)

    def wait(self, seconds):
        self.now += seconds
        self.dog.check()


@pytest.fixture
def trained():
    case = Case()
    case.update(50.0)  # compiles, which isn't timed
    for _ in range(20):
        case.update(1.0)
    return case


def test_an_update_much_longer_than_the_median_is_reported_once_and_its_end_too(trained):
    trained.wait(9.0)
    assert trained.lines == []
    trained.wait(2.0)
    trained.wait(2.0)
    assert trained.lines == ["update 22 has taken 11.0 s so far; the median is 1 s an update"]
    trained.update(5.0)
    assert trained.lines[1:] == ["update 22 came after 18 s"]
    trained.update(1.0)
    trained.wait(11.0)
    assert len(trained.lines) == 3
    assert trained.ends == []


def test_a_call_of_many_updates_may_take_as_long_as_they_do():
    case = Case()
    for _ in range(10):
        case.update(10.0, count=10)
    case.wait(99.0)
    assert case.lines == []
    case.wait(2.0)
    assert case.lines == ["update 101 has taken 101.0 s so far; the median is 1 s an update"]


def test_short_updates_are_reported_only_if_they_take_seconds():
    case = Case()
    for _ in range(20):
        case.update(0.01)
    case.wait(2.9)
    assert case.lines == []
    case.wait(0.2)
    assert len(case.lines) == 1


def test_pauses_are_no_updates_but_may_hang_too(trained):
    with trained.dog.paused():
        trained.wait(90.0)
    trained.wait(9.0)
    assert trained.lines == []
    assert trained.ends == []
    with trained.dog.paused():
        trained.wait(101.0)
    assert trained.lines == []
    (reason,) = trained.ends
    assert reason.startswith("nothing was done for 101 s since update 21. The same command")


def test_the_limit_holds_from_the_start_and_ends_once():
    case = Case()
    case.wait(99.0)
    assert case.ends == []
    case.wait(2.0)
    case.wait(2.0)
    assert len(case.ends) == 1


def test_both_can_be_switched_off():
    case = Case(slow_factor=0.0, hang_seconds=0.0)
    for _ in range(20):
        case.update(1.0)
    case.wait(1e6)
    assert (case.lines, case.ends) == ([], [])


def test_after_the_last_update_none_is_awaited(trained):
    trained.now += 1.0
    trained.dog.done(22, awaited=0)
    trained.wait(90.0)
    assert trained.lines == []
    trained.wait(11.0)
    (reason,) = trained.ends
    assert reason.startswith("nothing was done for 101 s since update 22. The same command")


def test_a_call_of_many_updates_after_a_call_of_one_may_take_as_long_as_they_do(trained):
    trained.now += 1.0
    trained.dog.done(22, awaited=16)
    trained.wait(99.0)
    assert trained.lines == []
    trained.now += 1.0
    trained.dog.done(38, awaited=1)
    # That one returns once the sixteen before it are done.
    trained.wait(99.0)
    assert trained.lines == []


def test_a_call_that_waits_for_the_call_before_too_is_not_slow():
    """Where every second call catches up with the device, half of the calls take no time."""
    case = Case()
    case.update(50.0)  # compiles
    for _ in range(7):
        case.update(0.0)
        case.wait(12.0)
        case.update(0.0)
    case.update(0.0)
    case.wait(12.0)
    assert case.lines == []


def test_other_work_is_named_and_compared_with_its_own_kind(trained):
    def save(seconds):
        with trained.dog.paused(), trained.dog.paused("saving"):
            trained.wait(seconds)

    for _ in range(5):
        save(5.0)
    save(49.0)
    assert trained.lines == []
    save(51.0)
    assert trained.lines == [
        "saving after update 21 has taken 51.0 s so far; the median is 5 s",
    ]
    trained.wait(9.0)
    assert len(trained.lines) == 1  # the update has only begun
    trained.wait(2.0)
    assert trained.lines[1].startswith("update 22 has taken 11.0 s")
    with trained.dog.paused("evaluating"), trained.dog.paused():  # still that
        trained.wait(60.0)
        trained.wait(41.0)
    (reason,) = trained.ends
    assert reason.startswith(
        "nothing was done for 101 s since update 21, while evaluating. The same command"
    )


def test_before_the_first_update_it_says_so():
    case = Case()
    case.wait(101.0)
    (reason,) = case.ends
    assert "since the start, while compiling or in the first update. The same" in reason


def test_time_in_which_this_process_was_stopped_is_left_out(trained):
    """As by SIGSTOP, a debugger, or a machine that sleeps: the clock leaps."""
    with trained.dog:
        for _ in range(3):
            trained.now += 1000.0
            time.sleep(0.7)  # more than two ticks of the watching thread
    assert (trained.lines, trained.ends) == ([], [])


HANGS = """
import subprocess, sys, threading, time
from diffjax.distributed.peers import Peers
from diffjax.distributed.watchdog import Watchdog
child = subprocess.Popen(["sleep", "600"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
threading.Thread(target=time.sleep, args=(600,)).start()  # a loader that nobody ends
peers = Peers(silent_seconds=1.0)
limits = {"slow_factor": 2.0, "slow_seconds": 0.1, "hang_seconds": 3.0}
with Watchdog(**limits, peers=peers, report=print) as dog:
    for step in range(1, 8):
        time.sleep(0.02)
        dog.done(step)
    time.sleep(600)
"""


def test_a_process_that_hangs_ends_whatever_its_threads_do():
    result = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert result.returncode == 1
    assert "update 8 has taken" in result.stdout
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: nothing was done for 3 s since update 7.")
    assert "most recent call first" in result.stderr  # where it hung
