"""EDM2's pickles, names and shapes, and the catalogue of its networks."""

import json
import pickle

import jax
import numpy as np
import pytest

from diffjax.convert import __main__ as command
from diffjax.convert import catalogue, edm, edm2, edm2_catalogue, portable, teacher
from diffjax.files import download
from diffjax.models import network_folder
from diffjax.models.denoiser import from_edm_kwargs
from tests.support import edm2_cases, edm_cases, fabricate, golden_cases
from tests.support.fabricate import Call, pickle_bytes

NAMES = "edm2_state_dict_names.json"
# Parameters and buffers, by size: of images at 64 pixels, and of latents with classes and without.
COUNTS = {
    "xxs": (31307877, 31309029, 31053029),
    "xs": (124710949, 124713253, 124201253),
    "s": (280209381, 280212837, 279444837),
    "m": (497803173, 497807781, 496783781),
    "l": (777492325, 777498085, 776218085),
    "xl": (1119276837, 1119283749, 1117747749),
    "xxl": (1523156709, 1523164773, 1521372773),
}


def write(tmp_path, data, name="edm2.pkl"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", edm2_cases.or_skip(golden_cases.cases("edm2_pickle")))
def test_genuine_pickles_as_stored_and_converted_first(name, tmp_path):
    case = golden_cases.Case(name)
    path = write(tmp_path, edm2_cases.genuine_pickle(case))
    init_kwargs, arrays = edm.read_pickle(path)
    assert init_kwargs == case.init_kwargs
    assert {name: array.shape for name, array in arrays.items()} == {
        name: tuple(shape) for name, shape in case.meta["state_dict"]
    }
    for array_name, array in arrays.items():
        assert array.dtype == case.meta["stored_dtype"]
        expected = edm2_cases.stored(case, array_name, array.shape)
        np.testing.assert_array_equal(array, expected)

    def outputs(state_dict):
        model, params = edm.to_denoiser(init_kwargs, state_dict)
        denoised = model(params, case["x"], case["sigma"], case.labels)
        return denoised, model.log_variance(params, case["sigma"])

    denoised, logvar = outputs(arrays)
    assert golden_cases.relative_l2(denoised, case.expected("D")) <= 3e-6
    np.testing.assert_allclose(logvar, case.exact("logvar").ravel(), rtol=0, atol=2e-5)
    as_loaded, _ = outputs(edm2.as_stored(arrays))
    assert golden_cases.relative_l2(as_loaded, case.expected("D_as_stored")) <= 3e-6
    if case.meta["stored_dtype"] == "float16":  # so that one isn't taken for the other
        assert golden_cases.relative_l2(denoised, case.expected("D_as_stored")) > 1e-5
    back = edm.to_state_dict(init_kwargs, edm.to_denoiser(init_kwargs, arrays)[1])
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[n], arrays[n].astype(np.float32)) for n in back)


def test_names_and_shapes_of_every_size_are_pytorchs():
    path = golden_cases.GOLDEN / NAMES
    if not path.exists():
        pytest.skip(f"{golden_cases.GOLDEN} holds no {NAMES}; set DIFFJAX_GOLDEN")
    for name, network in json.loads(path.read_text()).items():
        expected = {each: tuple(shape) for each, shape in network["state_dict"]}
        found = edm.state_dict_shapes({"class_name": "Precond", **network["kwargs"]})
        assert found == expected, name


@pytest.mark.parametrize("size", edm2_catalogue.SIZES)
def test_every_size_has_its_number_of_parameters(size):
    for (data, classes), count in zip(
        (("img64", 1000), ("img512", 1000), ("img512", 0)), COUNTS[size], strict=True
    ):
        model = from_edm_kwargs(edm2_catalogue.init_kwargs(data, size, classes=classes))
        params = model.abstract_params()["params"]
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
        assert model.holds_images == (data == "img64")


# The catalogue.


