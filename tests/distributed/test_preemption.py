"""SIGTERM's handler; what it does to runs is in `faults/test_signals.py`."""

import os
import signal
import subprocess
import sys
import time

import pytest

from diffjax.distributed import preemption
from tests.support.processes import PATIENCE, ROOT

SECOND_SIGNAL = """
import hashlib, os, signal
from diffjax.distributed import preemption
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in background
with preemption.Preemption():
    print("ready", flush=True)
    # As a compilation does, this lets no handler of Python's run for a minute.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, preemption.EXIT_CODE_AT_ONCE),
        (signal.SIGINT, preemption.INTERRUPTED),
    ],
)
def test_a_second_signal_ends_at_once_whatever_goes_on(number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", SECOND_SIGNAL], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)  # until what lets no handler run has begun
    process.send_signal(number)
    time.sleep(0.5)
    process.send_signal(number)  # an echo of the first
    time.sleep(preemption.ECHO_SECONDS)
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=PATIENCE) == code


FINISHES = """
import time
from diffjax.distributed import preemption
with preemption.Preemption() as stop:
    print("ready", flush=True)
    while not stop.requested():
        time.sleep(0.01)
    time.sleep(0.5)  # saving
    print("saved", flush=True)
"""


def test_timeout_signals_twice_and_the_run_saves_all_the_same():
    for seconds in ("8", "32", "128"):  # longer where the machine took all of it to get ready
        command = ["timeout", "--signal=TERM", seconds, sys.executable, "-c", FINISHES]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
        if done.stdout:
            break
    assert done.stdout == "ready\nsaved\n", done.stderr


def test_the_signal_is_noticed_and_the_handler_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.Preemption() as stop:
        assert not stop.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested()
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_an_error_inside_puts_the_handler_back_too():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="inside"), preemption.Preemption():
        raise RuntimeError("inside")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_terminal_that_closes_is_a_sigterm():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where tests run in background
    try:
        with preemption.Preemption() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            deadline = time.monotonic() + 10
            while not stop.requested() and time.monotonic() < deadline:
                time.sleep(0.01)
            assert stop.requested()
    finally:
        assert signal.signal(signal.SIGHUP, before) == signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_is_ignored_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with preemption.Preemption() as stop:
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            assert not stop.requested()
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal, since shells have it ignored for what runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) == signal.default_int_handler


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def within(work):
    """What `work` does with a context, and how that ends."""
    with preemption.Preemption() as stop:
        work(stop)


def test_ctrl_c_is_answered_before_it_ends_the_context(interruptible, capfd):
    told = []

    def work(stop):
        told.append(stop.requested())
        interrupt()
        interrupt()  # too soon to be meant
        told.append(stop.requested())

    with pytest.raises(KeyboardInterrupt):
        within(work)
    assert told == [False, True]
    assert capfd.readouterr().err.count("interrupted: saving after this update") == 1


def test_ctrl_c_where_nothing_is_there_to_be_saved_or_all_is_done(interruptible):
    reached = []
    with pytest.raises(KeyboardInterrupt):
        within(lambda stop: (interrupt(), reached.append(stop)))
    assert not reached
    within(lambda stop: (stop.requested(), interrupt(), reached.append(stop)))
    assert reached  # nobody asks any more


def test_an_error_is_worse_news_than_ctrl_c(interruptible):
    def work(stop):
        stop.requested()
        interrupt()
        assert stop.requested()
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        within(work)
