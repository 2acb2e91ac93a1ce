"""One run at a time in a work directory."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from diffjax.runs import ownership
from diffjax.runs.train import train
from tests.support import fault_config
from tests.support.processes import ROOT

OWNS = """
import sys, time
from pathlib import Path
from diffjax.runs import ownership
with ownership.owned(Path(sys.argv[1])):
    print("owns", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that owns the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNS, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "owns\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_refused_and_touches_nothing(other, tmp_path):
    before = (tmp_path / ownership.FILE).read_bytes()
    with (
        pytest.raises(ValueError, match=f"run that is under way, process {other.pid} on "),
        ownership.owned(tmp_path),
    ):
        pass
    assert (tmp_path / ownership.FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [ownership.FILE]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_owner_s_directory_is_taken_over(other, tmp_path, number):
    other.send_signal(number)
    other.wait()
    with ownership.owned(tmp_path):
        owner = json.loads((tmp_path / ownership.FILE).read_text())
        assert owner["process"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_other_processes_of_a_run_leave_it_to_the_first(other, tmp_path):
    with ownership.owned(tmp_path, is_writer=False):
        pass


@pytest.mark.parametrize(("silent", "is_alive"), [(5, True), (300, False)])
def test_an_owner_on_another_host(tmp_path, silent, is_alive):
    path = tmp_path / ownership.FILE
    path.write_text(json.dumps({"host": "elsewhere", "process": 7, "since": 0}))
    last = time.time() - silent
    os.utime(path, (last, last))
    if is_alive:
        with pytest.raises(ValueError, match="process 7 on elsewhere"), ownership.owned(tmp_path):
            pass
        assert abs(path.stat().st_mtime - last) < 1
    else:
        with ownership.owned(tmp_path):
            assert json.loads(path.read_text())["host"] == socket.gethostname()


def test_a_file_that_says_nothing(tmp_path):
    (tmp_path / ownership.FILE).write_text("cut o")
    with (
        ownership.owned(tmp_path),
        pytest.raises(ValueError, match="under way"),
        ownership.owned(tmp_path),
    ):
        pass


def test_an_owner_that_was_taken_over_ends(tmp_path):
    code = OWNS.replace("with ownership", "ownership.BEAT_SECONDS = 0.05\nwith ownership", 1)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "owns\n"
    (tmp_path / ownership.FILE).write_text(json.dumps({"host": "elsewhere", "process": 7}))
    _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "taken over by another run" in words


def test_a_second_run_is_refused_before_it_touches_anything(other, tmp_path):
    with pytest.raises(ValueError, match=r"belongs to a run that is under way"):
        train(fault_config.get_config("sid"), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [ownership.FILE]
    assert other.poll() is None