def test_released_networks_are_known_by_the_authors_names():
    assert len(catalogue.EDM2) == 16 + len({each.url for each in catalogue.EDM2.values()})
    for size, presets in (("img512-{}", "xs s m l xl xxl"), ("img64-{}", "s m l xl")):
        for each in presets.split():
            assert f"edm2-{size.format(each)}-fid" in catalogue.EDM2
    base = "https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions"
    released = catalogue.lookup("edm2-img512-xxl-fid")
    assert released.url == f"{base}/edm2-img512-xxl-0939524-0.070.pkl"
    assert released.init_kwargs["model_channels"] == 448
    assert catalogue.licence("edm2-img64-s-fid") == catalogue.EDM_LICENCE
    assert teacher.card("edm2-img512-s-dino").kind == "denoiser"
    uncond = catalogue.lookup("edm2-img512-xs-uncond-2147483-0.045")
    assert uncond.init_kwargs["label_dim"] == 0


def test_guided_pairs_are_of_one_shape():
    assert len(edm2_catalogue.GUIDED) == 20
    for name, pair in edm2_catalogue.GUIDED.items():
        own, guide = (catalogue.lookup(each).init_kwargs for each in (pair.network, pair.guide))
        assert own["img_channels"] == guide["img_channels"]
        assert name.startswith(pair.network.rpartition("-")[0].rpartition("-")[0])
        assert own["model_channels"] >= guide["model_channels"]
        assert 1 < pair.guidance < 3
    # README's example.
    pair = edm2_catalogue.GUIDED["edm2-img512-xxl-guid-dino"]
    assert (pair.network, pair.guide, pair.guidance) == (
        "edm2-img512-xxl-0939524-0.015",
        "edm2-img512-xs-uncond-2147483-0.015",
        1.7,
    )


def test_students_say_how_they_are_asked():
    assert len(catalogue.EDM2_STUDENTS) == 18
    card = teacher.card("sid-edm2-img512-s")
    assert (card.kind, card.method, card.init_sigma) == ("student", "sid", 2.5)
    url = catalogue.lookup("sid-edm2-img512-s").url
    assert url.endswith("/EDM2_distillation/edm2_img512_s_sid_alpha1-192010.pkl")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("edm2-img512-xs", "edm2-img512-xs-fid"),
        ("edm2-img512-s-2147483-0.135", "edm2-img512-xs-2147483-0.135"),
        ("edm2-img64-xs-fid", "edm2-img64-s-fid"),
    ],
)
def test_a_name_that_is_not_there_gets_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"the nearest is '{nearest}'"):
        teacher.describe(name)


def test_a_released_name_is_a_teacher(tmp_path, monkeypatch):
    kwargs, arrays = edm2_cases.small_network()
    path = write(tmp_path, fabricate.edm_pickle(kwargs, arrays))
    fetched = []
    monkeypatch.setattr(download, "fetch", lambda url: fetched.append(url) or path)
    found = teacher.load("edm2-img64-s-fid")
    assert fetched == [catalogue.EDM2["edm2-img64-s-fid"].url]
    assert (found.init_kwargs, found.card.kind) == (kwargs, "denoiser")
    name, output = "edm2-img512-s-2147483-0.130", tmp_path / "folder"
    assert command.main([f"--source={name}", f"--output={output}"]) == 0
    assert network_folder.load_card(output).kind == "denoiser"


# The command, and files there and back.


