"""A run that is killed, or told to stop, at any moment, and goes on as if it never had been.

The whole series: `python -m pytest tests/faults -m "slow or not slow"`. The second kill and the
second stop passed on 2026-11-30, in 32 and 29 s beside other tests.
"""

import random
import signal
import time

import pytest

from tests.support import fault_config
from tests.support.processes import PATIENCE
from tests.support.running import Process, assert_same_runs, names, run_here

KILLS, KILLS_IN_ALL = 1, 20
STOPS, STOPS_IN_ALL = 1, 10
LONGER = "--config.duration_kimg=100"  # never at its end when it is disturbed


def moments(seed, some, in_all):
    """Updates done, seconds after them, and the kind of run; after a few, they are slow."""
    draw = random.Random(seed)
    drawn = [(draw.randrange(6), round(draw.uniform(0, 0.25), 3)) for _ in range(in_all)]
    return [
        pytest.param(
            *moment,
            "sid" if number % 4 == 3 else "teacher",
            marks=[pytest.mark.slow] if number >= some else [],
        )
        for number, moment in enumerate(drawn)
    ]


@pytest.mark.parametrize(("updates", "seconds", "kind"), moments("kill", KILLS, KILLS_IN_ALL))
def test_kill(tmp_path, undisturbed, updates, seconds, kind):
    process = Process(tmp_path, kind, LONGER)
    process.wait_for_updates(updates)
    time.sleep(seconds)
    process.signal(signal.SIGKILL)
    assert process.end() == -signal.SIGKILL
    print("left by the kill:", names(tmp_path / "checkpoints"))
    run_here(tmp_path, kind)
    assert_same_runs(tmp_path, undisturbed(kind), kind)


@pytest.mark.parametrize(("updates", "seconds", "kind"), moments("stop", STOPS, STOPS_IN_ALL))
def test_sigterm(tmp_path, undisturbed, updates, seconds, kind):
    process = Process(tmp_path, kind, LONGER)
    process.wait_for_updates(updates)
    time.sleep(seconds)
    process.signal(signal.SIGTERM)
    assert process.end() == 0
    (line,) = [line for line in process.lines if "told to stop" in line]
    print(line)
    assert "the same command goes on" in line
    if "before the first update" in line:  # which may still be compiled
        assert updates == 0
        assert names(tmp_path / "checkpoints") == []
    else:
        saved = int(line.split("saved update ")[1].split(";")[0])
        assert 1 <= saved < fault_config.UPDATES
        assert (tmp_path / "checkpoints" / str(saved)).is_dir()
    run_here(tmp_path, kind)
    assert_same_runs(tmp_path, undisturbed(kind), kind)


INTERRUPTIBLE = """
import signal, sys
from diffjax import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in background
sys.argv[0] = "main"
main.cli()
"""


def test_ctrl_c_saves(tmp_path, undisturbed):
    process = Process(tmp_path, "teacher", LONGER, program=["-c", INTERRUPTIBLE])
    process.wait_for_updates(2)
    process.signal(signal.SIGINT)
    assert process.end() == 128 + signal.SIGINT
    (line,) = [line for line in process.lines if "told to stop" in line]
    saved = int(line.split("saved update ")[1].split(";")[0])
    assert (tmp_path / "checkpoints" / str(saved)).is_dir()
    assert process.lines[-1] == "interrupted: the same command resumes"
    run_here(tmp_path)
    assert_same_runs(tmp_path, undisturbed())


# A compiler that takes longer than the test would wait for it.
ENDLESS = f"""
import signal, sys, time
from diffjax import main
from diffjax.training import compilation
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in background
class Endless:
    def lower(self, *arguments):
        time.sleep({2 * PATIENCE})
compilation.compile_updates = lambda *arguments: Endless()
sys.argv[0] = "main"
main.cli()
"""


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGTERM, 0, "told to stop before the first update; the same command goes on"),
        (signal.SIGINT, 130, "interrupted: the same command resumes"),
    ],
)
def test_while_the_update_is_compiled(tmp_path, undisturbed, number, code, line):
    process = Process(tmp_path, "teacher", program=["-c", ENDLESS])
    process.wait_for("compiling")
    process.signal(number)
    assert process.end() == code
    assert process.lines[-1] == line
    run_here(tmp_path)
    assert_same_runs(tmp_path, undisturbed())


UNREADABLE = """
from diffjax.training import dataset
def load(source):
    raise OSError("the digits can't be read")
dataset.load = load
"""


def test_an_error_does_not_wait_for_the_compiler(tmp_path):
    process = Process(tmp_path, "teacher", program=["-c", UNREADABLE + ENDLESS])
    assert process.end() == 1
    assert process.lines[-1] == "error: the digits can't be read"


def test_sigterm_at_the_last_update_and_before_the_first(tmp_path, undisturbed, monkeypatch):
    """Where nothing was made yet, and where only the end is missing."""
    from diffjax.distributed import preemption

    for question in (1, fault_config.UPDATES + 1):

        def requested(self, question=question):
            self._questions += 1
            return self._questions == question

        with monkeypatch.context() as patch:
            patch.setattr(preemption.Preemption, "requested", requested)
            run_here(tmp_path)
        assert not (tmp_path / "network").exists()
    assert (tmp_path / "checkpoints" / str(fault_config.UPDATES)).exists()
    run_here(tmp_path)
    assert (tmp_path / "network").exists()
    assert_same_runs(tmp_path, undisturbed())
