import os
import pickle
import time

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.convert import edm
from tests.support import edm_cases, fabricate, golden_cases
from tests.support.fabricate import Call, Raw, pickle_bytes

MUTATIONS = int(os.environ.get("DIFFJAX_TEST_MUTATIONS", "300"))


@pytest.fixture
def write(tmp_path):
    def write_file(data, name="network.pkl"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write_file


def refuse(path, message):
    """Reads a file that must fail with a single line that names it."""
    with pytest.raises(ValueError, match=message) as caught:
        edm.read_pickle(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "diffjax reads EDM network pickles" in text
    assert "\n" not in text
    assert len(text) < 1000


# Files that EDM's code wrote.


@pytest.mark.parametrize("name", golden_cases.cases("edm_pickle", precond=golden_cases.PRECONDS))
def test_genuine_pickles(name, write):
    case = golden_cases.Case(name)
    expected = edm_cases.shapes(case)
    path = write(edm_cases.genuine_pickle(case))
    init_kwargs, state_dict = edm.read_pickle(path)
    assert init_kwargs == case.init_kwargs
    assert state_dict.keys() == expected.keys()
    for kind in ("params", "buffers", "state_dict"):  # each in the file's order
        names = [name for name, _ in case.meta.get(kind, ())]
        assert [name for name in state_dict if name in names] == names
    for array_name, array in state_dict.items():
        assert array.dtype == np.float32
        written = edm_cases.array(case, array_name, expected[array_name])
        np.testing.assert_array_equal(array, written)
        array += 1  # the caller's own, writable

    init_kwargs, state_dict = edm.read_pickle(path)
    denoiser, params = edm.to_denoiser(init_kwargs, state_dict)
    output = denoiser(params, case["x"], case["sigma"], labels=case.labels)
    assert golden_cases.relative_l2(output, case.expected("D")) < case.output_bound
    back = edm.to_state_dict(init_kwargs, params)
    assert back.keys() == state_dict.keys()
    assert all(np.array_equal(back[n], state_dict[n]) for n in back)


@pytest.mark.parametrize(("name", "shapes"), golden_cases.state_dict_params())
def test_names_and_shapes_are_pytorchs(name, shapes):
    assert edm.state_dict_shapes(golden_cases.Case(name).init_kwargs) == shapes


@pytest.mark.parametrize(
    "name",
    golden_cases.cases(
        "network",
        precond=golden_cases.PRECONDS,
        where=lambda case: not golden_cases.is_large(case.meta),
    ),
)
def test_a_converted_network_gives_the_published_codes_output(name, write):
    golden = golden_cases.Case(name)
    kwargs = golden.init_kwargs
    shapes = golden_cases.state_dicts().get(name) or edm.state_dict_shapes(kwargs)
    state_dict = {n: edm_cases.array(golden, n, shape) for n, shape in shapes.items()}
    read_kwargs, read_arrays = edm.read_pickle(write(fabricate.edm_pickle(kwargs, state_dict)))
    assert read_kwargs == kwargs
    denoiser, params = edm.to_denoiser(read_kwargs, read_arrays)
    output = denoiser(
        params,
        golden["x"],
        golden["sigma"],
        labels=golden.labels,
        augment_labels=golden.augment_labels,
    )
    assert golden_cases.relative_l2(output, golden.expected("D")) < 3e-5
    back = edm.to_state_dict(kwargs, params)
    assert back.keys() == state_dict.keys()
    for array_name, array in back.items():
        np.testing.assert_allclose(array, state_dict[array_name], rtol=1e-7)


# Variants of the format.


def test_positional_arguments_are_named(write):
    kwargs, state_dict = edm_cases.small_network()
    by_name = {k: v for k, v in kwargs.items() if k not in ("img_resolution", "img_channels")}
    data = fabricate.edm_pickle(by_name, state_dict, args=(4, 1))
    assert edm.read_pickle(write(data))[0] == kwargs


@pytest.mark.parametrize(
    ("class_name", "args", "named"),
    [
        ("EDMPrecond", (0, 80, 0.5), {"sigma_min": 0, "sigma_max": 80, "sigma_data": 0.5}),
        (
            "VPPrecond",
            (19.9, 0.1, 1000, 1e-5),
            {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5},
        ),
        ("VEPrecond", (0.02, 100), {"sigma_min": 0.02, "sigma_max": 100}),
        ("iDDPMPrecond", (0.001, 0.008, 1000), {"C_1": 0.001, "C_2": 0.008, "M": 1000}),
    ],
)
def test_positional_arguments_of_each_class(class_name, args, named, write):
    data = fabricate.edm_pickle({"class_name": class_name}, {}, args=(8, 3, 10, True, *args, "X"))
    assert edm.read_pickle(write(data))[0] == {
        "class_name": class_name,
        "img_resolution": 8,
        "img_channels": 3,
        "label_dim": 10,
        "use_fp16": True,
        **named,
        "model_type": "X",
    }


def test_numpy_scalars_and_tuples_become_plain(write):
    kwargs, state_dict = edm_cases.small_network()
    unusual = kwargs | {
        "dropout": fabricate.numpy_scalar(0.25, "f8"),
        "num_blocks": fabricate.numpy_scalar(1, "i8", home="numpy.core.multiarray"),
        "channel_mult": (1, 1),
    }
    read = edm.read_pickle(write(fabricate.edm_pickle(unusual, state_dict)))[0]
    assert read == kwargs | {"dropout": 0.25}
    assert type(read["dropout"]) is float
    assert type(read["num_blocks"]) is int


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions(dtype, write):
    kwargs, state_dict = edm_cases.small_network()
    stored = {name: array.astype(jnp.dtype(dtype)) for name, array in state_dict.items()}
    read_kwargs, read = edm.read_pickle(write(fabricate.edm_pickle(kwargs, stored)))
    expected = np.float32 if dtype == "bfloat16" else np.dtype(dtype)
    assert {array.dtype for array in read.values()} == {np.dtype(expected)}
    for name, array in read.items():
        np.testing.assert_array_equal(array, stored[name].astype(expected))
    _, params = edm.to_denoiser(read_kwargs, read)
    kernel = params["params"]["map_layer0"]["kernel"]
    assert kernel.dtype == np.float32
    weight = stored["model.map_layer0.weight"].astype(np.float32)
    np.testing.assert_array_equal(kernel, weight.T)


def test_non_contiguous_weights_and_zip_storages(write):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    state = fabricate.module_state(
        {
            "transposed": fabricate.tensor(weight, size=(3, 2), stride=(1, 3)),
            "zipped": fabricate.tensor(weight, stream=fabricate.storage_archive(weight)),
        }
    )
    ema = fabricate.persistent("EDMPrecond", state)
    _, arrays = edm.read_pickle(write(pickle_bytes({"ema": ema})))
    np.testing.assert_array_equal(arrays["transposed"], weight.T)
    np.testing.assert_array_equal(arrays["zipped"], weight)


def test_transient_buffers_and_other_entries_are_left_out(write):
    easy_dict = Call("dnnlib.util.EasyDict", items={"path": "x.zip"}, opcode=b"\x81")
    loss = fabricate.persistent("EDMLoss", {"P_mean": -1.2, "sigma_data": 0.5})
    state = fabricate.module_state(buffers={"kept": fabricate.tensor(np.ones(2, np.float32))})
    state["_buffers"]["transient"] = fabricate.tensor(np.ones(2, np.float32))
    state["_non_persistent_buffers_set"] = Call("__builtin__.set", (["transient"],))
    contents = {
        "loss_fn": loss,
        "augment_pipe": None,
        "dataset_kwargs": easy_dict,
        "ema": fabricate.persistent("EDMPrecond", state),
    }
    _, arrays = edm.read_pickle(write(pickle_bytes(contents)))
    assert list(arrays) == ["kept"]


def test_a_large_file_is_read_in_seconds(write):
    weight = np.ones((1 << 20,), np.float32)
    arrays = {f"layer{i}": {"weight": weight} for i in range(40)}
    state = fabricate._state(arrays)
    path = write(pickle_bytes({"ema": fabricate.persistent("EDMPrecond", state)}))
    start = time.process_time()
    _, read = edm.read_pickle(path)
    assert time.process_time() - start < 20
    assert sum(array.nbytes for array in read.values()) == 40 << 22


# What is refused.


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pkl: no such file"):
        edm.read_pickle(tmp_path / "absent.pkl")


def test_a_folder(tmp_path):
    refuse(tmp_path, "not a file")


def test_a_file_beyond_the_bound_is_not_read(write, monkeypatch):
    monkeypatch.setattr(edm, "MAX_FILE_BYTES", 10)
    refuse(write(pickle_bytes({"ema": "x"})), "larger than")


def entry(value):
    return pickle_bytes({"ema": value})


def with_argument(name, value):
    kwargs, state_dict = edm_cases.small_network()
    return fabricate.edm_pickle(kwargs | {name: value}, state_dict)


def with_state(**state):
    return entry(fabricate.persistent("EDMPrecond", fabricate.module_state() | state))


def tensor_call(**kwargs):
    return fabricate.tensor(np.ones(4, np.float32), **kwargs)


def self_holding_module():
    # The module's own memo entry, put among its children after it was made.
    container = "torch.nn.modules.container.ModuleDict"
    module = fabricate.encode(Call(container, opcode=b"\x81")) + b"q\x00"
    state = fabricate.module_state(modules={"self": Raw(b"h\x00")})
    return Raw(module + fabricate.encode(state) + b"b")


DOUBLING = Raw(b")" + b"q\x00h\x00\x86" * 1000)
DOUBLING_LISTS = Raw(b"(]q\x00" + b"](h\x00h\x00eq\x00" * 15 + b"t")

HOSTILE = {
    "empty": (b"", "not a pickle"),
    "text": (b"just some text\n", "not a pickle"),
    "html": (b"<!DOCTYPE html><html>", "not a pickle"),
    "protocol 0": (pickle.dumps({"ema": 1}, 0), "not a pickle"),
    "zip": (fabricate.storage_archive(np.ones(2, np.float32)), "zip archive"),
    "torch.save": (fabricate.storage_stream(np.ones(2, np.float32)), r"torch\.save file"),
    "list": (pickle.dumps([1, 2]), "holds a list"),
    "no ema": (pickle.dumps({"model": 1, "other": 2}), "no entry 'ema'; it has 'model'"),
    "nothing": (pickle.dumps({}), "no entries"),
    "ema is data": (entry([1]), "'ema' is a list"),
    "ema is doubling": (entry(DOUBLING), "'ema' is a tuple"),
    "ema is a state dict": (entry({"weight": tensor_call()}), "'ema' is a dict"),
    "unknown class": (entry(fabricate.persistent("Generator", {})), "'Generator', is none of"),
    "doubling class": (entry(fabricate.persistent(DOUBLING, {})), "unknown form"),
    "os.system": (entry(Call("os.system", ("true",))), r"'os\.system', which is not on"),
    "eval": (entry(Call("builtins.eval", ("1",))), r"'builtins\.eval'"),
    "getattr": (entry(Call("builtins.getattr", ("a", "b"))), r"'builtins\.getattr'"),
    "other torch": (entry(Call("torch.load", ("x",))), r"'torch\.load'"),
    "hidden": (
        with_state(_forward_hooks={"a": Call("os.system", ("true",))}),
        r"'os\.system'",
    ),
    "inside a storage": (
        entry(
            Call(
                "torch.storage._load_from_bytes",
                (pickle_bytes(Call("os.system", ("true",)), 2),),
            )
        ),
        r"'os\.system'",
    ),
    "persistent id": (entry(fabricate.PersistentId("x")), "persistent id"),
    "state of a foreign object": (entry(Raw(b"}}b")), "foreign object"),
    "state of a list": (
        entry(Call("torch.nn.modules.container.ModuleDict", state=[1])),
        "not a dictionary",
    ),
    "deep": (entry(Raw(b"]" * 10 + b"(" * 5000)), "deep"),
    "doubling key": (entry(Raw(b"}" + DOUBLING.code + b"K\x01s")), "dictionary key"),
    "doubling argument": (with_argument("channel_mult", DOUBLING), "'channel_mult'"),
    "doubling list": (with_argument("channel_mult", DOUBLING_LISTS), "'channel_mult'"),
    "long argument": (with_argument("channel_mult", [1] * 17), "'channel_mult'"),
    "huge integer": (with_argument("num_blocks", 2**5000), "'num_blocks'"),
    "long string": (with_argument("model_type", "x" * 10_000), "'model_type'"),
    "dict argument": (with_argument("dropout", {"a": 1}), "'dropout'"),
    "array argument": (with_argument("dropout", tensor_call()), "'dropout'"),
    "argument twice": (
        fabricate.edm_pickle({"class_name": "EDMPrecond", "img_resolution": 1}, {}, args=(4,)),
        "'img_resolution' twice",
    ),
    "too many arguments": (
        fabricate.edm_pickle({"class_name": "EDMPrecond"}, {}, args=(1,) * 9),
        "at most 8",
    ),
    "no arguments": (with_state(_init_args=None), "how it was constructed"),
    "no parameters": (with_state(_parameters=None), "no dictionary _parameters"),
    "dotted name": (with_state(_buffers={"a.b": tensor_call()}), "improper names"),
    "number as tensor": (with_state(_buffers={"a": 1.0}), "not a tensor"),
    "number as module": (with_state(_modules={"a": 1}), "not a module"),
    "transient buffers": (with_state(_non_persistent_buffers_set=5), "no set"),
    "endless modules": (
        entry(
            fabricate.persistent(
                "EDMPrecond", fabricate.module_state(modules={"a": self_holding_module()})
            )
        ),
        "holds itself",
    ),
    "shared module": (
        with_state(
            _modules={
                "a": Raw(
                    fabricate.encode(fabricate.persistent("Layer", fabricate.module_state()))
                    + b"q\x05"
                ),
                "b": Raw(b"h\x05"),
            }
        ),
        "held twice",
    ),
    "tensor beyond": (with_state(_buffers={"a": tensor_call(size=(5,))}), "reaches beyond"),
    "tensor before": (with_state(_buffers={"a": tensor_call(offset=-1)}), "non-negative"),
    "tensor repeated": (
        with_state(_buffers={"a": tensor_call(size=(2**40,), stride=(0,))}),
        "reaches beyond",
    ),
    "arrays beyond the file": (
        with_state(
            _buffers={
                "a": Raw(fabricate.encode(fabricate.tensor(np.ones(1000, np.float32))) + b"q\x05"),
                **{f"b{i}": Raw(b"h\x05") for i in range(1000)},
            }
        ),
        "larger than the file",
    ),
    "numpy object": (
        with_argument("dropout", Call("numpy.dtype", ("O8", False, True))),
        "unknown NumPy type 'O8'",
    ),
    "numpy scalar": (
        with_argument("dropout", Call("numpy.core.multiarray.scalar", (1, b""))),
        "unknown form",
    ),
    "set of lists": (entry(Call("builtins.set", ([[1]],))), "other than names"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(name, write):
    data, message = HOSTILE[name]
    refuse(write(data), message)


def test_nothing_of_the_file_is_run(write):
    # The module source that `fabricate` writes would end the test run.
    kwargs, state_dict = edm_cases.small_network()
    data = fabricate.edm_pickle(kwargs, state_dict)
    assert b"raise SystemExit" in data
    assert edm.read_pickle(write(data))[0] == kwargs


def test_every_truncation_is_refused(write):
    kwargs, state_dict = edm_cases.small_network()
    data = fabricate.edm_pickle(kwargs, state_dict)
    for length in range(0, len(data), len(data) // 150):
        refuse(write(data[:length]), ".")


SEED_PICKLES = st.sampled_from(edm_cases.GENUINE).map(
    lambda name: edm_cases.genuine_pickle(edm_cases.own(name))
)


@st.composite
def mutated_pickles(draw):
    data = bytearray(draw(SEED_PICKLES))
    for _ in range(draw(st.integers(1, 8))):
        # Instructions crowd at the start and the end, where the arguments are.
        at = draw(st.one_of(st.integers(0, 3000), st.integers(0, len(data) - 1)))
        at = len(data) - 1 - at if draw(st.booleans()) else at
        kind = draw(st.sampled_from(["set", "insert", "delete", "repeat"]))
        if kind == "set":
            data[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "delete":
            del data[at : at + draw(st.integers(1, 16))]
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
    return bytes(data)


@hypothesis.settings(
    max_examples=MUTATIONS,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    database=None,
)
@hypothesis.given(data=mutated_pickles())
def test_a_mutated_pickle_reads_or_fails_cleanly(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "mutated.pkl"
    path.write_bytes(data)
    start = time.process_time()
    try:
        init_kwargs, state_dict = edm.read_pickle(path)
    except ValueError as error:
        message = str(error)
    else:
        message = f"{path}: read"
        assert init_kwargs["class_name"] in edm._POSITIONAL
        assert all(isinstance(array, np.ndarray) for array in state_dict.values())
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert time.process_time() - start < 30


# Arrays that do not fit the arguments.


def damage(change):
    kwargs, state_dict = edm_cases.small_network()
    kwargs, state_dict = dict(kwargs), dict(state_dict)
    change(kwargs, state_dict)
    return kwargs, state_dict


WEIGHT = "model.map_layer0.weight"
FILTER = "model.enc.2x2_down.conv0.resample_filter"


def set_nan(kwargs, arrays):
    arrays[WEIGHT] = np.full_like(arrays[WEIGHT], np.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda k, a: a.pop(WEIGHT), f"{WEIGHT} is missing"),
        (lambda k, a: a.update({"model.extra": a[WEIGHT]}), "model.extra is not expected"),
        (
            lambda k, a: a.update({WEIGHT: a[WEIGHT][:, :2]}),
            r"map_layer0\.weight has shape \(16, 2\) instead of \(16, 4\)",
        ),
        (lambda k, a: a.update({WEIGHT: a[WEIGHT].astype(int)}), "int64, not floating"),
        (lambda k, a: a.update({WEIGHT: a[WEIGHT].astype(complex)}), "complex128, not floating"),
        (set_nan, f"{WEIGHT} holds NaN or infinity"),
        (lambda k, a: a.update({WEIGHT: a[WEIGHT].astype(float) * 1e300}), "NaN or infinity"),
        (lambda k, a: a.pop(FILTER), f"{FILTER} is missing"),
        (lambda k, a: a.update({FILTER: a[FILTER] * 2}), f"{FILTER} is not the resample_filter"),
        (lambda k, a: k.update(resample_filter=[1, 3, 3, 1]), r"instead of \(1, 1, 4, 4\)"),
        (lambda k, a: k.update(label_dim=10), r"model\.map_label\.weight is missing"),
        (lambda k, a: k.update(unknown=1), "unknown"),
        (lambda k, a: k.update(class_name="Other"), "Other"),
        (lambda k, a: k.update(model_type="Other"), "Other"),
        (lambda k, a: k.pop("img_resolution"), "img_resolution is missing"),
        (lambda k, a: k.update(num_blocks=1 << 16), "num_blocks"),
        (lambda k, a: k.update(num_blocks=1 << 40), "num_blocks"),
        (lambda k, a: k.update(channel_mult=[1] * 17), "more than 16"),
        (lambda k, a: k.update(num_blocks="x"), "describe no EDM network"),
        (lambda k, a: k.update(img_resolution=0.5), "describe no EDM network"),
        (lambda k, a: k.update(img_resolution="x"), "describe no EDM network"),
        (lambda k, a: k.update(channel_mult=1), "describe no EDM network"),
        (lambda k, a: k.update(channel_mult=[]), "describe no EDM network"),
        (lambda k, a: k.update(model_channels=-1), "model_channels=-1"),
        (lambda k, a: k.update(model_channels=48, channel_mult=[1, 2]), "of 144 channels; mult"),
        (
            lambda k, a: k.update(model_type="DhariwalUNet", model_channels=224),
            "224 channels, which don't divide into 3 heads",
        ),
        (lambda k, a: k.update(attn_resolutions=None), "describe no EDM network"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        edm.to_denoiser(*damage(change))


def test_every_fault_is_named_at_once():
    kwargs, state_dict = edm_cases.small_network()
    with pytest.raises(ValueError, match="is missing") as caught:
        edm.to_denoiser(kwargs, {})
    assert all(f"{name} is missing" in str(caught.value) for name in state_dict)


def test_a_students_missing_array_is_named_on_the_way_back():
    kwargs, state_dict = edm_cases.small_network()
    _, params = edm.to_denoiser(kwargs, state_dict)
    del params["params"]["map_layer0"]["kernel"]
    with pytest.raises(ValueError, match="params/map_layer0/kernel is missing"):
        edm.to_state_dict(kwargs, params)


def test_a_student_written_for_pytorch_reads_back(write):
    kwargs, state_dict = edm_cases.small_network()
    _, params = edm.to_denoiser(kwargs, state_dict)
    data = fabricate.edm_pickle(kwargs, edm.to_state_dict(kwargs, params))
    read = edm.read_pickle(write(data))[1]
    assert read.keys() == state_dict.keys()
    assert all(np.array_equal(read[name], state_dict[name]) for name in read)