def test_the_command_writes_either_way(tmp_path, capsys):
    case = edm_cases.own(edm2_cases.GENUINE)
    path = write(tmp_path, edm2_cases.genuine_pickle(case))
    outputs = {}
    for flags, key in (((), "D"), (("--as_stored",), "D_as_stored")):
        output = tmp_path / key
        assert command.main([f"--source={path}", f"--output={output}", *flags]) == 0
        outputs[key] = teacher.read(str(output))
    for key, record in outputs.items():
        denoised = record.denoise(record.params, case["x"], case["sigma"], case.labels)
        assert golden_cases.relative_l2(denoised, case.expected(key)) <= 3e-6
    kwargs, arrays = edm_cases.small_network()
    other = write(tmp_path, fabricate.edm_pickle(kwargs, arrays), "edm.pkl")
    assert command.main([f"--source={other}", f"--output={tmp_path / 'no'}", "--as_stored"]) == 1
    said = capsys.readouterr().err
    assert f"--as_stored is of EDM2's pickles, and {other} is of EDMPrecond" in said
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(("names", "suffix"), [("diffjax", "safetensors"), ("edm", "pt")])
def test_a_file_of_arrays_comes_out_equal_to_the_bit(names, suffix, tmp_path):
    kwargs, arrays = edm2_cases.small_network()
    _, params = edm.to_denoiser(kwargs, arrays)
    text = network_folder.describe(kwargs)
    path = tmp_path / f"network.{suffix}"
    portable.write(path, portable.Header(names, network_folder.FILE, text), params)
    found, again = portable.load(path)
    assert found.init_kwargs == kwargs
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize(("use_gan", "force"), [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("kind", ["Generator", "EncoderDecoder"])
def test_sidas_classes_are_edm2s(kind, use_gan, force, tmp_path):
    kwargs, arrays = edm2_cases.small_network()
    if kind == "Generator":  # which has no log-variance
        arrays = {name: array for name, array in arrays.items() if "logvar" not in name}
    theirs = kwargs | {"class_name": f"EDM_2_Precond_{kind}"}
    theirs |= {"force_normalization": force, "use_gan": use_gan}
    path = write(tmp_path, fabricate.edm_pickle(theirs, arrays))
    found = teacher.load(str(path))
    assert found.init_kwargs.pop("force_normalization", True) == (force or not use_gan)
    assert found.init_kwargs == kwargs
    model, x, sigma = from_edm_kwargs(kwargs), np.ones((2, 4, 4, 3), np.float32), np.ones(2)
    expected = edm.to_denoiser(*edm2_cases.small_network())[1]
    np.testing.assert_array_equal(model(found.params, x, sigma), model(expected, x, sigma))
    logvar = model.log_variance(found.params, sigma)
    wanted = 0 if kind == "Generator" else model.log_variance(expected, sigma)
    np.testing.assert_array_equal(logvar, np.broadcast_to(wanted, 2))


def test_positional_arguments_are_named(tmp_path):
    data = fabricate.edm_pickle({"class_name": "Precond"}, {}, args=(8, 3, 10, True, 0.5, 64))
    assert edm.read_pickle(write(tmp_path, data))[0] == {
        "class_name": "Precond",
        **{"img_resolution": 8, "img_channels": 3, "label_dim": 10, "use_fp16": True},
        **{"sigma_data": 0.5, "logvar_channels": 64},
    }


# What is refused.

WEIGHT = "unet.dec.4x4_block0.conv_res0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda k, a: a.pop(WEIGHT), f"{WEIGHT} is missing"),
        (lambda k, a: a.pop("logvar_linear.weight"), "logvar_linear.weight is missing"),
        (lambda k, a: a.update({WEIGHT: a[WEIGHT][:1]}), "has shape"),
        (lambda k, a: a.update({WEIGHT: a[WEIGHT] * np.float16(np.inf)}), "NaN or infinity"),
        (lambda k, a: a.update({"unet.more": a[WEIGHT]}), "unet.more is not expected"),
        (lambda k, a: k.update(label_dim=0), "emb_label.weight is not expected"),
        (lambda k, a: k.update(model_type="SongUNet"), "no known network of Precond"),
        (lambda k, a: k.update(channel_per_head=8), "Nearest known: channels_per_head"),
        (lambda k, a: k.update(channels_per_head=0), "describe no EDM network"),
        (lambda k, a: k.update(channels_per_head=3), r"don't divide into 5 heads"),
        (lambda k, a: k.update(clip_act="x"), "describe no EDM network"),
        (lambda k, a: k.update(channel_mult=[]), "describe no EDM network"),
        (lambda k, a: k.update(num_blocks=1 << 20), "num_blocks"),
        (lambda k, a: k.update(sigma_data="x"), "sigma_data='x' is not a positive number"),
        (lambda k, a: k.update(clip_act=np.nan), "clip_act=nan is not a finite number"),
        (lambda k, a: k.update(resample_filter=[0, 0]), "whose sum isn't 0"),
        (lambda k, a: k.update(force_normalization="no"), "is not true or false"),
        (lambda k, a: k.update(label_dim=None), "label_dim=None is not a whole number from 0"),
        (lambda k, a: k.update(img_resolution=7), "img_resolution=7 can't be halved 1 times"),
        (lambda k, a: k.update(logvar_channels=-1), "logvar_channels"),
        (lambda k, a: k.update(sigma_max=80), "unknown argument 'sigma_max'"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(change, message, tmp_path, capsys):
    kwargs, arrays = edm2_cases.small_network()
    change(kwargs, arrays)
    path = write(tmp_path, fabricate.edm_pickle(kwargs, arrays))
    assert command.main([f"--source={path}", f"--output={tmp_path / 'out'}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: ")
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def numpy_array(shape=(4,), data=bytes(16), kind="f4", fortran=False, of="numpy.ndarray"):
    """Scales of latents as EDM2's encoder keeps them."""
    dtype = Call("numpy.dtype", (kind, False, True), state=(3, "<", None, None, None, -1, -1, 0))
    args = (fabricate.Global(of), (0,), b"b")
    home = "numpy._core.multiarray._reconstruct"
    return Call(home, args, state=(1, shape, dtype, fortran, data))


def with_encoder(scale):
    kwargs, arrays = edm2_cases.small_network()
    encoder = fabricate.persistent("StabilityVAEEncoder", {"_init_args": (), "scale": scale})
    return fabricate.edm_pickle(kwargs, arrays, encoder=encoder)


def test_an_encoder_with_arrays_is_passed_over(tmp_path):
    assert edm.read_pickle(write(tmp_path, with_encoder(numpy_array())))[0] == edm2_cases.KWARGS


HOSTILE = {
    "another class": (numpy_array(of="numpy.dtype"), "unknown NumPy class"),
    "too short": (numpy_array(data=bytes(15)), "not as long as its shape"),
    "huge": (numpy_array(shape=(2**30, 2**30)), "not as long as its shape"),
    "negative": (numpy_array(shape=(-4,)), "unknown form"),
    "objects": (numpy_array(kind="O8"), "unknown NumPy type 'O8'"),
    "fortran": (numpy_array(fortran=True), "unknown form"),
    "deep": (numpy_array(shape=(1,) * 100), "unknown form"),
    "call of the class": (Call("numpy.ndarray", ((4,),)), "no function"),
    "code": (Call("os.system", ("true",)), r"os\.system"),
    "an array's code": (Call("numpy.load", ("x",)), r"numpy\.load"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_encoders_are_refused_in_one_line(name, tmp_path):
    scale, message = HOSTILE[name]
    path = write(tmp_path, with_encoder(scale))
    with pytest.raises(ValueError, match=message) as caught:
        edm.read_pickle(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_foreign_and_truncated_files_are_refused_in_one_line(tmp_path, capsys):
    genuine = edm2_cases.genuine_pickle(edm_cases.own(edm2_cases.GENUINE))
    files = {
        "cut": genuine[:-1000],
        "begun": genuine[:200],
        "foreign": pickle.dumps({"state_dict": {"weight": 1}}),
        "vae": pickle_bytes({"ema": fabricate.persistent("StabilityVAEEncoder", {})}),
        "page": b"<!DOCTYPE html><html>",
    }
    for name, data in files.items():
        path = write(tmp_path, data, f"{name}.pkl")
        assert command.main([f"--source={path}", f"--output={tmp_path / 'out'}"]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: {path}: ")
        assert said.count("\n") == 1
    for length in range(0, len(genuine), len(genuine) // 60):
        with pytest.raises(ValueError, match="diffjax reads EDM network pickles"):
            edm.read_pickle(write(tmp_path, genuine[:length]))
