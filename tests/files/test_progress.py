"""Words on terminals and pipes that can't show them, or aren't there."""

import io
import pathlib
import socket
import subprocess
import sys

from diffjax.files import progress
from tests.support.processes import ROOT

GONE = """
import sys
from diffjax.files import progress
line = progress.ProgressLine(10.0, stream=sys.stdout, interval=0)
for i in range(20_000):
    line.update(i, i / 2000, {"loss": 1.0})
progress.say("written to a file")
open(sys.argv[1], "w").write("done")
"""


def test_a_pipe_that_nobody_reads_ends_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", GONE, str(tmp_path / "end")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0, process.stderr.read()
    assert (tmp_path / "end").read_text() == "done"
    assert process.stderr.read() == ""


def test_characters_that_a_terminal_does_not_know(capsys):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    progress.write("|Δ| 1 ± 2\n", stream)
    assert stream.buffer.getvalue() == b"|?| 1 ? 2\n"


def test_a_stream_that_is_closed():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    stream.close()
    progress.write("nobody", stream)


def test_a_link_is_for_terminals_that_may_know_it(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    path, host = pathlib.Path("/runs/a b/é%.png"), socket.gethostname()
    url = f"file://{host}/runs/a%20b/%C3%A9%25.png"
    assert progress.link(path, terminal) == f"\x1b]8;;{url}\x1b\\{path}\x1b]8;;\x1b\\"
    assert progress.link(path, io.StringIO()) == str(path)
    monkeypatch.setenv("TERM", "dumb")
    assert progress.link(path, terminal) == str(path)


def test_leave_interrupted():
    code = "from diffjax.files import progress; print('all', end=''); progress.leave_interrupted()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "all", "\ninterrupted\n")
