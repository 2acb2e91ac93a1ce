import io
import logging as python_logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffjax.training import checkpointing
from tests.support import processes


def model_sized_params() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        f"layer{i}": {
            "kernel": rng.standard_normal((3, 3, 32, 16), np.float32),
            "bias": np.zeros(16, np.float32),
        }
        for i in range(38)
    }


@flax.struct.dataclass
class State:
    step: jax.Array
    params: Any
    opt: Any


def make_state(value: float = 1.0, width: int = 8) -> State:
    params = {"layer": {"kernel": jnp.full((width, 4), value), "bias": jnp.arange(4.0)}}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.masked(optax.adam(1e-3), True))
    return State(step=jnp.int32(7), params=params, opt=tx.init(params))


def on_device(tree: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def assert_trees_equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def damage(folder: Path, victim: str) -> None:
    """Empty Orbax's list of arrays, or the array data."""
    if victim == "_METADATA":
        (folder / "_METADATA").write_text("")
        return
    for path in folder.glob("**/d/*"):
        path.write_bytes(b"")


class TestCheckpointer:
    def test_round_trip(self, tmp_path: Path) -> None:
        state = make_state()
        with checkpointing.Checkpointer(tmp_path / "checkpoints") as checkpointer:
            assert checkpointer.latest_step() is None
            checkpointer.save(7, state, {"kimg": 0.448, "config": {"lr": 1e-5, "top": None}})
        with checkpointing.Checkpointer(tmp_path / "checkpoints") as checkpointer:
            assert checkpointer.latest_step() == 7
            restored, meta = checkpointer.restore(on_device(state))
        assert isinstance(restored, State)
        assert_trees_equal(restored, state)
        assert meta == {"kimg": 0.448, "config": {"lr": 1e-5, "top": None}}

    def test_keeps_the_newest(self, tmp_path: Path) -> None:
        with checkpointing.Checkpointer(tmp_path, keep=2) as checkpointer:
            for step in (1, 2, 3, 4):
                checkpointer.save(step, make_state(float(step)), {"step": step})
            checkpointer.wait()
            assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]
            for step in (3, 4):
                state, meta = checkpointer.restore(on_device(make_state()), step)
                assert state.params["layer"]["kernel"][0, 0] == step
                assert meta == {"step": step}
            with pytest.raises(FileNotFoundError, match="no step 1; it holds 3, 4"):
                checkpointer.restore(on_device(make_state()), 1)

    def test_state_may_be_donated_while_it_is_written(self, tmp_path: Path) -> None:
        overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 + 9, s), donate_argnums=0)
        state = {f"w{i}": jnp.full((64, 1024), 1.0 + i) for i in range(8)}
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            like = on_device(state)
            checkpointer.save(1, state, {})
            state = jax.block_until_ready(overwrite(state))
            restored, _ = checkpointer.restore(like)
        for i in range(8):
            np.testing.assert_array_equal(restored[f"w{i}"], np.full((64, 1024), 1.0 + i))

    def test_small_state_saves_in_seconds(self, tmp_path: Path) -> None:
        params = jax.tree.map(jnp.asarray, model_sized_params())
        state = State(jnp.int32(0), params, jax.tree.map(jnp.zeros_like, params))
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            start = time.monotonic()
            checkpointer.save(1, state, {})
            checkpointer.wait()
            assert time.monotonic() - start < 60  # measured: 0.3 s on two idle cores

    def test_old_or_equal_step_is_refused(self, tmp_path: Path) -> None:
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(5, make_state(), {})
            for step in (5, 4):
                with pytest.raises(ValueError, match=f"step {step} isn't newer than"):
                    checkpointer.save(step, make_state(), {})

    def test_empty_folder(self, tmp_path: Path) -> None:
        with (
            checkpointing.Checkpointer(tmp_path) as checkpointer,
            pytest.raises(FileNotFoundError, match="holds no checkpoint"),
        ):
            checkpointer.restore(on_device(make_state()))

    def test_keep_must_be_positive(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="keep is 0"):
            checkpointing.Checkpointer(tmp_path, keep=0)

    def test_another_model_is_named_in_one_line(self, tmp_path: Path) -> None:
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(1, make_state(), {})
            other = make_state(width=16).replace(params={"head": jnp.zeros(3)})
            with pytest.raises(ValueError, match="another model's arrays") as error:
                checkpointer.restore(on_device(other))
        message = str(error.value)
        assert "\n" not in message
        assert str(tmp_path / "1") in message
        assert "params/head is missing" in message
        assert "params/layer/bias isn't expected" in message
        assert "has shape (8, 4) instead of (16, 4)" in message

    @pytest.mark.parametrize("victim", ["_METADATA", "data", "meta"])
    def test_damaged_checkpoint(self, tmp_path: Path, victim: str) -> None:
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(1, make_state(), {})
            checkpointer.wait()
            if victim == "meta":
                (tmp_path / "1" / "meta" / "metadata").write_text("{")
            else:
                damage(tmp_path / "1" / "state", victim)
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            for step in (None, 1):
                with pytest.raises(ValueError, match="damaged") as error:
                    checkpointer.restore(on_device(make_state()), step)
                assert str(tmp_path) in str(error.value)
                assert "\n" not in str(error.value)
        assert [path.name for path in tmp_path.iterdir()] == ["1"]

    def test_unfinished_step_is_never_the_latest(self, tmp_path: Path) -> None:
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(1, make_state(), {})
        leftover = tmp_path / "2.orbax-checkpoint-tmp"
        (leftover / "state").mkdir(parents=True)
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            assert checkpointer.latest_step() == 1
            checkpointer.save(2, make_state(2.0), {})
            state, _ = checkpointer.restore(on_device(make_state()))
        assert state.params["layer"]["kernel"][0, 0] == 2.0
        assert not leftover.exists()


