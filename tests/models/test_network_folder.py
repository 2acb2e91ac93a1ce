import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.models import network_folder
from tests.training.test_checkpointing import assert_trees_equal, damage, model_sized_params

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


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


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

    def test_64_bits_come_back_whole(self, tmp_path: Path) -> None:
        params = {"ids": np.array([2**40 + 1]), "table": np.array([np.pi])}
        network_folder.save_denoiser(tmp_path / "a", KWARGS, params)
        read = network_folder.load_params(tmp_path / "a", abstract(params))
        assert (read["ids"].item(), read["table"].item()) == (2**40 + 1, np.pi)

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

        monkeypatch.setattr(network_folder.ocp.Checkpointer, "save", fail)
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

    def test_a_runs_folder_is_told_where_its_network_is(self, tmp_path: Path) -> None:
        (tmp_path / "network").mkdir()
        with pytest.raises(FileNotFoundError, match=rf"name its network, {tmp_path}/network$"):
            network_folder.load_denoiser_kwargs(tmp_path)

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
