"""Two processes that save together, one of which can't write: both learn it, and go on or end."""

import json
import threading
import time

import pytest

from diffjax.distributed import agreement
from tests.support import processes

# Each line of output is (what was tried, steps that are there, how it ended).
SAVES = """
import json, resource, sys, threading
import jax
import numpy as np
from diffjax.distributed import peers, sharding
from diffjax.files import digests, orbax_support
from diffjax.training import checkpointing

folder, said = sys.argv[1:]
write, check = digests.write, checkpointing._check_space

def failing(times, real):
    left = [times]
    def function(*arguments):
        if left[0]:
            left[0] -= 1
            raise OSError("over quota")
        return real(*arguments)
    return function

def attempt(name, step, index, patch, times):
    if jax.process_index() == index:
        patch(times)
    end = "saved"
    try:
        checkpointer.save_and_wait(step, state, {})
    except orbax_support.SaveError as error:
        end = str(error)
    patch(0)
    if jax.process_index() == 0:  # which deletes what is left
        here = [path.name for path in checkpointer.directory.iterdir()]
        left = sorted(name for name in here if not name.startswith(".writable-"))  # a probe
        assert left == [str(step) for step in checkpointer.steps()], left
    print(json.dumps([name, checkpointer.steps(), end]), file=file)

def no_digests(times):
    digests.write = failing(times, write)

def no_space(times):
    checkpointing._check_space = failing(times, check)

def no_arrays(times):
    most = 100_000 if times else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

with (
    peers.joined({}, deterministic=False, distributed=True, peer_seconds=20.0),
    open(f"{said}/{jax.process_index()}.jsonl", "w", buffering=1) as file,
    checkpointing.Checkpointer(folder, keep=9) as checkpointer,
):
    mesh = sharding.make_mesh()
    values = np.random.default_rng(0).normal(size=200_000)
    state = sharding.put({"w": values}, sharding.batch(mesh))
    attempt("digests, once", 1, 0, no_digests, 1)
    attempt("digests, twice", 2, 0, no_digests, 2)
    attempt("digests, again", 2, 0, no_digests, 0)
    attempt("space of one", 3, 1, no_space, 1)
    attempt("arrays of the other", 4, 1, no_arrays, 9)
    attempt("arrays of the first", 4, 0, no_arrays, 9)
    attempt("arrays, again", 4, 0, no_arrays, 0)
    no_digests(1 if jax.process_index() == 0 else 0)
    checkpointer.save(5, state, {})
    if jax.process_index() == 0:
        raise OSError("metrics.jsonl can't be written")
    threading.Event().wait()  # as in a collective that the other never comes to
"""


def test_whichever_cannot_write_both_learn_it_and_go_on(tmp_path):
    command = ["-c", SAVES, str(tmp_path / "checkpoints"), str(tmp_path)]
    with processes.Processes(command, logs=tmp_path / "logs") as started:
        codes = started.wait(240)
        first, second = (
            [json.loads(line) for line in (tmp_path / f"{index}.jsonl").open()]
            for index in range(2)
        )
        assert codes == [1, 1], started.said(0) + started.said(1)
        assert "error: process 0 of 2" in started.said(1)
        assert "metrics.jsonl can't be written" in started.said(1)
    assert [line[:2] for line in first] == [
        ["digests, once", [1]],
        ["digests, twice", [1]],
        ["digests, again", [1, 2]],
        ["space of one", [1, 2, 3]],
        ["arrays of the other", [1, 2, 3]],
        ["arrays of the first", [1, 2, 3]],
        ["arrays, again", [1, 2, 3, 4]],
    ]
    assert [line[:2] for line in second] == [line[:2] for line in first]
    for line in (*first, *second):
        assert "\n" not in line[2]
    words = [line[2] for line in first]
    assert words[0] == words[2] == words[3] == words[6] == "saved"
    assert "update 2 couldn't be written" in words[1]
    assert "(over quota); that of update 1 is kept" in words[1]
    assert "(process 0: over quota); that of update 1 is kept" in second[1][2]
    assert "(process 1: File too large); that of update 3 is kept" in words[4]
    assert "(process 0: File too large); that of update 3 is kept" in second[5][2]
    told = "WARNING: the checkpoint of update 3 couldn't be written (process 1: over quota); "
    assert told in started.said(0)
    assert "pending" not in started.said(1)  # of Orbax's tasks


class Store(dict):
    """What JAX's key-value store does, for threads."""

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self
        self[key] = value

    def key_value_dir_get(self, key):
        return [(name, value) for name, value in list(self.items()) if name.startswith(key)]


def pair():
    store = Store()
    each = [agreement.Barriers(store=store, index=index, count=2) for index in range(2)]
    for barriers in each:
        barriers.begin()
        barriers._folder = "one work/"  # processes, which count alike, these are not
    return each


def test_barriers_end_when_all_are_there_or_one_gives_up():
    first, second = pair()
    thread = threading.Thread(target=second.wait, kwargs={"key": "a", "timeout_ms": 60_000})
    thread.start()
    first.wait(key="a", timeout_ms=60_000)
    thread.join()
    second.give_up(OSError(28, "No space left on device", "x/y"))
    with pytest.raises(agreement.OtherProcessError, match=r"^process 1: No space .*: x/y$"):
        first.wait(key="b", timeout_ms=60_000)
    assert agreement.first_error(None) is None


def test_barriers_end_by_their_time_and_by_the_last_moment():
    first, _ = pair()
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        first.wait(key="a", timeout_ms=10)
    first.end_within(0.01)
    with pytest.raises(TimeoutError):
        first.wait(key="b", timeout_ms=600_000)
    assert time.monotonic() - start < 60