@flax.struct.dataclass
class Learner:
    params: Any
    opt: Any


@flax.struct.dataclass
class Joined:
    """A layout that came after `State`."""

    step: jax.Array
    learners: dict[str, Learner]


def join(state: State) -> Joined:
    return Joined(state.step, {"fake": Learner(state.params, state.opt)})


class TestOlderLayouts:
    def test_an_older_one_is_converted(self, tmp_path: Path) -> None:
        state = make_state()
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(7, state, {"kimg": 1.0})
            restored, meta = checkpointer.restore(
                on_device(join(state)), older=lambda _: [(on_device(state), join)]
            )
        assert isinstance(restored, Joined)
        assert isinstance(restored.learners["fake"], Learner)
        assert_trees_equal(restored, join(state))
        assert meta == {"kimg": 1.0}

    def test_dicts_and_a_convert_that_computes(self, tmp_path: Path) -> None:
        def convert(old: dict[str, Any]) -> dict[str, Any]:
            return {"count": old["n"] + 1, "nested": {"w": old["w"], "made": jnp.zeros(2)}}

        old = {"n": jnp.int32(3), "w": jnp.arange(4.0)}
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(1, old, {})
            checkpointer.save(2, convert(old), {})
            for step in (1, 2):
                restored, _ = checkpointer.restore(
                    on_device(convert(old)), step, older=lambda _: [(on_device(old), convert)]
                )
                assert_trees_equal(restored, convert(old))

    def test_the_one_whose_names_are_stored_is_taken(self, tmp_path: Path) -> None:
        layouts = [{"a": jnp.ones(2)}, {"b": jnp.ones(2)}, {"a": jnp.ones(2), "b": jnp.ones(2)}]

        def converting(number: int) -> tuple[Any, Any]:
            return on_device(layouts[number]), lambda old: (number, old)

        older = [converting(number) for number in range(3)]
        for number, layout in enumerate(layouts):
            with checkpointing.Checkpointer(tmp_path / str(number)) as checkpointer:
                checkpointer.save(1, layout, {})
                (taken, old), _ = checkpointer.restore({"new": jnp.ones(2)}, older=lambda _: older)
                assert taken == number
                assert_trees_equal(old, layout)

    def test_what_needs_no_conversion_gets_none(self, tmp_path: Path) -> None:
        state = make_state()
        older = [(on_device(state), lambda _: pytest.fail("converted"))]
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(1, state, {})
            restored, _ = checkpointer.restore(on_device(state), older=lambda _: older)
        assert_trees_equal(restored, state)

    def test_where_none_is_stored_the_error_is_of_the_newest(self, tmp_path: Path) -> None:
        wanted = on_device(join(make_state()))
        older = [({"w": jnp.ones(3)}, lambda _: pytest.fail("converted"))]
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(1, make_state(), {})
            messages = []
            for layouts in ([], older):
                with pytest.raises(ValueError, match="another model's arrays") as error:
                    checkpointer.restore(wanted, older=lambda _, layouts=layouts: layouts)
                messages.append(str(error.value))
        assert messages[0] == messages[1]
        assert "learners/fake/params/layer/bias is missing" in messages[0]

    def test_shapes_of_an_older_one_are_told_by_its_names(self, tmp_path: Path) -> None:
        older = [(on_device(make_state(width=16)), lambda _: pytest.fail("converted"))]
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(1, make_state(width=8), {})
            with pytest.raises(
                ValueError, match=r" params/layer/kernel has shape \(8, 4\) instead of \(16, 4\)"
            ):
                checkpointer.restore(on_device(join(make_state(width=16))), older=lambda _: older)

    def test_sharded_arrays_stay_where_the_older_tree_puts_them(self, tmp_path: Path) -> None:
        mesh = Mesh(np.array(jax.devices()), ("data",))
        assert mesh.size == 8

        def place(leaf: Any) -> NamedSharding:
            return NamedSharding(mesh, P("data") if leaf.shape == (8, 4) else P())

        def abstract(tree: Any) -> Any:
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)), tree
            )

        state = make_state()
        state = jax.device_put(state, jax.tree.map(place, state))
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(1, state, {})
        with checkpointing.Checkpointer(tmp_path, read_only=True) as checkpointer:
            restored, _ = checkpointer.restore(
                abstract(join(state)), older=lambda _: [(abstract(state), join)]
            )
        assert_trees_equal(restored, join(state))
        shardings = [place(leaf) for leaf in jax.tree.leaves(restored)]
        assert [leaf.sharding for leaf in jax.tree.leaves(restored)] == shardings
        kernel = restored.learners["fake"].params["layer"]["kernel"]
        assert kernel.addressable_shards[0].data.shape == (1, 4)


