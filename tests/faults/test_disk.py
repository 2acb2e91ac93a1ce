"""A full disk, writes that fail, and a work directory that can't be written to."""

import contextlib
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import pytest

from diffjax.files import orbax_support, writing
from diffjax.training import checkpointing
from tests.runs.test_train import ROOT
from tests.support import fault_config
from tests.support.processes import PATIENCE
from tests.support.running import Process, assert_same_runs, run_here


@contextlib.contextmanager
def small_disk(folder, megabytes, options=""):
    """A file system of so many megabytes, where mounting is allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m{options}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root's rights")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Disk:
    """Stands in for the space check: fails so many times."""

    def __init__(self, failures):
        self.failures = failures

    def __call__(self, directory, state):
        if self.failures:
            self.failures -= 1
            raise OSError("the disk is full")


def test_a_failed_save_is_told_and_the_next_one_stands_in(
    tmp_path, undisturbed, monkeypatch, capsys
):
    disk = Disk(failures=1)
    monkeypatch.setattr(checkpointing, "_check_space", disk)
    run_here(tmp_path)
    output = capsys.readouterr().out
    assert output.count("WARNING") == 1
    assert "the checkpoint of update 1 couldn't be written (the disk is full)" in output
    assert_same_runs(tmp_path, undisturbed())


def test_two_failed_saves_in_a_row_end_the_run(tmp_path, undisturbed, monkeypatch):
    settings = fault_config.get_config("teacher")
    settings.checkpoint_kimg = 4 * settings.batch_size / 1000
    disk = Disk(failures=0)
    monkeypatch.setattr(checkpointing, "_check_space", disk)
    save = checkpointing.Checkpointer.save

    def fail_from_the_second_on(self, step, *rest):
        disk.failures = step > 4
        save(self, step, *rest)

    from diffjax.runs.train import train

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing.Checkpointer, "save", fail_from_the_second_on)
        with pytest.raises(
            orbax_support.SaveError, match=r"of update 9 .*disk is full.*that of update 4 is kept"
        ):
            train(settings, str(tmp_path))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]
    run_here(tmp_path)
    assert_same_runs(tmp_path, undisturbed())


def test_the_last_save_of_a_run_is_tried_again_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpointing, "_check_space", Disk(failures=1))
    with checkpointing.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save_and_wait(3, {"w": jnp.ones(3)}, {})
        assert checkpointer.steps() == [3]
    assert "couldn't be written" in capsys.readouterr().out
    monkeypatch.setattr(checkpointing, "_check_space", Disk(failures=2))
    with checkpointing.Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(orbax_support.SaveError, match=r"update 4 .* that of update 3 is kept"):
            checkpointer.save_and_wait(4, {"w": jnp.ones(3)}, {})
        assert checkpointer.steps() == [3]


def test_closing_tells_of_a_save_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointing, "_check_space", Disk(failures=1))
    checkpointer = checkpointing.Checkpointer(tmp_path)
    checkpointer.save(1, {"w": jnp.ones(3)}, {})
    with pytest.raises(orbax_support.SaveError, match="none was written before"):
        checkpointer.close()


SAVE_LARGE = """
import resource, sys
import jax.numpy as jnp
from diffjax.files import orbax_support
from diffjax.training import checkpointing
small, large = {"w": jnp.arange(64.0)}, {"w": jnp.arange(1e6).at[::2].mul(1.37)}
with checkpointing.Checkpointer(sys.argv[1]) as checkpointer:
    checkpointer.save_and_wait(1, small, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        checkpointer.save_and_wait(2, large, {})
    except orbax_support.SaveError as error:
        print("error:", error)
    restored, _ = checkpointer.restore(small)
    assert (restored["w"] == small["w"]).all()
"""


def test_writes_that_the_system_refuses_half_way(tmp_path):
    """As a quota or a full disk does, which nobody could foresee; needs no rights."""
    result = subprocess.run(
        [sys.executable, "-c", SAVE_LARGE, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    warning, error = result.stdout.splitlines()
    assert warning.startswith("WARNING: the checkpoint of update 2 couldn't be written (")
    assert error.startswith("error: the checkpoint of update 2 couldn't be written")
    assert error.endswith(
        "that of update 1 is kept. Mend that, such as by freeing space, and the "
        "same command goes on"
    )
    assert "Traceback" not in result.stdout


def test_a_file_that_cannot_grow_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from diffjax.files import writing\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "file = Path(sys.argv[1]).open('ab', buffering=0)\n"
        "writing.append(file, b'12345678')\n"
        "writing.append(file, b'12345678')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"OSError: {path} can't be written (File too large)" in result.stderr
    assert path.read_bytes() == b"1234567812"  # cut off; a run that goes on drops such a line


def test_tensorboard_files_on_a_disk_without_space_end_in_an_error_and_not_in_a_wait(tmp_path):
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from diffjax.runs import tensorboard\n"
        "writer = tensorboard.EventWriter(Path(sys.argv[1]), purge_step=0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "for step in range(100):\n"
        "    writer.add_scalar('loss', 1.0, step)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    (file,) = tmp_path.iterdir()
    assert result.stderr.splitlines()[-1] == (
        f"OSError: {file} can't be written (File too large): mend that, such as by freeing space, "
        "and the same command goes on"
    )


@pytest.mark.parametrize("megabytes", [4, pytest.param(2, marks=pytest.mark.slow)])
def test_a_disk_that_fills_ends_the_run_and_the_newest_checkpoint_is_whole(
    tmp_path, undisturbed, megabytes
):
    with small_disk(tmp_path / "disk", megabytes) as disk:
        workdir = disk / "run"
        process = Process(workdir, "teacher", "--config.keep_checkpoints=8")
        assert process.end() == 1
        error = process.lines[-1]
        assert error.startswith("error: the checkpoint of update")
        assert "MB are free" in error
        kept = max(checkpointing.Checkpointer(workdir / "checkpoints").steps())
        assert f"that of update {kept} is kept" in error
        assert not any("Traceback" in line for line in process.lines)
        shutil.copytree(workdir, tmp_path / "moved")
    run_here(tmp_path / "moved")
    assert_same_runs(tmp_path / "moved", undisturbed())


def test_a_work_directory_under_a_file_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("")
    process = Process(tmp_path / "file" / "run", "teacher")
    assert process.end() == 1
    (line,) = process.lines
    assert line.startswith(
        f"error: workdir={tmp_path}/file/run can't be written to (Not a directory"
    )


def test_a_read_only_work_directory_is_refused_before_anything_is_computed(tmp_path):
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:  # whom permissions don't stop
            folder = stack.enter_context(small_disk(tmp_path / "disk", 1, ",ro"))
        else:
            folder = tmp_path / "disk"
            folder.mkdir(mode=0o555)
        with pytest.raises(OSError, match=rf"workdir={folder} can't be written to .*name another"):
            run_here(folder)
        assert not any(folder.iterdir())


def test_the_check_leaves_nothing(tmp_path):
    assert writing.make_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not any((tmp_path / "a" / "b").iterdir())
    with pytest.raises(ValueError, match="gs://bucket/run is a URL"):
        writing.make_writable("gs://bucket/run")


def test_text_files_are_whole_or_as_they_were(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    writing.write_text(path, "one")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", fail)
    with pytest.raises(OSError, match=r"config\.json can't be written \(No space left on device\)"):
        writing.write_text(path, "two")
    assert path.read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
