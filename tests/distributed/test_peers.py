"""Signs of life, among processes that are played by threads of this one."""

import json
import threading
import time

import jax
import pytest

from diffjax.distributed.peers import Peers
from tests.support.processes import PATIENCE

SILENT = 0.5


class Store:
    """JAX's key-value store, which may stop answering, as it does when its process is stopped."""

    def __init__(self):
        self.values = {}
        self.answers = threading.Event()
        self.answers.set()

    def key_value_set(self, key, value, allow_overwrite=False):
        self.answers.wait()
        assert allow_overwrite
        self.values[key] = value

    def key_value_dir_get(self, key):
        self.answers.wait()
        return [item for item in self.values.items() if item[0].startswith(key)]


class Process:
    """What one process would do, and the reason that it ended for, if it did."""

    def __init__(self, store, index, count):
        self.ended = threading.Event()
        self.reason = ""
        self.peers = Peers(
            silent_seconds=SILENT, store=store, index=index, count=count, end=self._end
        )

    def _end(self, reason):
        self.reason = reason
        self.ended.set()


@pytest.fixture
def start():
    opened = []

    def enter(store, count):
        processes = [Process(store, index, count) for index in range(count)]
        for process in processes:
            process.peers.__enter__()
        opened.extend(processes)
        return processes

    yield enter
    for process in opened:
        process.peers._stop.set()


@pytest.fixture
def never_leave(monkeypatch):
    """At its exit a process that failed leaves at once; not the one that runs the tests."""
    monkeypatch.setattr("atexit.register", lambda function: None)


def test_a_process_that_dies_is_named_by_the_others_within_the_bound(start):
    alive, dead, also_alive = start(Store(), 3)
    time.sleep(2 * SILENT)
    assert not alive.ended.is_set()
    dead.peers._stop.set()
    stopped = time.monotonic()
    assert alive.ended.wait(PATIENCE)
    assert also_alive.ended.wait(PATIENCE)
    # A little more than SILENT on an idle machine.
    assert SILENT / 2 < time.monotonic() - stopped < 6 * SILENT
    for process in (alive, also_alive):
        assert process.reason.startswith("process 1 of 3 (")
        assert "pid" in process.reason
        assert "hasn't been heard of" in process.reason


def test_a_process_that_never_reports_is_named(start):
    alive = Process(Store(), 0, 2)
    with alive.peers:
        assert alive.ended.wait(PATIENCE)
    assert alive.reason.startswith("process 1 of 2 (which never reported)")


def test_when_the_store_stops_answering_it_is_process_0_that_is_named(start):
    store = Store()
    _, other = start(store, 2)
    time.sleep(SILENT)
    store.answers.clear()
    assert other.ended.wait(PATIENCE)
    store.answers.set()
    assert other.reason.startswith("process 0 of 2 (")


def test_a_process_that_fails_says_why_to_the_others(start, never_leave):
    alive, failing = start(Store(), 2)
    error = ValueError("no such\n file")
    failing.peers.__exit__(ValueError, error, None)
    assert alive.ended.wait(PATIENCE)
    assert "process 1 of 2" in alive.reason
    assert "failed: ValueError: no such file." in alive.reason
    assert not failing.ended.is_set()
    alive, failing = start(Store(), 2)
    failing.peers.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert alive.ended.wait(PATIENCE)
    assert alive.peers._code == failing.peers._code == 130


@pytest.mark.parametrize(
    "error", [jax.errors.JaxRuntimeError("gloo"), ValueError("UNKNOWN: Gloo AllGather failed")]
)
def test_an_error_of_a_collective_waits_for_who_caused_it(start, never_leave, error):
    alive, dead = start(Store(), 2)
    time.sleep(SILENT)
    dead.peers._stop.set()
    alive.peers.__exit__(type(error), error, None)
    assert "process 1 of 2" in alive.reason


def test_a_process_that_is_done_is_not_missed(start):
    alive, done = start(Store(), 2)
    done.peers.__exit__(None, None, None)
    time.sleep(3 * SILENT)
    assert not alive.ended.is_set()


def test_a_process_that_was_stopped_itself_blames_nobody(start):
    alive, _ = start(Store(), 2)
    time.sleep(SILENT)
    long_ago = time.monotonic() - 100
    with alive.peers._lock:
        alive.peers._judged_at = alive.peers._exchanged_at = long_ago
        alive.peers._heard_at = {0: long_ago, 1: long_ago}
    time.sleep(SILENT)
    assert not alive.ended.is_set()


def test_who_is_behind(start):
    first, second, third = start(Store(), 3)
    first.peers.step, second.peers.step, third.peers.step = 7, 6, 7
    time.sleep(SILENT)
    assert "; behind are process 1 of 3 (" in first.peers.behind()
    assert first.peers.behind().endswith("at update 6")
    assert second.peers.behind() == ""


def test_what_is_exchanged_is_small(start):
    store = Store()
    start(store, 2)
    time.sleep(SILENT)
    assert sorted(store.values) == ["diffjax/peers/0", "diffjax/peers/1"]
    assert json.loads(store.values["diffjax/peers/1"])["state"] == "lives"
    assert all(len(value) < 1000 for value in store.values.values())


def test_a_process_by_itself_does_nothing():
    with Peers(silent_seconds=0.1) as peers:
        assert peers._threads == []
        assert peers.behind() == ""