SAVE_FOREVER = """
import sys
import jax.numpy as jnp
from diffjax.training import checkpointing
with checkpointing.Checkpointer(sys.argv[1], keep=2) as checkpointer:
    step = 0
    while True:
        step += 1
        checkpointer.save(step, {f"w{i}": jnp.full((256, 256), float(step)) for i in range(20)}, {})
        checkpointer.wait()
        print(step, flush=True)
"""


def test_kill_while_saving_leaves_a_good_latest_checkpoint(tmp_path: Path) -> None:
    like = on_device({f"w{i}": jnp.zeros((256, 256)) for i in range(20)})
    for attempt in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(tmp_path / str(attempt))],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        finished = [int(process.stdout.readline()) for _ in range(2)][-1]
        time.sleep(0.05 + 0.04 * attempt)  # into the middle of the next save
        process.send_signal(signal.SIGKILL)
        finished = max([finished, *map(int, process.stdout.read().split())])
        process.wait()
        with checkpointing.Checkpointer(tmp_path / str(attempt), keep=2) as checkpointer:
            latest = checkpointer.latest_step()
            assert latest is not None
            assert latest >= finished
            state, _ = checkpointer.restore(like)
            for array in state.values():
                np.testing.assert_array_equal(array, np.full((256, 256), float(latest)))


