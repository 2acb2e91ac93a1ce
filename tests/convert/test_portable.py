"""Networks as one file of arrays, there and back."""

import json
import zipfile

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from diffjax.convert import edm, portable
from diffjax.files import torch_state_dict
from diffjax.models import network_folder
from tests.support import edm_cases, golden_cases

CASES = golden_cases.cases(
    "network",
    precond=golden_cases.PRECONDS,
    where=lambda case: not golden_cases.is_large(case.meta),
)


def write(path, kwargs, params, names=portable.EDM):
    text = network_folder.describe(kwargs)
    portable.write(path, portable.Header(names, network_folder.FILE, text), params)
    return path


def state_dict_of(case):
    """The recorded network's own state dict: the names, shapes and values of EDM's code."""
    shapes = golden_cases.state_dicts().get(case.name) or edm.state_dict_shapes(case.init_kwargs)
    return {name: edm_cases.array(case, name, shape) for name, shape in shapes.items()}


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        assert array.dtype == wanted[name].dtype == np.float32
        np.testing.assert_array_equal(array, wanted[name], strict=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("name", CASES)
def test_a_recorded_state_dict_goes_through_ours_and_comes_out_equal_to_the_bit(
    name, suffix, tmp_path
):
    case = golden_cases.Case(name)
    wanted = state_dict_of(case)
    _, params = edm.to_denoiser(case.init_kwargs, wanted)
    path = write(tmp_path / f"network{suffix}", case.init_kwargs, params)
    read = torch_state_dict.read if suffix == ".pt" else safetensors_numpy.load_file
    assert_equal(read(path), wanted)
    found, again = portable.load(path)
    assert found.init_kwargs == json.loads(json.dumps(case.init_kwargs))
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("names", [portable.OWN, portable.EDM])
def test_a_file_says_by_itself_what_it_is(names, tmp_path):
    kwargs, state_dict = edm_cases.small_network()
    _, params = edm.to_denoiser(kwargs, state_dict)
    path = write(tmp_path / "network.safetensors", kwargs, params, names)
    assert portable.is_one(path)
    portable.to_folder(path, tmp_path / "folder")
    assert network_folder.load_denoiser_kwargs(tmp_path / "folder") == kwargs
    jax.tree.map(np.testing.assert_array_equal, portable.load(path)[1], params)


def test_other_files_are_no_exports(tmp_path):
    _, state_dict = edm_cases.small_network()
    foreign = tmp_path / "weights.safetensors"
    safetensors_numpy.save_file(state_dict, foreign)
    torch_state_dict.write(tmp_path / "weights.pt", state_dict)
    (tmp_path / "text").write_text("a text")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("diffjax", "{}")
    for path in (*tmp_path.iterdir(), tmp_path, tmp_path / "absent"):
        assert not portable.is_one(path), path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_damage_is_told_in_one_line(suffix, tmp_path):
    kwargs, state_dict = edm_cases.small_network()
    _, params = edm.to_denoiser(kwargs, state_dict)
    path = write(tmp_path / f"network{suffix}", kwargs, params)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert not portable.is_one(path)  # with its end went its description, or the trust in it
    with pytest.raises(ValueError, match=r"is cut off.*: fetch it again"):
        edm.read_pickle(path)
    value = state_dict["model.map_layer0.bias"].tobytes()
    for found in (b"EDMPrecond", value):  # in the description, and among the arrays
        assert whole.count(found) == 1
        changed = bytes([found[0] ^ 1]) + found[1:]
        path.write_bytes(whole.replace(found, changed))
        with pytest.raises(ValueError, match=f"network{suffix}") as told:
            portable.load(path)
        assert "\n" not in str(told.value)


def test_arrays_that_are_not_the_networks_are_named(tmp_path):
    kwargs, state_dict = edm_cases.small_network()
    _, params = edm.to_denoiser(kwargs, state_dict)
    del params["params"]["map_layer0"]["kernel"]
    path = write(tmp_path / "network.safetensors", kwargs, params, portable.OWN)
    with pytest.raises(ValueError, match=r"network\.safetensors: .*map_layer0/kernel is missing"):
        portable.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_pytorch_reads_the_state_dict(name, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch isn't installed")
    case = golden_cases.Case(name)
    wanted = state_dict_of(case)
    _, params = edm.to_denoiser(case.init_kwargs, wanted)
    path = write(tmp_path / "network.pt", case.init_kwargs, params)
    read = torch.load(path, weights_only=True)
    assert all(tensor.is_contiguous() for tensor in read.values())
    assert_equal({key: tensor.numpy() for key, tensor in read.items()}, wanted)
    holder = _modules(torch, golden_cases.state_dicts()[name])  # names that EDM's code wrote
    assert str(holder.load_state_dict(read, strict=True)) == "<All keys matched successfully>"


def _modules(torch, shapes):
    """Modules of EDM's names and shapes, nested as its own are."""
    root = torch.nn.Module()
    for name, shape in shapes.items():
        *parts, leaf = name.split(".")
        node = root
        for part in parts:
            if part not in node._modules:
                node.add_module(part, torch.nn.Module())
            node = node._modules[part]
        node.register_parameter(leaf, torch.nn.Parameter(torch.zeros(shape)))
    return root
