"""SIGTERM in the middle of a run, from outside, and going on after it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from diffjax import preemption
from tests.test_train import ROOT

SCRIPT = """
import sys
from tests.test_train import miniature
from diffjax.train import train
train(miniature("sid_digits", updates=int(sys.argv[2])), sys.argv[1])
print("ended in good order")
"""


def start(workdir, updates):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(workdir), str(updates)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_run_that_is_told_to_stop_goes_on_as_if_it_never_had(tmp_path):
    stopped = start(tmp_path / "stopped", 60)
    deadline = time.monotonic() + 300
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert stopped.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    output, _ = stopped.communicate(timeout=120)
    assert stopped.returncode == 0
    assert "told to stop: saved update" in output
    assert "ended in good order" in output
    done = metrics.read_text().count("\n")
    assert 3 <= done < 60

    total = done + 1
    for workdir in ("stopped", "undisturbed"):
        assert start(tmp_path / workdir, total).wait(timeout=300) == 0
    assert metrics.read_bytes() == (tmp_path / "undisturbed" / "metrics.jsonl").read_bytes()


def test_the_signal_is_noticed_and_the_handler_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.Preemption() as stop:
        assert not stop.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested()
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_inside_puts_the_handler_back_too():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="inside"), preemption.Preemption():
        raise RuntimeError("inside")
    assert signal.getsignal(signal.SIGTERM) == before