RESHARD = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from diffjax.training import checkpointing
mesh = Mesh(np.array(jax.devices()), ("data",))
state = {"w": jnp.arange(64.0).reshape(16, 4), "b": jnp.arange(3.0)}
specs = {"w": NamedSharding(mesh, P("data")), "b": NamedSharding(mesh, P())}
with checkpointing.Checkpointer(sys.argv[1]) as checkpointer:
    if checkpointer.latest_step() is None:
        checkpointer.save(1, jax.device_put(state, specs), {})
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, specs)
    restored, _ = checkpointer.restore(like)
    assert restored["w"].sharding == specs["w"], restored["w"].sharding
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    print(len(restored["w"].addressable_shards))
"""


def test_restores_on_another_number_of_devices(tmp_path: Path) -> None:
    for devices in (4, 2, 1, 8):
        flags = f"--xla_force_host_platform_device_count={devices}"
        result = subprocess.run(
            [sys.executable, "-c", RESHARD, str(tmp_path / "checkpoints")],
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == str(devices)


ONE_FAILS = f"""
import json, sys, time
import jax
import numpy as np
from diffjax.distributed import runtime, sharding
from diffjax.files import digests
from diffjax.training import checkpointing
folder, said = sys.argv[1:]
runtime.prepare(deterministic=False, distributed=True)
write = digests.write
def fail(*_):
    raise OSError("over quota")
if jax.process_index() == 0:
    digests.write = fail
state = sharding.put({{"w": np.arange(8.0)}}, sharding.batch(sharding.make_mesh()))
with (
    open(f"{{said}}/{{jax.process_index()}}.jsonl", "w", buffering=1) as file,
    checkpointing.Checkpointer(folder) as checkpointer,
):
    checkpointer.save(1, state, {{}})
    while not checkpointer.must_save_again():
        time.sleep(0.05)
    print(json.dumps(checkpointer.steps()), file=file)
    digests.write = write
    checkpointer.save_and_wait(2, state, {{}})
    print(json.dumps(checkpointer.steps()), file=file)
    time.sleep({processes.PATIENCE})  # until the test ends both
"""


def test_what_one_process_cannot_write_is_noticed_by_both(tmp_path: Path) -> None:
    command = ["-c", ONE_FAILS, str(tmp_path / "checkpoints"), str(tmp_path)]
    with processes.Processes(command, logs=tmp_path / "logs") as started:
        for index in range(2):
            steps = tmp_path / f"{index}.jsonl"
            started.wait_for_lines(steps, 2)
            assert steps.read_text() == "[]\n[2]\n"
        warning = "WARNING: the checkpoint of update 1 couldn't be written (over quota); trying"
        assert warning in started.said(0)
        assert "written" not in started.said(1)  # the main process speaks for both


@pytest.fixture
def absl_log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = python_logging.StreamHandler(stream)
    verbosity = logging.get_verbosity()
    logging.get_absl_logger().addHandler(handler)
    logging.set_verbosity(logging.INFO)
    yield stream
    logging.set_verbosity(verbosity)
    logging.get_absl_logger().removeHandler(handler)


def test_orbax_chatter_is_dropped_and_warnings_kept(tmp_path: Path, absl_log: io.StringIO) -> None:
    with checkpointing.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, make_state(), {})
        checkpointer.restore(on_device(make_state()))
    assert absl_log.getvalue() == ""
    logging.info("ours")
    path = os.sep.join(["", "orbax", "checkpoint", "x.py"])
    logger = logging.get_absl_logger()
    logger.handle(logger.makeRecord("absl", python_logging.INFO, path, 1, "chat", (), None))
    logger.handle(logger.makeRecord("absl", python_logging.WARNING, path, 1, "warned", (), None))
    assert absl_log.getvalue().splitlines() == ["ours", "warned"]
