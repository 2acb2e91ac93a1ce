"""How processes find each other."""

import os
import subprocess
import sys
import types

import jax
import pytest

from diffjax.distributed import peers, runtime
from tests.support.processes import PATIENCE, ROOT, Processes, free_port

HOSTS = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"JAX_PROCESS_ID": None}, "JAX_NUM_PROCESSES without JAX_PROCESS_ID: a list of proc"),
        ({"JAX_COORDINATOR_ADDRESS": None}, "JAX_PROCESS_ID without JAX_COORDINATOR_ADDRESS"),
        ({"JAX_PROCESS_ID": "4"}, "JAX_NUM_PROCESSES='4', JAX_PROCESS_ID='4': whole numbers"),
        ({"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID='-1': whole numbers"),
        ({"JAX_NUM_PROCESSES": "many"}, "JAX_NUM_PROCESSES='many'"),
        ({"JAX_COORDINATOR_ADDRESS": "host"}, "'host': host:port of process 0 is needed"),
        ({"JAX_COORDINATOR_ADDRESS": ":12"}, "':12': host:port of process 0 is needed"),
    ],
)
def test_a_host_list_that_is_wrong_is_told_before_anything_starts(monkeypatch, changes, message):
    for name, value in {**HOSTS, **changes}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        runtime.prepare(deterministic=False, distributed=True)


def test_a_dead_process_is_named_before_jax_ends_this_one(monkeypatch):
    """JAX hears every half of its time: the last sign may be so old when a process dies."""
    said = {}
    monkeypatch.setattr(runtime.jax.distributed, "initialize", said.update)
    for name, value in HOSTS.items():
        monkeypatch.setenv(name, value)
    runtime.prepare(deterministic=False, distributed=True, peer_seconds=7.0)
    ours = peers.Peers(silent_seconds=7.0, store=None, index=0, count=2)
    # Silence, an exchange, a judgement, and the leader's wait until the others have read it.
    needed = 7.0 + (1 + 1 + 3) * ours._tick
    assert said["heartbeat_timeout_seconds"] / 2 > 1.5 * needed


def test_peak_memory_is_in_gib_and_none_where_nobody_counts(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    monkeypatch.setattr(
        runtime.jax, "local_devices", lambda: [Device({"peak_bytes_in_use": 3 << 29})]
    )
    assert runtime.peak_memory_gib() == 1.5
    monkeypatch.setattr(runtime.jax, "local_devices", lambda: [Device(None)])
    assert runtime.peak_memory_gib() is None


def test_processes_that_do_not_fit_together(monkeypatch):
    places = [types.SimpleNamespace(process_index=index) for index in (0, 0, 1)]
    jax.devices()
    with pytest.raises(ValueError, match="JAX was used before"):
        runtime.prepare(deterministic=False, distributed=True)
    monkeypatch.setattr(runtime.jax, "devices", lambda: places)
    with pytest.raises(runtime.NoDeviceError, match=r"have \[2, 1\] devices"):
        runtime.prepare(deterministic=False, distributed=False)


def test_by_itself_a_process_agrees_with_itself():
    runtime.agree("anything", object())


PREPARE = """
from diffjax.distributed import runtime
runtime.prepare(deterministic=False, distributed=True, join_seconds={seconds})
"""
AGREE = (
    PREPARE.format(seconds=120)
    + """
import jax
runtime.agree("the first", 1)
print("process", jax.process_index(), "of", jax.process_count(), jax.device_count())
try:
    runtime.agree("the second", ["same", "same", "other"][jax.process_index()])
except ValueError as error:
    print(error)
import os, pathlib
from diffjax.distributed import agreement
agreement._SEEN_WITHIN = 0.1
folder = pathlib.Path(os.environ["FOLDER"])
agreement.check_shared(folder)
try:
    agreement.check_shared(folder / "x" if jax.process_index() == 1 else folder)
except OSError as error:
    print(error)
"""
)


def test_three_processes_meet_as_slurm_starts_them_and_tell_who_differs(tmp_path):
    slurm = {
        "SLURM_JOB_ID": "71",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "3",
        "SLURM_PROCID": "{index}",
        "SLURM_LOCALID": "{index}",
        "FOLDER": str(tmp_path),
        # Else JAX makes a port of the job's number, on which another run of this test may listen.
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    with Processes(["-c", AGREE], logs=tmp_path, count=3, devices=2, **slurm) as processes:
        codes = processes.wait()
        said = [processes.said(index) for index in range(3)]
    assert codes == [0, 0, 0], said
    for index, text in enumerate(said):
        assert f"process {index} of 3 6\n" in text
        assert "the second of process 2 differs from that of process 0: give all" in text
        assert (f"workdir={tmp_path}: process 1: it isn't that" in text) == (index != 1)
        assert "it isn't that of process 0: name one that all hosts see" in text


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def test_when_the_others_do_not_come_one_line_says_so():
    hosts = {**HOSTS, "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_PROCESS_ID": "1"}
    result = run(PREPARE.format(seconds=1), **hosts)
    assert result.returncode == 1
    assert result.stderr == (
        "error: after 1 s the processes haven't all come together at 127.0.0.1:1: see which of "
        "them runs, and whether it reaches that address.\n"
    )


def test_nothing_says_which_processes_there_are():
    result = run(PREPARE.format(seconds=1))
    assert result.returncode == 1
    assert "distributed=True, but the processes can't be found" in result.stderr
    assert "set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID" in result.stderr


COMPILES = """
import sys, jax, jax.numpy as jnp
from diffjax.distributed import runtime
runtime.prepare(deterministic=False, distributed=False, compilation_cache=sys.argv[1])
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
def many(x):
    for i in range(300):
        x = jnp.sin(x @ x + i)
    return x
jax.jit(many)(jnp.ones((8, 8))).block_until_ready()
print(*(sum(event.endswith(kind) for event in events) for kind in ("cache_hits", "cache_misses")))
"""


def test_a_cache_that_can_be_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    path = str(tmp_path / "file" / "cache")
    with pytest.raises(OSError, match=f"compilation_cache='{path}' can't be a folder .*: name"):
        runtime.prepare(deterministic=False, distributed=False, compilation_cache=path)
    assert jax.config.jax_compilation_cache_dir != path


def test_a_second_start_finds_what_the_first_compiled(tmp_path):
    # As a user starts. What compiles in no time is kept too, which JAX doesn't do by itself.
    ours = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "XLA_FLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", COMPILES, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            cwd=ROOT,
        ).stdout.split()
        for _ in range(2)
    )
    hits, misses = first
    assert hits == "0"
    assert int(misses) >= 2
    assert second == [misses, "0"]
