"""Writers on disks that are full or forbidden: one line that names the file, and nothing left."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffjax.evaluation import image_statistics, sampling
from diffjax.files import images, writing
from diffjax.metrics import Moments
from diffjax.models import network_folder
from diffjax.runs import tensorboard

ROOT = Path(__file__).parents[2]
PICTURES = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
MOMENTS = Moments.empty(64).update(np.random.default_rng(0).normal(size=(99, 64)))
KWARGS = {"class_name": "EDMPrecond"}
PARAMS = {"w": np.random.default_rng(0).normal(size=(64, 64))}
# Each writes some ten kilobytes or more.
WRITERS = {
    "text.json": lambda path: writing.write_text(path, "x" * 20_000),
    "picture.png": lambda path: images.save_png(path, PICTURES[0]),
    "statistics.npz": lambda path: image_statistics.save(path, MOMENTS, features_name="pixels"),
    "samples.npz": lambda path: sampling.write_npz(path, iter([(PICTURES, np.arange(4))]), 4),
    "network": lambda path: network_folder.save_denoiser(path, KWARGS, PARAMS),
}
EACH = pytest.mark.parametrize("name", WRITERS)


def refused(path, write, words=""):
    """Writes what can't be written, and returns the line that says so."""
    with pytest.raises(OSError, match=words) as caught:
        write(path)
    text = str(caught.value)
    assert text.startswith(f"{path} c")
    assert "\n" not in text
    assert "[Errno" not in text
    return text


@EACH
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_an_error_of_the_system_names_the_file(name, number, tmp_path, monkeypatch):
    path = tmp_path / "results" / name
    real = os.replace

    def fail(source, target, **kwargs):
        if str(target) == str(path):
            raise OSError(number, os.strerror(number))
        return real(source, target, **kwargs)

    monkeypatch.setattr(os, "replace", fail)
    text = refused(path, WRITERS[name], os.strerror(number))
    assert ("freeing space" in text) == (
        number in (errno.ENOSPC, errno.EDQUOT) or name == "network"
    )
    assert list(path.parent.iterdir()) == []
    monkeypatch.undo()
    WRITERS[name](path)
    assert list(path.parent.iterdir()) == [path]


def test_writes_that_end_half_way_leave_nothing(tmp_path):
    """One process for all of them, whose files may have 9,000 bytes."""
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from tests.files.test_writing import WRITERS, refused\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))\n"
        "for name, write in WRITERS.items():\n"
        "    refused(Path(sys.argv[1]) / name, write, 'File too large')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []


@EACH
def test_places_that_cannot_be(name, tmp_path):
    (tmp_path / "file").write_text("precious")
    refused(tmp_path / "file" / name, WRITERS[name], "File exists|Not a directory")
    refused(tmp_path / ("x" * 300) / name, WRITERS[name], "File name too long")
    folder = tmp_path / "folder.npz"
    (folder / "x").mkdir(parents=True)
    if name != "network":  # which says that it isn't empty
        refused(folder, WRITERS[name], "Is a directory.*name another path")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.npz"]


@EACH
def test_long_names_that_may_be(name, tmp_path):
    path = tmp_path / f"{'n' * 240}{Path(name).suffix}"
    WRITERS[name](path)
    assert list(tmp_path.iterdir()) == [path]


@EACH
def test_what_killed_processes_left_goes(name, tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    path = tmp_path / name
    here = f".{name}.partial-{socket.gethostname()}"
    (tmp_path / f"{here}-{dead.pid}.7").write_bytes(b"part")
    (tmp_path / f"{here}-{dead.pid}.8").mkdir()
    old = tmp_path / f".{name}.partial-elsewhere-1.1"
    old.write_bytes(b"part")
    os.utime(old, (0, 0))
    others = [
        tmp_path / f"{here}-{os.getppid()}.1",  # which lives
        tmp_path / f".{name}.partial-elsewhere-2.1",
        tmp_path / f".other.partial-{socket.gethostname()}-{dead.pid}.7",
    ]
    for other in others:
        other.write_bytes(b"part")
    WRITERS[name](path)
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_what_is_checked_before_the_work(tmp_path):
    writing.check_writable(tmp_path / "a" / "b.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"b\.npz can't be written \(.*a part of its path is a file"):
        writing.check_writable(tmp_path / "file" / "b.npz")
    with pytest.raises(OSError, match=r"can't be written \(File name too long\): name a shorter"):
        writing.check_writable(tmp_path / ("x" * 300))


def test_statistics_and_event_files_say_so_before_anything_is_computed(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "x.npz"
    arguments = ["--data=digits", "--features=pixels", f"--output={output}"]
    assert image_statistics.main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {output} can't be written (")
    assert "looking through" not in captured.err
    with pytest.raises(OSError, match=r"tfevents\S+ can't be written \("):
        tensorboard.EventWriter(tmp_path / "file", purge_step=0)


def test_errors_of_other_things_pass(tmp_path):
    """What is raised while a file is written needn't be of writing it."""

    def produced():
        raise ValueError("no samples: they hold NaN")
        yield

    with pytest.raises(ValueError, match="they hold NaN"):
        sampling.write_npz(tmp_path / "x.npz", produced(), 1)
    assert list(tmp_path.iterdir()) == []
    said = OSError("said already")
    with pytest.raises(OSError, match=r"^said already$"), writing.explained("x"):
        raise said


def test_a_work_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file can't be written to \(it is a file\): name another"):
        writing.make_writable(tmp_path / "file")
