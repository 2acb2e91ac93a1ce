"""Pickles of StyleGAN2-ADA: read, refused, and as students."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models
from diffjax.convert import edm, stylegan2
from diffjax.models import contract, trainable
from diffjax.models.generator import checked_generator
from tests.support import edm_cases, fabricate, golden_cases, stylegan2_cases
from tests.support.fabricate import Call
from tests.support.stylegan2_cases import KWARGS, pickle_of

SYNTHESIS = KWARGS["synthesis_kwargs"]


@pytest.fixture
def write(tmp_path):
    def write_file(data, name="network.pkl"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write_file


def arrays(kwargs=KWARGS):
    return stylegan2_cases.network(kwargs)[2]


# What is read.


@pytest.mark.parametrize("name", golden_cases.cases("stylegan2_pickle"))
def test_genuine_pickles(name, write):
    case = golden_cases.Case(name)
    path = write(stylegan2_cases.genuine_pickle(case))
    init_kwargs, state_dict = stylegan2.read_pickle(path)
    assert init_kwargs == case.meta["init_kwargs"]
    expected = stylegan2_cases.arrays(case.meta)
    assert list(state_dict) == list(expected)
    for array_name, array in state_dict.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[array_name])

    student = stylegan2.generator(path, noise_mode="const")
    outputs = case.meta["reference_outputs"]
    if outputs in golden_cases.known():
        case = golden_cases.Case(outputs)
        images = student.generate(student.params, case.raw("z"), case.raw("c"))
        reference = np.moveaxis(case.exact("img_const"), 1, -1)
        assert np.abs(images - reference).max() < 1e-5 * np.abs(reference).max()


VARIANTS = {
    "orig": {"synthesis_kwargs": SYNTHESIS | {"architecture": "orig"}},
    "resnet": {"synthesis_kwargs": SYNTHESIS | {"architecture": "resnet"}},
    "no noise": {"synthesis_kwargs": SYNTHESIS | {"use_noise": False}},
    "two taps": {"synthesis_kwargs": SYNTHESIS | {"resample_filter": [1, 1]}},
    "unconditional": {"c_dim": 0},
    "other widths": {"mapping_kwargs": {"embed_features": 4, "layer_features": 7}},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_written_pickle_reads_as_its_network(name, write):
    kwargs = KWARGS | VARIANTS[name]
    net, variables, state_dict = stylegan2_cases.network(kwargs)
    path = write(pickle_of(kwargs, state_dict))
    read_kwargs, read = stylegan2.read_pickle(path)
    assert read_kwargs == kwargs
    assert read.keys() == state_dict.keys()
    student = stylegan2.generator(path)
    assert jax.tree.all(jax.tree.map(np.array_equal, student.params, variables))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(student.params))
    fresh = net.abstract_variables()
    assert jax.tree.structure(fresh) == jax.tree.structure(student.params)


def test_other_forms_of_the_same_arguments(write):
    """By position; flat, as StyleGAN3's code has them; and those that are for PyTorch alone."""
    expected = stylegan2.build(KWARGS)
    names = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
    rest = {name: value for name, value in KWARGS.items() if name not in names}
    positional = fabricate.network(
        {"class_name": "Generator", **rest}, arrays(), args=[KWARGS[name] for name in names]
    )
    read, _ = stylegan2.read_pickle(write(fabricate.pickle_bytes({"G_ema": positional})))
    assert stylegan2.build(read) == expected
    flat = {name: value for name, value in KWARGS.items() if name != "synthesis_kwargs"}
    flat |= SYNTHESIS | {"fused_modconv_default": "inference_only", "num_fp16_res": 4}
    read, _ = stylegan2.read_pickle(write(pickle_of(flat, arrays())))
    assert stylegan2.build(read) == expected


def test_nothing_of_the_file_is_run(write):
    data = stylegan2_cases.small_pickle()
    assert b"raise SystemExit" in data
    assert stylegan2.read_pickle(write(data))[0] == KWARGS


# What is refused.


