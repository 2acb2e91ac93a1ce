"""DiT's and SiT's files in their three layouts, names and shapes, and the catalogue of them."""

import io
import json
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.convert import __main__ as command
from diffjax.convert import catalogue, checkpoint, dit, edm, portable, teacher
from diffjax.files import download, torch_state_dict
from diffjax.models import network_folder
from diffjax.models.denoiser import from_edm_kwargs
from tests.support import dit_cases, edm2_cases, fabricate, golden_cases
from tests.support.fabricate import Call, PersistentId

NAMES = "sit_state_dict_names.json"
SAID = {"num_heads": 2}  # which no file says of so small a network
KWARGS = {
    "class_name": "SiT",
    **{"img_resolution": 4, "img_channels": 4, "label_dim": 2, "patch_size": 2},
    **{"hidden_size": 8, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0, "learn_sigma": True},
}
NETWORK = json.dumps({"class_name": "SiT", "num_heads": 2})


def arrays(prefix=""):
    return dit_cases.state_dict(from_edm_kwargs(KWARGS), prefix)


def tensor(array, key):
    pid = ("storage", fabricate.Global("torch.FloatStorage"), key, "cpu", array.size)
    strides = tuple(step // array.itemsize for step in array.strides)
    arguments = (PersistentId(pid), 0, array.shape, strides, False, Call("collections.OrderedDict"))
    return Call("torch._utils._rebuild_tensor_v2", arguments)


def archive(contents, storages):
    """What `torch.save` writes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", fabricate.pickle_bytes(contents, protocol=2))
        for key, array in storages.items():
            file.writestr(f"archive/data/{key}", array.tobytes())
    return stream.getvalue()


def training_state(args=None, **others):
    """A training program's: the model, its averages, the optimiser's state, its arguments."""
    storages, contents = {}, {}
    for entry, prefix in (("model", "m."), ("ema", "")):
        contents[entry] = {}
        for name, array in arrays(prefix).items():
            storages[f"{len(storages)}"] = array
            contents[entry][name] = tensor(array, f"{len(storages) - 1}")
    moments = np.ones(3, np.float32)
    storages["opt"] = moments
    contents["opt"] = {"state": {0: {"exp_avg": tensor(moments, "opt")}}, "param_groups": [{}]}
    told = {"model": "SiT-S/2", "num_classes": 2, "path_type": "GVP", "prediction": "velocity"}
    contents["args"] = Call("argparse.Namespace", (), opcode=b"\x81", state=args or told)
    return archive({**contents, **others}, storages)


def plain(changed=None):
    found = arrays() if changed is None else changed
    storages = {str(i): array for i, array in enumerate(found.values())}
    contents = {name: tensor(array, str(i)) for i, (name, array) in enumerate(found.items())}
    return archive(contents, storages)


def write(tmp_path, data, name="network.pt"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def files(case):
    return case.meta["files"]


@pytest.mark.parametrize(
    ("name", "file"),
    edm2_cases.or_skip(
        [
            case
            for kind in ("sit_checkpoint", "dit_checkpoint")
            for case in golden_cases.cases(kind, each=files)
        ],
        parts=2,
    ),
)
def test_genuine_files(name, file):
    case = golden_cases.Case(name)
    wanted = dit_cases.init_kwargs(case.meta["config"])
    said = SAID if file == case.meta["files"][0] else {**SAID, "class_name": wanted["class_name"]}
    found, state_dict = checkpoint.read(case.folder / file, said)
    is_sit = wanted["class_name"] == "SiT"
    told = {"path": "linear", "predicts": "velocity"}
    assert found == {k: v for k, v in wanted.items() if k != "null_class"} | (
        told if "path" in found else {}
    )
    assert ("path" in found) == (is_sit and file == case.meta["files"][0])
    model, params = edm.to_denoiser(found, state_dict)
    net = dit_cases.raw_network(model, params)
    out = net(dit_cases.nhwc(case.raw("x")), case.raw("t"), dit_cases.classes(model, case.raw("y")))
    out = dit_cases.nchw(out if not is_sit else out[..., :4])
    error = golden_cases.relative_l2(out, case.exact("out_ema"))
    assert error <= (2e-6 if is_sit else 2e-5)
    assert golden_cases.relative_l2(out, case.exact("out_model")) > 0.1


def test_names_and_shapes_of_every_size_are_pytorchs():
    path = golden_cases.GOLDEN / NAMES
    if not path.exists():
        pytest.skip(f"{golden_cases.GOLDEN} holds no {NAMES}; set DIFFJAX_GOLDEN")
    for name, network in json.loads(path.read_text()).items():
        size = name.partition("-")[2].partition("/")[0]
        for class_name in dit.CLASSES:
            kwargs = dit.init_kwargs(class_name, size, network["input_size"])
            kwargs["learn_sigma"] = network["learn_sigma"]
            assert kwargs["num_heads"] == network["num_heads"]
            expected = {each: tuple(shape) for each, shape in network["state_dict"]}
            assert edm.state_dict_shapes(kwargs) == expected, name


# Counted in the published code: with class embeddings, positions and the variance's channels.
@pytest.mark.parametrize(
    ("size", "count"),
    [("S", 32_963_360), ("B", 130_512_416), ("L", 458_102_816), ("XL", 675_129_632)],
)
def test_every_size_has_its_number_of_parameters(size, count):
    shapes = edm.state_dict_shapes(dit.init_kwargs("DiT", size, 32))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == count


# The catalogue, and files.


def test_released_networks_are_known():
    assert set(catalogue.TRANSFORMERS) == {"dit-xl-2-256", "dit-xl-2-512", "sit-xl-2-256"}
    for name, released in catalogue.TRANSFORMERS.items():
        assert released.url.startswith("https://")
        model = from_edm_kwargs(catalogue.lookup(name).init_kwargs)
        assert model.image_shape == ((64, 64, 4) if name.endswith("512") else (32, 32, 4))
        assert not model.holds_images
        assert teacher.card(name).kind == "denoiser"
    assert catalogue.licence("dit-xl-2-512") == catalogue.DIT_LICENCE
    with pytest.raises(ValueError, match="the nearest is 'sit-xl-2-256'"):
        teacher.describe("sit-xl-2")


def test_a_released_name_says_what_its_file_does_not(tmp_path, monkeypatch):
    path = write(tmp_path, plain())
    released = catalogue.Released("https://example.org/SiT.pt", KWARGS)
    monkeypatch.setitem(catalogue.TRANSFORMERS, "sit-tiny", released)
    monkeypatch.setitem(catalogue.EDM, "sit-tiny", released)
    fetched = []
    monkeypatch.setattr(download, "fetch", lambda url: fetched.append(url) or path)
    found = teacher.load("sit-tiny")
    assert fetched == ["https://example.org/SiT.pt"]
    assert (found.init_kwargs, found.card.kind) == (KWARGS, "denoiser")
    assert command.main(["--source=sit-tiny", f"--output={tmp_path / 'out'}"]) == 0
    assert network_folder.load_denoiser_kwargs(tmp_path / "out") == KWARGS


def test_the_averages_of_a_training_state_are_read(tmp_path):
    path = write(tmp_path, training_state())
    found, state_dict = checkpoint.read(path, SAID)
    assert found == KWARGS | {"path": "gvp", "predicts": "velocity"}
    assert all(np.array_equal(state_dict[name], array) for name, array in arrays().items())
    # A width that is published has heads that are, and what is said counts before what is told.
    assert checkpoint.read(path, {**SAID, "path": "vp"})[0]["path"] == "vp"
    with pytest.raises(ValueError, match=r"'argparse\.Namespace'.* nothing was run"):
        torch_state_dict.read(path)


def test_a_file_comes_out_equal_to_the_bit(tmp_path):
    path = write(tmp_path, plain())
    output = tmp_path / "out"
    assert command.main([f"--source={path}", f"--output={output}", f"--network={NETWORK}"]) == 0
    found = teacher.load(str(output))
    back = edm.to_state_dict(found.init_kwargs, found.params)
    assert back.keys() == arrays().keys()
    assert all(np.array_equal(back[name], array) for name, array in arrays().items())
    for names, suffix in (("diffjax", "safetensors"), ("edm", "pt")):
        text = network_folder.describe(found.init_kwargs)
        exported = tmp_path / f"exported.{suffix}"
        header = portable.Header(names, network_folder.FILE, text)
        portable.write(exported, header, found.params)
        again = teacher.load(str(exported))
        assert again.init_kwargs == found.init_kwargs
        x, sigma = jnp.ones((1, 4, 4, 4)), jnp.ones(1)
        model = from_edm_kwargs(found.init_kwargs)
        np.testing.assert_array_equal(model(again.params, x, sigma), model(found.params, x, sigma))


def test_a_training_state_is_a_teacher_as_it_is(tmp_path):
    wide = {**KWARGS, "hidden_size": 384, "num_heads": 6}
    model = from_edm_kwargs(wide)
    found = dit_cases.state_dict(model)
    contents = {"ema": {}, "args": Call("argparse.Namespace", (), state={"model": "DiT-S/2"})}
    for i, (name, array) in enumerate(found.items()):
        contents["ema"][name] = tensor(array, str(i))
    storages = {str(i): array for i, array in enumerate(found.values())}
    path = write(tmp_path, archive(contents, storages))
    assert teacher.describe(str(path)) == wide | {"class_name": "DiT"}


def test_hidden_channels_are_a_files_own_to_the_last(tmp_path):
    # 28 (61 / 28) is less than 61 in floating point.
    kwargs = KWARGS | {"hidden_size": 28, "mlp_ratio": 61.5 / 28}
    path = write(tmp_path, plain(dit_cases.state_dict(from_edm_kwargs(kwargs))))
    found, state_dict = dit.read(path, {"class_name": "SiT", **SAID})
    assert state_dict["blocks.0.mlp.fc1.weight"].shape == (61, 28)
    edm.to_denoiser(found, state_dict)


# What is refused.


def changed(**arrays_of):
    found = arrays()
    for name, change in arrays_of.items():
        key = name.replace("__", ".")
        if change is None:
            del found[key]
        else:
            found[key] = np.ascontiguousarray(change(found.get(key)))
    return plain(found)


REFUSED = {
    "missing": (changed(blocks__0__attn__qkv__bias=None), "blocks.0.attn.qkv.bias is missing"),
    "shape": (changed(blocks__0__mlp__fc2__bias=lambda a: a[:3]), "fc2.bias has shape (3,)"),
    "more": (changed(more=lambda a: np.ones(2, np.float32)), "more is not expected"),
    "infinite": (changed(t_embedder__mlp__0__bias=lambda a: a * np.inf), "NaN or infinity"),
    "positions": (changed(pos_embed=lambda a: a + 0.1), "pos_embed is not the pos_embed of the"),
    "another network": (plain({"conv.weight": np.ones(3, np.float32)}), "no DiT's or SiT's"),
    "no positions": (changed(pos_embed=None), "pos_embed is missing"),
    "wrapped": (plain({f"module.{n}": a for n, a in arrays().items()}), "no DiT's or SiT's"),
    "compiled": (plain({f"_orig_mod.{n}": a for n, a in arrays().items()}), "within torch.comp"),
    "thin": (changed(pos_embed=lambda a: a[..., :1]), "pos_embed has 1 channels, and x_embed"),
    "empty": (changed(x_embedder__proj__weight=lambda a: a[:0]), "x_embedder.proj.weight is empty"),
    "ema of nothing": (training_state(ema=3), "its 'ema' is a int"),
    "ema of lists": (training_state(ema={"a": [1]}), "'a' is a list, not a tensor"),
    "code": (training_state(opt=Call("os.system", ("true",))), "nothing was run"),
    "code in arguments": (training_state({"model": Call("builtins.eval", ("1",))}), "nothing was"),
    "arguments": (training_state(args=[1]), "arguments of its program are not a dictionary"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named_in_one_line(name, tmp_path, capsys):
    data, message = REFUSED[name]
    path = write(tmp_path, data)
    flags = [f"--source={path}", f"--output={tmp_path / 'out'}", f"--network={NETWORK}"]
    assert command.main(flags) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: ")
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({}, "whether it is a SiT or a DiT isn't in its arrays; say so by --network="),
        ({"class_name": "SIT"}, "whether it is a SiT or a DiT"),
        ({"class_name": "SiT"}, "num_heads isn't in its arrays, and of hidden_size=8 none"),
        ({"class_name": "SiT", "num_heads": 3}, "a multiple of 4 is needed, and of num_heads=3"),
        ({"class_name": "DiT", "num_heads": 2, "path": "gvp"}, "unknown argument 'path'"),
        ({"class_name": "SiT", "num_heads": 2, "path": "GVP"}, "path='GVP' is none of SiT's"),
        ({"class_name": "SiT", "num_heads": 2, "label_dim": 7}, "embedding_table.weight has shape"),
        ({"class_name": "SiT", "num_heads": 2, "depth": 2**20}, "depth=1048576 is not between"),
        (
            {"class_name": "SiT", "num_heads": 2.0},
            "no SiT network: num_heads=2.0 is not a positive whole",
        ),
        (
            {"class_name": "SiT", "num_heads": 2, "sigma_data": "x"},
            "sigma_data='x' is not a positive",
        ),
        ({"class_name": "SiT", "num_heads": 2, "sigma_data": 0}, "sigma_data=0 is not a positive"),
        (
            {"class_name": "SiT", "num_heads": 2, "dropout": 5},
            "dropout=5 is not a number from 0 to under 1",
        ),
        (
            {"class_name": "SiT", "num_heads": 2, "label_dropout": "a"},
            "label_dropout='a' is not a number",
        ),
        (
            {"class_name": "SiT", "num_heads": 2, "learn_sigma": "no"},
            "learn_sigma='no' is not true or",
        ),
        ({"class_name": "SiT", "num_heads": 2, "rematerialize": True}, "unknown argument 'remat"),
    ],
)
def test_what_a_state_dict_does_not_say_is_asked_for(network, message, tmp_path, capsys):
    path = write(tmp_path, plain())
    flags = [f"--source={path}", f"--output={tmp_path / 'out'}"]
    assert command.main([*flags, f"--network={json.dumps(network)}"]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith(f"error: {path}: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("text", ["{", "[1]", "SiT"])
def test_a_description_that_is_no_object_is_the_command_lines_mistake(text, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["--source=a.pt", f"--output={tmp_path / 'out'}", f"--network={text}"])
    assert caught.value.code == 2
    assert "--network" in capsys.readouterr().err


def test_it_is_of_state_dicts_alone(tmp_path, capsys):
    path = write(tmp_path, fabricate.edm_pickle(*edm2_cases.small_network()), "edm2.pkl")
    flags = [f"--source={path}", f"--output={tmp_path / 'out'}", f"--network={NETWORK}"]
    assert command.main(flags) == 1
    assert "--network is of state dicts" in capsys.readouterr().err


def test_truncated_files_are_refused_in_one_line(tmp_path):
    for data in (plain(), training_state()):
        for length in [*range(0, len(data), len(data) // 40), len(data) - 1]:
            path = write(tmp_path, data[:length])
            with pytest.raises(ValueError, match=r"network\.pt") as caught:
                dit.read(path, KWARGS)
            assert "\n" not in str(caught.value)


def test_a_training_state_that_holds_itself_ends(tmp_path):
    code = b"}q\x00X\x03\x00\x00\x00optq\x01h\x00s"  # d = {}; d["opt"] = d
    data = b"\x80\x02" + code + b"."
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", data)
    with pytest.raises(ValueError, match="'opt' is a dict"):
        torch_state_dict.read_training_state(write(tmp_path, stream.getvalue()), "ema")
