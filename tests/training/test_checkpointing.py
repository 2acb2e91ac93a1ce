import io
import json
import logging as python_logging
import math
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

from diffjax.models import network_folder
from diffjax.training import checkpointing

KWARGS = {
    "class_name": "EDMPrecond",
    "img_resolution": np.int64(8),
    "sigma_min": 0,
    "sigma_max": float("inf"),
    "label_dim": 10,
    "use_fp16": False,
    "channel_mult": (1, 2),
    "label_dropout": 0.1,
    "nested": {"low": -math.inf, "none": None},
}


def small_params() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "params": {
            "conv": {"kernel": rng.standard_normal((3, 3, 2, 4), np.float32)},
            "norm": {"scale": np.ones(4, np.float32), "gain": np.float32(0.3)},
        },
        "buffers": {"index": np.arange(5, dtype=np.int32)},
    }


def model_sized_params() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        f"layer{i}": {
            "kernel": rng.standard_normal((3, 3, 32, 16), np.float32),
            "bias": np.zeros(16, np.float32),
        }
        for i in range(38)
    }


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


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


class TestDenoiser:
    def test_round_trip(self, tmp_path: Path) -> None:
        params = small_params()
        network_folder.save_denoiser(tmp_path / "teacher", KWARGS, params)
        expected = {**KWARGS, "channel_mult": [1, 2], "img_resolution": 8}
        kwargs = network_folder.load_denoiser_kwargs(tmp_path / "teacher")
        assert kwargs == expected
        assert type(kwargs["img_resolution"]) is int
        restored = network_folder.load_params(tmp_path / "teacher", abstract(params))
        assert_trees_equal(restored, params)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored))

    def test_reading_compiles_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        params = {"of_a_shape_of_its_own": np.ones((3, 17, 5), np.float32)}
        network_folder.save_denoiser(tmp_path / "teacher", KWARGS, params)
        with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
            network_folder.load_params(tmp_path / "teacher", abstract(params))
            assert "Compiling" not in caplog.text
            jax.jit(jnp.sin)(np.ones((3, 17, 5)))
            assert "Compiling" in caplog.text

    def test_description_is_strict_json(self, tmp_path: Path) -> None:
        network_folder.save_denoiser(tmp_path / "teacher", KWARGS, small_params())
        text = (tmp_path / "teacher" / "denoiser.json").read_text()
        description = json.loads(text, parse_constant=lambda name: pytest.fail(name))
        assert description["format_version"] == 1
        assert description["class_name"] == "EDMPrecond"

    @pytest.mark.parametrize(("dtype", "atol"), [(jnp.float16, 2.0**-10), (jnp.bfloat16, 2.0**-7)])
    def test_stored_small_read_as_float32(self, tmp_path: Path, dtype: Any, atol: float) -> None:
        params = small_params()
        network_folder.save_denoiser(tmp_path / "teacher", KWARGS, params, dtype=dtype)
        restored = network_folder.load_params(tmp_path / "teacher", abstract(params))
        kernel = restored["params"]["conv"]["kernel"]
        assert kernel.dtype == jnp.float32
        assert restored["buffers"]["index"].dtype == jnp.int32
        expected = params["params"]["conv"]["kernel"]
        np.testing.assert_array_equal(kernel, expected.astype(dtype).astype(np.float32))
        np.testing.assert_allclose(kernel, expected, atol=atol * np.abs(expected).max())

    def test_too_large_for_float16(self, tmp_path: Path) -> None:
        params = {"a": {"w": np.array([1.0, 1e5], np.float32)}}
        with pytest.raises(ValueError, match="a/w has values too large for float16"):
            network_folder.save_denoiser(tmp_path / "t", KWARGS, params, dtype=jnp.float16)
        assert list(tmp_path.iterdir()) == []

    def test_small_on_disk_and_names_no_place(self, tmp_path: Path) -> None:
        params = model_sized_params()
        nbytes = sum(x.nbytes for x in jax.tree.leaves(params))
        network_folder.save_denoiser(tmp_path / "teacher", KWARGS, params)
        files = [path for path in (tmp_path / "teacher").rglob("*") if path.is_file()]
        assert len(files) < 20
        assert sum(path.stat().st_size for path in files) < 1.1 * nbytes
        assert [p for p in files if str(tmp_path).encode() in p.read_bytes()] == []

    def test_leaves_nothing_beside_it(self, tmp_path: Path) -> None:
        network_folder.save_denoiser(tmp_path / "teacher", KWARGS, small_params())
        assert [path.name for path in tmp_path.iterdir()] == ["teacher"]

    def test_failed_write_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(checkpointing.ocp.Checkpointer, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            network_folder.save_denoiser(tmp_path / "teacher", KWARGS, small_params())
        assert list(tmp_path.iterdir()) == []

    def test_refuses_what_exists(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        network_folder.save_denoiser(tmp_path / "empty", KWARGS, small_params())
        with pytest.raises(FileExistsError, match="empty exists and isn't empty"):
            network_folder.save_denoiser(tmp_path / "empty", KWARGS, small_params())
        (tmp_path / "file").write_text("mine")
        with pytest.raises(FileExistsError, match="file exists"):
            network_folder.save_denoiser(tmp_path / "file", KWARGS, small_params())
        assert (tmp_path / "file").read_text() == "mine"

    def test_refuses_kwargs_that_json_cannot_hold(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"init_kwargs\.mean is a ndarray"):
            network_folder.save_denoiser(
                tmp_path / "t", {"class_name": "A", "mean": np.zeros(2)}, small_params()
            )
        with pytest.raises(ValueError, match="lacks class_name"):
            network_folder.save_denoiser(tmp_path / "t", {}, small_params())

    def test_wrong_arrays_are_all_named(self, tmp_path: Path) -> None:
        network_folder.save_denoiser(tmp_path / "teacher", KWARGS, small_params())
        expected = abstract(small_params())
        del expected["params"]["norm"]["gain"]
        expected["params"]["conv"]["kernel"] = jax.ShapeDtypeStruct((3, 3, 2, 8), jnp.float32)
        expected["params"]["extra"] = jax.ShapeDtypeStruct((1,), jnp.float32)
        with pytest.raises(ValueError, match="another model's arrays") as error:
            network_folder.load_params(tmp_path / "teacher", expected)
        message = str(error.value)
        assert "\n" not in message
        assert str(tmp_path / "teacher" / "params") in message
        assert "params/extra is missing" in message
        assert "params/norm/gain isn't expected" in message
        assert "params/conv/kernel has shape (3, 3, 2, 4) instead of (3, 3, 2, 8)" in message

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"nowhere/denoiser\.json doesn't exist"):
            network_folder.load_denoiser_kwargs(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match="nowhere/params doesn't exist"):
            network_folder.load_params(tmp_path / "nowhere", {})

    @pytest.mark.parametrize(
        "text", ["{", "[]", "{}", '{"format_version": 99, "class_name": "A", "init_kwargs": {}}']
    )
    def test_damaged_description(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "denoiser.json").write_text(text)
        with pytest.raises(ValueError, match=r"denoiser\.json isn't a denoiser's description"):
            network_folder.load_denoiser_kwargs(tmp_path)

    @pytest.mark.parametrize("victim", ["_METADATA", "data"])
    def test_damaged_arrays(self, tmp_path: Path, victim: str) -> None:
        network_folder.save_denoiser(tmp_path / "teacher", KWARGS, small_params())
        damage(tmp_path / "teacher" / "params", victim)
        with pytest.raises(
            ValueError, match=r"teacher is damaged \(params/.* has 0 bytes"
        ) as error:
            network_folder.load_params(tmp_path / "teacher", abstract(small_params()))
        assert "\n" not in str(error.value)

    def test_url_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="gs://bucket/t is a URL"):
            network_folder.save_denoiser("gs://bucket/t", KWARGS, small_params())


def damage(folder: Path, victim: str) -> None:
    """Empties Orbax's list of arrays, or the array data."""
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


SAVE_FOREVER = """
import sys
import jax.numpy as jnp
from diffjax import checkpointing
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
from diffjax import checkpointing
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
