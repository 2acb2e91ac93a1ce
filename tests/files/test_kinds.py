"""Files of other kinds than what is asked for, called by their names wherever a file is read."""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from diffjax import data
from diffjax.convert import edm, edm_state_dict, inception
from diffjax.evaluation import image_statistics
from diffjax.files import kinds, restricted_pickle, torch_state_dict
from diffjax.models import denoiser
from tests.files.test_torch_state_dict import archive
from tests.support import edm_cases, fabricate


def zipped(names, closed=True):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in names:
            file.writestr(name, b"content")
    return stream.getvalue() if closed else stream.getvalue()[:-30]


def tarred():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        file.addfile(tarfile.TarInfo("x"), io.BytesIO())
    return stream.getvalue()


def arrays():
    stream = io.BytesIO()
    np.savez(stream, a=np.ones(3))
    return stream.getvalue()


HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
KINDS = {
    "web page": b"<!DOCTYPE html><html>",
    "web page, indented": b"\xef\xbb\xbf\n  <html lang=en>",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    "empty": b"",
    "gzip": gzip.compress(b"x"),
    "tar": tarred(),
    "safetensors": struct.pack("<Q", len(HEADER)) + HEADER + bytes(4),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(99),
    "TensorFlow checkpoint": bytes(99) + bytes.fromhex("57fb808b247547db"),
    "TensorFlow checkpoint, list": b'model_checkpoint_path: "model.ckpt-1"\n',
    "zip archive of 2 files": zipped(["a/b.txt", "c.txt"]),
    "cut off or damaged": zipped(["a/b.txt"], closed=False),
    "NumPy array": b"\x93NUMPY\x01\x00",
    "nothing but zeros": bytes(99),
    "function of StableHLO": b"<\0\0\0" + bytes(300) + b"ML\xefR\rStableHLO_v1.15.0\0",
    "function of ONNX": b"\x08\x0a\x12\x08jax2onnx\x1a\x060.17.1:",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JSON": b'{"message": "Not Found"}',
    "text": b"Bad gateway\n",
}
READERS = {
    "network.pkl": edm.read_pickle,
    "weights.pth": torch_state_dict.read,
    "statistics.npz": lambda path: image_statistics.load_reference(str(path)),
    "images.zip": lambda path: data.open_source(str(path)),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_reader_says_what_a_file_is_instead(name, kind, tmp_path):
    path = tmp_path / name
    path.write_bytes(KINDS[kind])
    with pytest.raises(ValueError, match=rf"{name}: ") as caught:
        READERS[name](path)
    text = str(caught.value)
    is_zip = kind.startswith("zip") and name in ("statistics.npz", "images.zip")
    assert is_zip or kind.partition(",")[0] in text
    assert "\n" not in text
    assert "<_io" not in text
    assert "object at" not in text


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (arrays(), "an .npz of NumPy arrays"),
        (archive({"a": np.ones(3, np.float32)}), "a zip archive of torch.save"),
        (pickle.dumps({"a": 1}), "a pickle"),
        (zipped([]), "a zip archive with nothing in it"),
        (zipped(["config.json", "metadata.json", "model.weights.h5"]), "a Keras model"),
        (b"\x80\x01\x02\xfe", None),
        (b"\xde\xad\xbe\xef" * 9, None),
    ],
)
def test_kinds_that_some_reader_reads(content, kind, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    found = kinds.of(path)
    assert (found is None) if kind is None else found.name.startswith(kind)


@pytest.mark.parametrize("name", ["network.pkl", "weights.pth"])
def test_a_folder_and_a_file_that_may_not_be_read(name, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=rf"{tmp_path}: not a file, but a folder: name the"):
        READERS[name](tmp_path)
    path = tmp_path / name
    path.write_bytes(b"x")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(ValueError, match=rf"{name}: can't be read \(Permission denied\)\."):
        READERS[name](path)


def test_a_pickle_that_is_cut_off_is_called_so(tmp_path):
    whole = fabricate.edm_pickle(*edm_cases.small_network())
    path = tmp_path / "network.pkl"
    for part in (0.3, 0.6, 0.999):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(ValueError, match=r"cut off: exhausted after \d+ bytes; fetch"):
            edm.read_pickle(path)
    with pytest.raises(ValueError, match=r"damaged at byte 3; fetch the file again"):
        restricted_pickle.load(
            io.BytesIO(b"\x80\x02\xffrest"), {}, budget=restricted_pickle.Budget()
        )


def test_a_wrapped_network_is_told(tmp_path):
    kwargs, arrays = edm_cases.small_network()
    network = denoiser.from_edm_kwargs(kwargs)
    for prefix, wrapper in (("module.", "DataParallel"), ("_orig_mod.", "torch.compile")):
        wrapped = {prefix + name: np.asarray(array) for name, array in arrays.items()}
        with pytest.raises(ValueError, match=rf"begin with '{prefix}', .*{wrapper}: save"):
            edm_state_dict.to_params(network, wrapped)
        with pytest.raises(ValueError, match=wrapper):
            inception.to_features(wrapped)
    call = fabricate.Call("torch.nn.parallel.data_parallel.DataParallel", opcode=b"\x81")
    path = tmp_path / "network.pkl"
    path.write_bytes(fabricate.pickle_bytes({"ema": call}))
    with pytest.raises(ValueError, match=r"DataParallel.*save the network inside its wrapper"):
        edm.read_pickle(path)
