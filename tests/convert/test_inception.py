import functools
import zlib

import jax
import numpy as np
import pytest

from diffjax.convert import inception
from tests.files import test_torch_state_dict
from tests.support import golden_cases
from tests.support.golden_cases import relative_l2


@functools.cache
def weights(name, folder):
    """Weights by a rule, for the names and shapes of torch-fidelity's network in a case."""
    case = golden_cases.Case(name, folder)
    return {n: weight(case.prefix + n, shape) for n, shape in case.meta["names"].items()}


@functools.cache
def network(name, folder):
    return inception.to_features(weights(name, folder))


@pytest.fixture(scope="module")
def state_dict():
    return weights("inception", golden_cases.OWN)


@pytest.fixture(scope="module")
def features():
    return network("inception", golden_cases.OWN)


def weight(name, shape):
    seed = zlib.crc32(name.encode()) & 0x7FFFFFFF
    v = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    if len(shape) == 4:
        return v * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if len(shape) == 2:
        return v * np.float32(1 / np.sqrt(shape[1]))
    if name.endswith("running_var"):
        return 1 + np.float32(0.1) * np.abs(v)
    offset = np.float32(1 if name.endswith("weight") else 0)
    return offset + np.float32(0.1) * v


def images(case):
    return [name.removesuffix("_images") for name in case.names if name.endswith("_images")]


@pytest.mark.parametrize(("name", "which"), golden_cases.cases("inception", each=images))
def test_matches_torch_fidelity(name, which):
    case = golden_cases.Case(name)
    features = network(name, case.folder)
    result, logits = features(np.moveaxis(case.raw(f"{which}_images"), 1, 3))
    assert relative_l2(result, case.exact(f"{which}_2048")) < 1e-5
    assert relative_l2(logits, case.exact(f"{which}_logits")) < 1e-5
    unbiased = logits - features.logit_bias
    assert relative_l2(unbiased, case.exact(f"{which}_logits_unbiased")) < 1e-5
    assert result.dtype == logits.dtype == np.float32


def test_reads_files_of_torch(state_dict, features, tmp_path):
    counters = {"Conv2d_1a_3x3.bn.num_batches_tracked": np.array(9)}
    path = tmp_path / "inception.pth"
    path.write_bytes(test_torch_state_dict.archive(state_dict | counters))
    loaded = inception.load(str(path))
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, features.variables)


def test_refuses_files_of_another_network():
    path = golden_cases.OWN / "state_dict_zip.pth"
    with pytest.raises(ValueError, match=r"state_dict_zip\.pth: .*fc\.bias is missing") as error:
        inception.load(str(path))
    assert "conv.weight is not expected" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.bias": None}, "fc.bias is missing"),
        ({"AuxLogits.fc.bias": np.zeros(1000)}, "AuxLogits.fc.bias is not expected"),
        ({"fc.bias": np.zeros(1000)}, r"fc.bias has shape \(1000,\) instead of \(1008,\)"),
        (
            {"Mixed_6b.branch7x7_2.conv.weight": np.zeros((128, 128, 7, 1))},
            r"Mixed_6b.branch7x7_2.conv.weight has shape .* instead of \(128, 128, 1, 7\)",
        ),
        ({"fc.bias": np.full(1008, np.nan)}, "fc.bias holds NaN or infinity"),
        ({"fc.bias": np.zeros(1008, np.int64)}, "fc.bias is int64, not floating point"),
    ],
)
def test_refuses_arrays(state_dict, change, message):
    changed = {k: v for k, v in (state_dict | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        inception.to_features(changed)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), "must be uint8 .* got float32"),
        (np.zeros((2, 3, 32, 32), np.uint8), r"must be \[N, H, W, 3\], got \(2, 3, 32, 32\)"),
        (np.zeros((32, 32, 3), np.uint8), r"must be \[N, H, W, 3\]"),
        (np.zeros((0, 32, 32, 3), np.uint8), r"must be \[N, H, W, 3\]"),
    ],
)
def test_refuses_images(features, images, message):
    with pytest.raises(ValueError, match=message):
        features(images)
