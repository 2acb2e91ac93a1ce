import io
import struct
import zipfile

import numpy as np
import pytest

from diffjax.files import torch_state_dict, torch_storage
from tests.support import fabricate, golden_cases
from tests.support.fabricate import Call, Global, PersistentId

# Written by torch.save, both ways.
OWN = golden_cases.OWN
FILES = ["state_dict_zip.pth", "state_dict_legacy.pth"]


def tensor(array, key, *, count=None):
    kind = Global(f"torch.{fabricate.KINDS[array.dtype.name]}")
    pid = PersistentId(("storage", kind, key, "cpu", array.size if count is None else count))
    strides = tuple(step // array.itemsize for step in array.strides)
    args = (pid, 0, array.shape, strides, False, Call("collections.OrderedDict"))
    return Call("torch._utils._rebuild_tensor_v2", args)


def archive(arrays, *, contents=None, raw=None, **options):
    """The zip archive that torch writes for a state dict."""
    items = {name: tensor(array, str(i)) for i, (name, array) in enumerate(arrays.items())}
    state = {"_metadata": Call("collections.OrderedDict", items={"": {"version": 1}})}
    state_dict = Call("collections.OrderedDict", items=items, state=state)
    entries = {"data.pkl": fabricate.pickle_bytes(contents or state_dict, protocol=2)}
    entries |= {f"data/{i}": array.tobytes() for i, array in enumerate(arrays.values())}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", options.get("compression", zipfile.ZIP_STORED)) as file:
        for name, data in (entries | (raw or {})).items():
            file.writestr(f"archive/{name}", data)
    return stream.getvalue()


def write(folder, data):
    path = folder / "weights.pth"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "file"),
    golden_cases.cases("torch_state_dict", each=lambda case: case.meta["files"]),
)
def test_reads_what_torch_writes(name, file):
    case = golden_cases.Case(name)
    result = torch_state_dict.read(case.folder / file)
    assert list(result) == case.names
    for array_name, array in result.items():
        np.testing.assert_array_equal(array.astype(np.float32), case.raw(array_name))
    expected = case.meta["dtypes"]
    assert {array: result[array].dtype.name for array in expected} == expected


@pytest.mark.parametrize("file", FILES)
def test_every_truncation_is_refused(file, tmp_path):
    data = (OWN / file).read_bytes()
    for length in [*range(0, len(data), 97), len(data) - 1]:
        path = write(tmp_path, data[:length])
        with pytest.raises(ValueError, match=r"weights\.pth: "):
            torch_state_dict.read(path)


@pytest.mark.parametrize("file", FILES)
def test_damage_raises_nothing_but_value_errors(file, tmp_path):
    data = (OWN / file).read_bytes()
    rng = np.random.default_rng(0)
    refusals = []
    for place in rng.integers(len(data), size=150):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        try:
            torch_state_dict.read(write(tmp_path, bytes(damaged)))
        except ValueError as error:
            refusals.append(str(error))
    assert 20 < len(refusals) < 150  # damage inside of names and numbers can't be seen
    assert all("weights.pth: " in refusal for refusal in refusals)


def test_reads_fabricated_archive(tmp_path):
    # So that the refusals below fail for the reason they name.
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.float32)}
    result = torch_state_dict.read(write(tmp_path, archive(arrays)))
    np.testing.assert_array_equal(result["a"], arrays["a"])
    assert result["b"].shape == (0,)


ONE = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not written by torch.save"),
        (fabricate.pickle_bytes({"a": 1}), "not written by torch.save"),
        (archive({"a": ONE}, compression=zipfile.ZIP_DEFLATED), "compressed zip archive"),
        (archive({"a": ONE}, raw={"data/0": b"123"}), "declares 4 elements of float32 and holds 3"),
        (archive({"a": ONE}, raw={"byteorder": b"big"}), "little-endian"),
        (archive({}, contents=[1]), "it holds a list, not a dictionary"),
        (archive({}, contents={"epoch": 3}), "'epoch' is a int, not a tensor"),
        (archive({}, contents={"model": {"a": tensor(ONE, "0")}}), "'model' is a dict"),
        (archive({}, contents={"a": tensor(ONE, "0", count=2)}), "declares 2 elements"),
        (archive({}, contents=Call("os.system", ("true",))), "'os.system'.* nothing was run"),
        (archive({}, contents={"a": PersistentId(("x",))}), "unknown form"),
        (
            archive({"a": ONE}, contents={"a": tensor(ONE, "0"), "b": tensor(ONE[:2], "0")}),
            "two tensors describe one storage differently",
        ),
        (
            archive({"a": ONE}, contents={"a": tensor(np.ones(8, np.float32), "0", count=4)}),
            "reaches beyond its 4 elements",
        ),
    ],
)
def test_refuses(data, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        torch_state_dict.read(write(tmp_path, data))


def test_refuses_an_archive_without_a_pickle(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/notes.txt", "hello")
    with pytest.raises(ValueError, match=r"without data\.pkl"):
        torch_state_dict.read(write(tmp_path, stream.getvalue()))


def test_legacy_storage_of_another_size(tmp_path):
    data = (OWN / "state_dict_legacy.pth").read_bytes()
    # The first storage's count, eight bytes, follows the pickled list of storages.
    stream = io.BytesIO(data)
    keys_end = data.rindex(b"e.") + 2
    stream.seek(keys_end)
    (count,) = struct.unpack("<q", stream.read(8))
    assert 0 < count < 100
    changed = data[:keys_end] + struct.pack("<q", count + 1) + data[keys_end + 8 :]
    with pytest.raises(ValueError, match="holds another number of them"):
        torch_state_dict.read(write(tmp_path, changed))


def test_legacy_of_another_version(tmp_path):
    head = torch_storage.LEGACY_SIGNATURE
    path = write(tmp_path, head + fabricate.pickle_bytes(1000, protocol=2))
    with pytest.raises(ValueError, match="another version"):
        torch_state_dict.read(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such file"):
        torch_state_dict.read(tmp_path / "none.pth")