def refuse(path, message):
    """Reads a file that must fail with a single line that names it."""
    with pytest.raises(ValueError, match=message) as caught:
        stylegan2.generator(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < 1000


def edm_pickle():
    return fabricate.edm_pickle(*edm_cases.small_network())


def entry(value):
    return fabricate.pickle_bytes({"G_ema": value})


def nested(value):
    return pickle_of(KWARGS | {"synthesis_kwargs": value}, arrays())


HOSTILE = {
    "empty": (lambda: b"", "not a pickle"),
    "html": (lambda: b"<!DOCTYPE html><html>", "not a pickle.* a web page"),
    "EDM's": (edm_pickle, "no entry 'G_ema'; it has 'ema'"),
    "no network": (lambda: entry(None), "'G_ema' is a NoneType, not a network"),
    "another class": (
        lambda: entry(fabricate.persistent("Discriminator", fabricate.module_state())),
        "'Discriminator', is none of Generator",
    ),
    "TensorFlow's": (
        lambda: fabricate.pickle_bytes((Call("dnnlib.tflib.network.Network", ()),)),
        r"dnnlib\.tflib\.network\.Network.*nothing was run",
    ),
    "os.system": (
        lambda: pickle_of(KWARGS, arrays(), augment_pipe=Call("os.system", ("true",))),
        r"'os\.system', which is not on",
    ),
    "hidden in an argument": (
        lambda: nested({"activation": Call("builtins.eval", ("1",))}),
        r"'builtins\.eval'",
    ),
    "nested twice": (
        lambda: nested({"conv_clamp": {"a": {}}}),
        r"'synthesis_kwargs\.conv_clamp'",
    ),
    "many names": (lambda: nested({f"a{i}": 1 for i in range(17)}), "not a short dict"),
    "numbers as names": (lambda: nested({1: 1}), "not a short dict"),
    "dict elsewhere": (lambda: pickle_of(KWARGS | {"z_dim": {}}, arrays()), "'z_dim'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_foreign_and_hostile_files_are_refused_in_one_line(name, write):
    data, message = HOSTILE[name]
    refuse(write(data()), message)


def test_every_truncation_is_refused(write):
    data = stylegan2_cases.small_pickle()
    for length in range(0, len(data), len(data) // 60):
        refuse(write(data[:length]), ".")


def test_edms_reader_names_what_a_gans_pickle_holds(write):
    with pytest.raises(ValueError, match=r"no entry 'ema'; it has .*'G_ema'"):
        edm.read_pickle(write(stylegan2_cases.small_pickle()))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pkl"):
        stylegan2.generator(tmp_path / "absent.pkl")


def with_synthesis(**settings):
    return {"synthesis_kwargs": SYNTHESIS | settings}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_dim": 0}, "z_dim=0 must be an integer from 1"),
        ({"c_dim": True}, "c_dim=True must be an integer"),
        ({"img_resolution": 12}, "img_resolution=12 must be a power of 2 from 4"),
        ({"img_resolution": 2**40}, "img_resolution="),
        ({"img_channels": None}, "img_channels=None"),
        ({"mapping_kwargs": 3}, "mapping_kwargs is int, not a dict"),
        ({"mapping_kwargs": {"num_layers": 65}}, r"mapping_kwargs\.num_layers=65"),
        ({"mapping_kwargs": {"activation": "gelu"}}, r"mapping_kwargs\.activation='gelu'"),
        ({"mapping_kwargs": {"activation": [1]}}, r"mapping_kwargs\.activation=\[1\]"),
        ({"mapping_kwargs": {"lr_multiplier": 0}}, "lr_multiplier=0 must be a positive"),
        (with_synthesis(architecture="unet"), "architecture='unet' must be one of orig, skip"),
        (with_synthesis(channel_base=4), "channel_base=4 leaves no channel"),
        (with_synthesis(kernel_size=5), "kernel_size must be 3"),
        (with_synthesis(resample_filter=[1, 2, 1]), "resample_filter=.* must be 2, 4 or 6"),
        (with_synthesis(conv_clamp=-1), "conv_clamp=-1 must be a positive number, or None"),
        (with_synthesis(magnitude_ema_beta=0.9), "magnitude_ema_beta is none of StyleGAN2's"),
        ({"channel_max": 6}, "channel_max is given twice"),
        ({"unknown": 6}, "unknown is none of StyleGAN2's"),
    ],
)
def test_arguments_that_describe_no_network_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        stylegan2.build(KWARGS | change)


def test_a_missing_argument_is_named():
    with pytest.raises(ValueError, match="w_dim is missing"):
        stylegan2.build({name: value for name, value in KWARGS.items() if name != "w_dim"})


WEIGHT, FILTER = "synthesis.b8.conv0.weight", "synthesis.b8.resample_filter"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop(WEIGHT), f"{WEIGHT} is missing"),
        (lambda a: a.pop("mapping.w_avg"), r"mapping\.w_avg is missing"),
        (lambda a: a.update({"synthesis.input.freqs": a[WEIGHT]}), "freqs is not expected"),
        (lambda a: a.update({WEIGHT: a[WEIGHT][:, :2]}), r"instead of \(4, 6, 3, 3\)"),
        (lambda a: a.update({WEIGHT: a[WEIGHT] * np.nan}), "holds NaN or infinity"),
        (lambda a: a.update({WEIGHT: a[WEIGHT].astype(int)}), "int64, not floating"),
        (lambda a: a.update({FILTER: a[FILTER] * 2}), f"{FILTER} is not the resample_filter"),
        (lambda a: a.update({FILTER: np.ones((2, 2))}), r"instead of \(4, 4\)"),
    ],
)
def test_arrays_that_do_not_fit_are_named_with_the_file(change, message, write):
    state_dict = arrays()
    change(state_dict)
    refuse(write(pickle_of(KWARGS, state_dict)), message)


