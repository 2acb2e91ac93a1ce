import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.files import torch_storage
from diffjax.files.restricted_pickle import Budget
from tests.support import fabricate
from tests.support.fabricate import storage_archive, storage_stream

DTYPES = ["float16", "bfloat16", "float32", "float64", "int32", "int64", "uint8", "bool"]


def read(data):
    return torch_storage.StorageReader(Budget())(data)


def view(storage, **kwargs):
    arguments = {"offset": 0, "size": (storage.count,), "stride": (1,)} | kwargs
    return torch_storage.rebuild_tensor(storage, *arguments.values())


@pytest.mark.parametrize("write", [storage_stream, storage_archive])
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_formats_and_all_types_are_read(write, dtype):
    array = np.array([0, 1, 2, 3, 1, 0, 200], jnp.dtype(dtype))
    read_back = view(read(write(array)))
    assert read_back.dtype == array.dtype
    np.testing.assert_array_equal(read_back, array)


def test_views_follow_offset_size_and_stride():
    array = np.arange(24, dtype=np.float32)
    storage = read(storage_stream(array))
    transposed = view(storage, offset=4, size=(3, 2), stride=(1, 10))
    np.testing.assert_array_equal(transposed, [[4, 14], [5, 15], [6, 16]])
    assert view(storage, offset=7, size=(), stride=()) == 7
    assert view(storage, offset=24, size=(0, 5), stride=(5, 1)).shape == (0, 5)
    assert not transposed.flags.owndata  # nothing was allocated


@pytest.mark.parametrize(
    "kwargs",
    [
        {"offset": 1},
        {"offset": -1},
        {"offset": 0.0},
        {"size": (25,)},
        {"size": (2**40,), "stride": (0,)},
        {"size": (25,), "stride": (0,)},
        {"size": (-1,)},
        {"size": (2, 2)},
        {"size": (4, 4), "stride": (8, 1)},
        {"size": [24]},
        {"size": (2**60,)},
        {"size": (True,)},
        {"stride": (-1,)},
        {"size": (1,) * 9, "stride": (1,) * 9},
        {"size": (1,) * 1_000_000, "stride": (1,) * 1_000_000},
    ],
)
def test_views_beyond_the_storage_are_refused(kwargs):
    storage = read(storage_stream(np.arange(24, dtype=np.float32)))
    with pytest.raises(ValueError, match="tensor"):
        view(storage, **kwargs)


ARRAY = np.arange(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "exhausted"),
        (b"plain text", "."),
        (b"\x80\x02K\x01.", "does not start"),
        (storage_stream(ARRAY)[:-1], "declares 4 elements of float32 and holds 15 bytes"),
        (storage_stream(ARRAY) + b"\0", "holds 17 bytes"),
        (storage_stream(ARRAY, count=2**40), "declares 1099511627776 elements"),
        (storage_stream(ARRAY, count=-4), "unknown form"),
        (storage_stream(ARRAY, kind="ComplexFloatStorage"), "ComplexFloatStorage"),
        (storage_stream(ARRAY).replace(b"\xe9\x03", b"\xea\x03", 1), "version"),
        (storage_stream(ARRAY).replace(b"endian\x88", b"endian\x89"), "little-endian"),
        (storage_archive(ARRAY, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (storage_archive(ARRAY, count=5), "declares 5 elements"),
        (storage_archive(ARRAY, names=["data.pkl"]), "without data/0"),
        (storage_archive(ARRAY, names=["data/0"]), r"without data\.pkl"),
        (storage_archive(ARRAY)[:-30], "damaged"),
        ("text", "not given as bytes"),
        (bytearray(b"x"), "not given as bytes"),
    ],
)
def test_damaged_storages_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        read(data)


def test_a_storage_is_read_once_however_often_it_is_asked_for():
    budget = Budget()
    reader = torch_storage.StorageReader(budget)
    data = storage_archive(np.zeros(100_000, np.float32))
    first = reader(data)
    left = budget.instructions
    assert all(reader(data) is first for _ in range(1000))
    assert budget.instructions == left


def test_a_parameter_needs_a_tensor():
    with pytest.raises(ValueError, match="no tensor"):
        torch_storage.rebuild_parameter([1.0])


def test_the_fabricated_streams_know_every_type():
    assert set(fabricate.KINDS.values()) <= {n[6:] for n in torch_storage.STORAGE_TYPES}
