"""Conditions from files of embeddings, and a text-like model that is distilled with them."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from diffjax import models
from diffjax.runs import bases
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from tests.support import captions

KEY = jax.random.key(0)


def test_a_row_goes_through_all_arrays_of_a_tree(tmp_path):
    captions.write(tmp_path / "captions.npz")
    law = models.from_file(tmp_path / "captions.npz")
    drawn = law(KEY, 32)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), drawn) == {
        "text": {"tokens": ((32, 5, 8), "float32"), "mask": ((32, 5), "bool")},
        "pooled": ((32, 8), "float16"),
    }
    with np.load(tmp_path / "captions.npz") as file:
        pooled, tokens, mask = (file[name] for name in ("pooled", "text/tokens", "text/mask"))
    rows = [int(np.flatnonzero((pooled == each).all(axis=1))[0]) for each in drawn["pooled"]]
    np.testing.assert_array_equal(drawn["text"]["tokens"], tokens[rows].astype(np.float32))
    np.testing.assert_array_equal(drawn["text"]["mask"], mask[rows])
    assert len(set(rows)) == 6
    again = jax.jit(lambda law, key: law(key, 32))(law, KEY)  # the table is an argument
    jax.tree.map(np.testing.assert_array_equal, again, drawn)


def test_other_files_of_arrays(tmp_path):
    table = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "table.npy", table)
    assert models.from_file(tmp_path / "table.npy")(KEY, 5).shape == (5, 4)
    for other in (">f4", ">f8", np.longdouble):
        np.save(tmp_path / "other.npy", table.astype(other))
        drawn = models.from_file(tmp_path / "other.npy")(KEY, 5)
        np.testing.assert_array_equal(drawn, models.from_file(tmp_path / "table.npy")(KEY, 5))
        assert drawn.dtype == jnp.float32
    arrays = {"text/tokens": table.astype(ml_dtypes.bfloat16), "n": np.arange(3)}
    safetensors_numpy.save_file(arrays, tmp_path / "table.safetensors")
    drawn = models.from_file(str(tmp_path / "table.safetensors"))(KEY, 5)
    assert (drawn["text"]["tokens"].dtype, drawn["n"].dtype) == (jnp.bfloat16, jnp.int32)
    np.testing.assert_array_equal(drawn["text"]["tokens"][:, 0] // 4, drawn["n"])


ONE = np.ones((2, 3), np.float32)
REFUSED = {
    "rows": ({"a": ONE, "b": ONE[:1]}, r"same number of rows, at least 1 \(a 2, b 1\)"),
    "no rows": ({"a": ONE[:0]}, "at least 1"),
    "a number": ({"a": np.float32(1)}, "at least 1"),
    "nothing": ({}, "no array"),
    "text": ({"a": np.array(["x", "y"])}, "its array 'a' holds <U1, not numbers"),
    "complex": ({"a": ONE.astype(complex)}, "holds complex128"),
    "NaN": ({"a": ONE * np.nan}, "its array 'a' holds NaN or infinity"),
    "a path through an array": ({"a": ONE, "a/b": ONE}, "'a/b' goes through an array"),
    "an array on a path": ({"a/b": ONE, "a": ONE}, "'a' goes through an array"),
    "a number of 41 bits": ({"a": np.array([5, 2**40])}, "a holds 1099511627776, which int32"),
    "no sign": ({"a": np.array([2**33], np.uint64)}, "a holds 8589934592, which uint32"),
    "a large number": ({"a": np.array([1.0, 1e300])}, "a holds 1e[+]300, which float32 doesn't"),
    "an array of no name": ({"": ONE, "b": ONE[:1]}, r"same number of rows, at least 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_is_told_in_one_line(name, tmp_path):
    arrays, message = REFUSED[name]
    path = tmp_path / "table.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        models.from_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_other_and_damaged_files_are_told_in_one_line(tmp_path):
    captions.write(tmp_path / "captions.npz")
    data = (tmp_path / "captions.npz").read_bytes()
    np.save(tmp_path / "whole.npy", ONE)
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    files = {
        "page.npz": (b"<!DOCTYPE html><html>", "a web page"),
        "empty.npz": (b"", "empty"),
        "cut.npz": (data[: len(data) // 2], "cut off or damaged"),
        "objects.npy": ((tmp_path / "objects.npy").read_bytes(), "not such a file"),
        "cut.npy": ((tmp_path / "whole.npy").read_bytes()[:-4], "not such a file, or damaged"),
        "embeddings.pt": (b"\x80\x02}q\x00.", "not such a file"),
        "cut.safetensors": ((100).to_bytes(8, "little") + b'{"a":', "not a safetensors file|such"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            models.from_file(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file"):
        models.from_file(tmp_path / "none.npz")


def test_a_text_like_model_is_distilled(tmp_path, monkeypatch):
    captions.write(tmp_path / "captions.npz")
    monkeypatch.setenv("CAPTIONS", str(tmp_path / "captions.npz"))
    made = bases.distillation("sid")
    made.teacher = "tests.support.captions:teacher"
    made.generator.learning_rate = made.fake_score.learning_rate = 1e-3
    made.batch_size, made.duration_kimg, made.updates_per_call = 4, 0.008, 1
    made.log_kimg = made.checkpoint_kimg = 0.004
    made.grid_kimg, made.mesh.data, made.heun.steps = 0.0, 1, 2
    made.sample.update(count=4, format="npz", batch_size=4)
    train(made, str(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["generator_loss"]) and not line["skipped"] for line in lines)
    sample(made, str(tmp_path / "run"))
    with np.load(tmp_path / "run/samples/student_seed0_4.npz") as file:
        names = set(file.files)
        assert file["images"].shape == (4, 4, 4, 1)
    assert any("tokens" in name for name in names)  # each sample's condition beside it