# As a student.


def teacher(shape=(8, 8, 2), classes=3):
    cond = models.one_hot(classes) if classes else None
    return models.Teacher(lambda p, y, s, c: y, {}, shape, 0.5, 0.002, 80.0, cond=cond)


@pytest.fixture
def student(write):
    path = write(stylegan2_cases.small_pickle())
    return lambda **options: checked_generator(stylegan2.generator(path, **options), "gan")


def test_random_noise_is_part_of_the_latents(student):
    generator = student()
    z = generator.latent(jax.random.key(0), 2)
    shapes = jax.tree.map(jnp.shape, z)
    noise = {"b4_conv1": (2, 4, 4), "b8_conv0": (2, 8, 8), "b8_conv1": (2, 8, 8)}
    assert shapes == {"z": (2, 6), "noise": noise}
    generate = jax.jit(generator.generate)
    images = generate(generator.params, z, jnp.eye(3)[:2])
    assert (images.shape, images.dtype) == ((2, 8, 8, 2), jnp.float32)
    other = z | {"noise": generator.latent(jax.random.key(1), 2)["noise"]}
    assert not jnp.array_equal(images, generate(generator.params, other, jnp.eye(3)[:2]))
    contract.check_generator(generator, teacher(), "gan", "teacher")


def test_truncation_and_the_other_kinds_of_noise(student):
    cond = jnp.eye(3)[:2]
    images = {}
    for mode, psi in (("const", 1.0), ("none", 1.0), ("none", 0.0)):
        generator = student(noise_mode=mode, truncation_psi=psi)
        z = generator.latent(jax.random.key(0), 2)
        assert z.shape == (2, 6)
        images[mode, psi] = generator.generate(generator.params, z, cond)
    assert not jnp.array_equal(images["const", 1.0], images["none", 1.0])
    average = images["none", 0.0]  # of w, so that all are alike
    np.testing.assert_allclose(average[0], average[1], rtol=1e-5, atol=1e-6)


def test_buffers_are_not_trained(student):
    generator = student()
    trained, rest = trainable.split(generator.params, generator.trainable)
    assert jax.tree.leaves(trained["params"])
    assert not jax.tree.leaves(trained["buffers"])
    kept = {"/".join(trainable.names(path)) for path, _ in jax.tree.leaves_with_path(rest)}
    noisy = ("b4/conv1", "b8/conv0", "b8/conv1")
    expected = {f"buffers/synthesis/{layer}/noise_const" for layer in noisy}
    assert kept == {"buffers/mapping/w_avg"} | expected


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (teacher(shape=(8, 8, 3)), r"generates \(8, 8, 2\) and teacher 'edm' denoises \(8, 8, 3\)"),
        (
            teacher(classes=10),
            r"takes one-hot classes \[B, 3\], and is given the condition \[4, 10\]",
        ),
        (teacher(classes=0), r"takes one-hot classes \[B, 3\], and is given the condition none"),
    ],
)
def test_a_teacher_of_another_shape_or_of_other_classes(of, message, student):
    with pytest.raises(ValueError, match=message) as caught:
        contract.check_generator(student(), of, "gan", "edm")
    assert "\n" not in str(caught.value)


def test_an_unconditional_generator_and_a_conditional_teacher(write):
    kwargs = KWARGS | {"c_dim": 0}
    generator = stylegan2.generator(write(pickle_of(kwargs, arrays(kwargs))))
    contract.check_generator(generator, teacher(classes=0), "gan", "edm")
    with pytest.raises(ValueError, match=r"is unconditional, and is given the condition \[4, 3\]"):
        contract.check_generator(generator, teacher(), "gan", "edm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_mode": "some"}, "noise_mode='some' is none of random, const, none"),
        ({"truncation_psi": float("nan")}, "truncation_psi=nan"),
        ({"truncation_cutoff": 0.5}, r"truncation_cutoff=0\.5 must be an integer"),
    ],
)
def test_options_are_checked(options, message, student):
    with pytest.raises(ValueError, match=message):
        student(**options)
