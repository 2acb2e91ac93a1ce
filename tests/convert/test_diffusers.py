"""Folders of diffusers', read without PyTorch: recorded ones, and what is wrong with others."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from diffjax import models
from diffjax.convert import diffusers, diffusers_scheduler, diffusers_unet
from diffjax.models import teacher as teacher_lib
from diffjax.models import trainable
from tests.support import diffusers_cases as cases

GOLDEN = Path(__file__).parents[1] / "golden" / "diffusers"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"


@pytest.fixture
def folder(tmp_path):
    """A copy of a recorded folder, to be changed."""
    return Path(shutil.copytree(GOLDEN / "ddpm", tmp_path / "model"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Make a recorded folder with its weights."""

    def copied(name: str) -> Path:
        copy = tmp_path_factory.mktemp("recorded") / name
        shutil.copytree(GOLDEN / name, copy)
        if name != cases.WITH_WEIGHTS:
            (copy / WEIGHTS).touch()
            shapes = diffusers_unet.shapes(diffusers.describe(copy).network)
            safetensors.numpy.save_file(cases.weights(shapes), copy / WEIGHTS)
        return copy

    return copied


def change(path: Path, **settings) -> None:
    """Set what a JSON file says; `...` takes it out."""
    config = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def change_arrays(folder: Path, change) -> None:
    arrays = dict(safetensors.numpy.load_file(folder / WEIGHTS))
    safetensors.numpy.save_file(change(arrays), folder / WEIGHTS)


def refused(folder, *, starts: Path, matches: str, error=ValueError, **kwargs) -> None:
    with pytest.raises(error, match=matches) as caught:
        diffusers.read(folder, **kwargs)
    text = str(caught.value)
    assert text.startswith(str(starts))
    assert "\n" not in text


# What was recorded.


@pytest.mark.parametrize("name", cases.RECORDED)
def test_recorded_denoisers(name, recorded):
    teacher = diffusers.read(recorded(name))
    arrays = np.load(GOLDEN / name / "denoised.npz")
    y, sigma, expected = arrays["y"], arrays["sigma"], arrays["D"]
    assert teacher.shape == cases.CASES[name].shape == y.shape[1:]
    cond = None
    if teacher.cond is not None:
        cond = jax.nn.one_hot(arrays["labels"], 5)
    denoise = jax.jit(teacher.denoise)
    ours = np.asarray(denoise(teacher.params, y, np.float32(sigma), cond))
    assert ours.dtype == np.float32
    axes = (1, 2, 3)
    # What D is a difference of is as large as y where the network predicts the noise.
    scale = np.maximum(np.abs(y), np.abs(expected)).max(axis=axes)
    assert (np.abs(ours - expected).max(axis=axes) / scale).max() < 1e-5
    if cond is not None:
        by_index = denoise(teacher.params, y, np.float32(sigma), arrays["labels"])
        np.testing.assert_allclose(by_index, ours, atol=1e-5 * scale.max())


@pytest.mark.parametrize("name", cases.tables())
def test_recorded_tables(name):
    expected = np.load(GOLDEN / "alphas_cumprod.npz")[name]
    config = {"_class_name": "DDPMScheduler"} | cases.tables()[name]
    table = diffusers_scheduler.alphas_cumprod(config)
    if name == "zero_snr":  # a level of noise alone has no finite sigma
        assert expected[-1] == 0
        expected = expected[:-1]
    # Rescaling takes a difference, whose rounding is larger.
    np.testing.assert_allclose(table, expected, rtol=2e-5 if name == "zero_snr" else 3e-6)
    sigma = np.sqrt((1 - table.astype(np.float64)) / table)
    convention = diffusers_scheduler.convention(config)
    np.testing.assert_allclose([convention.sigma_min, convention.sigma_max], sigma[[0, -1]])
    assert convention.num_times == len(table)


def test_a_teacher_as_others_are(folder):
    """Its record passes, it learns, and Fourier features don't."""
    one_level = {
        "block_out_channels": [8],
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
    }
    change(folder / UNET, time_embedding_type="fourier", mid_block_type=None, **one_level)
    change(folder / SCHEDULER, _class_name="ScoreSdeVeScheduler", sigma_max=50.0)
    shapes = diffusers_unet.shapes(diffusers.describe(folder).network)
    safetensors.numpy.save_file(cases.weights(shapes), folder / WEIGHTS)
    teacher = teacher_lib.checked(diffusers.read(folder), "score")
    assert (teacher.sigma_data, teacher.cond) == (0.5, None)
    assert (teacher.sigma_min, teacher.sigma_max) == pytest.approx((0.01, 50.0))
    assert teacher.gain(2.0) == pytest.approx(2.0)
    y = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))

    def loss(params):
        return jnp.square(teacher.denoise(params, y, jnp.ones(2), None)).sum()

    gradient = jax.jit(jax.grad(loss))(teacher.params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert jnp.abs(gradient["params"]["conv_in"]["kernel"]).max() > 0
    trained, rest = trainable.split(teacher.params)
    assert trained["frozen"]["buffers"]["time_proj"]["weight"] is None
    assert rest["frozen"]["buffers"]["time_proj"]["weight"].shape == (8,)


# What is known without weights.


def test_a_description_reads_no_weights(folder):
    (folder / WEIGHTS).write_bytes(b"")
    description = diffusers.describe(folder)
    assert (description.shape, description.num_classes) == ((8, 8, 3), 0)
    assert description.configs == (folder / UNET, folder / SCHEDULER)
    assert description.weights == (folder / WEIGHTS,)
    assert type(description.network).__name__ == "UNet2D"
    abstract = description.abstract_params()
    teacher = teacher_lib.checked(description.teacher(abstract), "abstract")
    y = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    sigma = jax.ShapeDtypeStruct((2,), jnp.float32)
    out = jax.eval_shape(teacher.denoise, abstract, y, sigma, None)
    assert (out.shape, out.dtype) == (y.shape, y.dtype)
    real = diffusers.read(GOLDEN / "ddpm").params
    assert jax.tree.map(jnp.shape, abstract) == jax.tree.map(jnp.shape, real)
    assert jax.tree.structure(abstract) == jax.tree.structure(real)


def test_classes_and_sizes(folder):
    change(folder / UNET, num_class_embeds=5)
    description = diffusers.describe(folder, size=(16, 32))
    assert (description.shape, description.num_classes) == ((16, 32, 3), 5)
    law = description.teacher(description.abstract_params()).cond
    drawn = law(jax.random.key(0), 64)
    assert drawn.shape == (64, 5)
    assert set(np.argmax(np.asarray(drawn), axis=1)) == set(range(5))
    other = description.teacher(description.abstract_params(), cond=models.one_hot(5, (1, 2)))
    drawn = np.asarray(other.cond(jax.random.key(0), 64))
    assert set(np.argmax(drawn, axis=1)) == {1, 2}
    teacher = diffusers.read(GOLDEN / "ddpm", sigma_data=1.5, sigma_min=0.12, sigma_max=9.0)
    assert (teacher.sigma_data, teacher.sigma_min, teacher.sigma_max) == (1.5, 0.12, 9.0)


def test_which_folders_are_diffusers(folder, tmp_path):
    assert diffusers.is_folder(folder)
    assert diffusers.is_folder(str(folder / "unet"))
    (folder / "denoiser.json").write_text("{}")
    assert not diffusers.is_folder(folder)
    ours = tmp_path / "ours"
    ours.mkdir()
    assert not diffusers.is_folder(ours)
    (ours / "config.json").write_text('{"method": "sid"}')  # as a work directory has
    assert not diffusers.is_folder(ours)
    (ours / "config.json").write_text("not JSON")
    assert not diffusers.is_folder(ours)
    for name in (ours / "config.json", tmp_path / "nothing", "digits", "~nobody-here/x"):
        assert not diffusers.is_folder(name)
    (ours / "scheduler_config.json").write_text("{}")
    assert diffusers.is_folder(ours)


# Where files lie, and how weights are stored.


def same(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_network_and_scheduler_side_by_side(folder, tmp_path):
    beside = tmp_path / "beside"
    beside.mkdir()
    shutil.copy(folder / UNET, beside)
    shutil.copy(folder / SCHEDULER, beside)
    shutil.copy(folder / WEIGHTS, beside / "model.fp16.safetensors")
    same(diffusers.read(beside), diffusers.read(folder))
    assert diffusers.is_folder(beside)


def test_shards(folder):
    arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    names = sorted(arrays)
    weight_map = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        safetensors.numpy.save_file({n: arrays[n] for n in part}, folder / "unet" / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / WEIGHTS).unlink()
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    same(diffusers.read(folder), diffusers.read(GOLDEN / "ddpm"))
    file = folder / "unet" / weight_map[names[0]]
    file.unlink()
    refused(folder, starts=file, matches="isn't there; .* names it", error=FileNotFoundError)
    index.write_text('{"weight_map": {"a": "../scheduler/x.safetensors"}}')
    refused(folder, starts=index, matches="isn't beside it")
    index.write_text('{"weight_map": {}}')
    refused(folder, starts=index, matches="names no file")


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def test_old_names_of_attention(folder):
    def renamed(arrays):
        for new, old in OLD.items():
            arrays = {name.replace(f".{new}.", f".{old}."): a for name, a in arrays.items()}
        assert "mid_block.attentions.0.proj_attn.bias" in arrays
        return arrays

    change_arrays(folder, renamed)
    same(diffusers.read(folder), diffusers.read(GOLDEN / "ddpm"))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_types_of_weights(folder, dtype):
    before = diffusers.read(folder).params["params"]["conv_in"]["kernel"]
    arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    specs = {}
    for name, array in arrays.items():
        array = array.astype(jnp.dtype(dtype))
        specs[name] = {"dtype": dtype, "shape": array.shape, "data": array.tobytes()}
    (folder / WEIGHTS).write_bytes(serialized(specs))
    after = diffusers.read(folder).params["params"]["conv_in"]["kernel"]
    assert after.dtype == np.float32
    np.testing.assert_array_equal(after, before.astype(jnp.dtype(dtype)).astype(np.float32))


def serialized(specs) -> bytes:
    """A safetensors file of any type, by its format: length of a header, header, data."""
    codes = {"float32": "F32", "float64": "F64", "bfloat16": "BF16", "int32": "I32"}
    header, data = {}, b""
    for name, spec in specs.items():
        end = len(data) + len(spec["data"])
        header[name] = {
            "dtype": codes[spec["dtype"]],
            "shape": spec["shape"],
            "data_offsets": [len(data), end],
        }
        data += spec["data"]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_a_flag_that_configs_had_before_types(folder):
    change(folder / SCHEDULER, prediction_type=..., predict_epsilon=False)
    assert diffusers.read(folder).gain(3.0) == 1.0  # of a network that predicts the sample


# What is wrong.


def test_no_folder(tmp_path):
    refused(
        tmp_path / "google/ddpm", starts=tmp_path, matches="hf download", error=FileNotFoundError
    )
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", starts=tmp_path, matches="is no folder", error=FileNotFoundError)


@pytest.mark.parametrize(
    ("name", "matches"),
    [
        (UNET, "save the pipeline"),
        (SCHEDULER, "what the network was trained on: scheduler.save_pretrained"),
        (WEIGHTS, "download the folder again"),
    ],
)
def test_missing_files(folder, name, matches):
    (folder / name).unlink()
    refused(folder, starts=folder / name, matches=matches, error=FileNotFoundError)


def test_a_part_of_a_pipeline(folder):
    refused(
        folder / "unet",
        starts=folder / "unet" / "scheduler_config.json",
        matches=f"name the folder above, {folder}",
        error=FileNotFoundError,
    )


def test_pipelines_of_others(folder):
    index = folder / "model_index.json"
    index.write_text('{"_class_name": "DiTPipeline", "transformer": []}')
    refused(folder, starts=index, matches="DiTPipeline has no unet")


@pytest.mark.parametrize("name", [UNET, SCHEDULER])
@pytest.mark.parametrize(
    ("content", "matches"),
    [
        (b"", "empty"),
        (b"{'a': 1}", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"<html></html>", "a web page"),
        (b"[1]", "holds a list"),
        (b"[" * 100_000, "nested too deeply"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_damaged_configs(folder, name, content, matches):
    (folder / name).write_bytes(content)
    refused(folder, starts=folder / name, matches=matches)


@pytest.mark.parametrize(
    ("settings", "matches"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "'UNet2DConditionModel' isn't read; UNet2DModel"),
        (
            {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]},
            r"down_block_types\[1\]='CrossAttnDownBlock2D' isn't read; DownBlock2D, AttnDown",
        ),
        (
            {"up_block_types": ["KUpBlock2D", "UpBlock2D"]},
            r"up_block_types\[0\]='KUpBlock2D' isn't read; UpBlock2D, AttnUp",
        ),
        (
            {"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]},
            "down_block_types mixes blocks with Skip in their name and others",
        ),
        (
            {"up_block_types": ["SkipUpBlock2D"] * 2, "in_channels": 1, "out_channels": 1},
            r"in_channels=1 must be 3 with up_block_types\[0\]='SkipUpBlock2D'",
        ),
        (
            {"up_block_types": ["AttnSkipUpBlock2D"] * 2},
            "AttnSkipUpBlock2D: 20 groups don't divide 32 channels",
        ),
        ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type='UNetMidBlock2DCrossAttn'"),
        ({"time_embedding_type": "other"}, "time_embedding_type='other' isn't read; 'positional'"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift='spatial' isn't read"),
        ({"class_embed_type": "projection"}, "class_embed_type='projection' isn't read"),
        ({"act_fn": "tanh"}, "act_fn='tanh' isn't read"),
        ({"downsample_type": "fir"}, "downsample_type='fir' isn't read"),
        ({"downsample_padding": 2}, "downsample_padding=2 isn't read"),
        ({"block_out_channels": [8]}, "down_block_types names 2 levels and block_out_channels 1"),
        ({"block_out_channels": 8}, "block_out_channels=8 must be a list"),
        ({"block_out_channels": [8, "16"]}, "must be a list, each an integer"),
        ({"block_out_channels": [8, 0]}, "must be positive"),
        ({"block_out_channels": [8, 18]}, "norm_num_groups: 4 groups don't divide 18 channels"),
        ({"norm_num_groups": None}, "norm_num_groups=None must be an integer"),
        ({"norm_eps": float("nan")}, "norm_eps=nan must be a finite number"),
        ({"norm_eps": "small"}, "norm_eps='small' must be a finite number"),
        ({"attn_norm_num_groups": 3}, "attn_norm_num_groups: 3 groups don't divide 16"),
        ({"attention_head_dim": 17}, "attention_head_dim=17 is more than the 16 channels"),
        ({"layers_per_block": 10**9}, "layers_per_block=1000000000 must lie in"),
        ({"layers_per_block": True}, "layers_per_block=True must be an integer"),
        ({"freq_shift": 4}, "freq_shift=4 must be less than half"),
        ({"time_embedding_type": "learned"}, "'learned' needs num_train_timesteps"),
        ({"cross_attention_dim": 8}, "cross_attention_dim=8 is no setting of UNet2DModel"),
        ({"in_channels": 6}, "in_channels=6 and out_channels=3 differ"),
        ({"out_channels": 6}, "differ.*variance_type='learned_range'"),
        ({"sample_size": None}, "sample_size isn't said; .* or give size"),
        ({"sample_size": 7}, "sample_size=7 must be a multiple of 2"),
        ({"sample_size": [8, 8, 8]}, "must be a positive integer, or two"),
    ],
)
def test_networks_that_are_not_read(folder, settings, matches):
    change(folder / UNET, **settings)
    refused(folder, starts=folder / UNET, matches=matches)


@pytest.mark.parametrize(
    ("settings", "matches"),
    [
        ({"_class_name": "LCMScheduler"}, "'LCMScheduler' isn't read; .* DDPMScheduler"),
        ({"_class_name": ...}, "_class_name=None isn't read"),
        ({"_class_name": ["DDPMScheduler"]}, "isn't read"),
        ({"prediction_type": "noise"}, "prediction_type='noise' isn't read; epsilon, sample"),
        ({"prediction_type": ["epsilon"]}, "isn't read"),
        ({"beta_schedule": "laplace"}, "beta_schedule='laplace' isn't read; .* trained_betas"),
        ({"beta_start": -1}, "beta_start=-1 must be a positive finite number"),
        ({"beta_end": 2.0}, "beta_end=2 must be less than 1"),
        ({"trained_betas": [0.1, 1.5]}, r"beta\[1\]=1.5 is outside"),
        ({"num_train_timesteps": 1}, "num_train_timesteps=1 must be an integer from 2"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps=1000000000000 must be"),
        ({"trained_betas": [0.1, "x"]}, "trained_betas must be a list of at least two numbers"),
        ({"trained_betas": [0.9, 0.1]}, "alphas_cumprod begins at 0.1"),
        ({"timestep_type": "continuous"}, "timestep_type='continuous' isn't read"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
            "invert_sigmas=true isn't read",
        ),
        (
            {"_class_name": "EDMEulerScheduler", "prediction_type": "sample"},
            "prediction_type='sample' isn't read; epsilon, v_prediction are",
        ),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": []}, "isn't read; epsilon"),
        (
            {"_class_name": "EDMEulerScheduler", "sigma_min": 100},
            "sigma_min=100 must be less than sigma_max=80",
        ),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0}, "sigma_min=0 must be a positive"),
    ],
)
def test_schedulers_that_are_not_read(folder, settings, matches):
    change(folder / SCHEDULER, **settings)
    refused(folder, starts=folder / SCHEDULER, matches=matches)


@pytest.mark.parametrize(
    ("network", "scheduler", "matches"),
    [
        ({"time_embedding_type": "fourier"}, "DDPMScheduler", "has the time 0, whose logarithm"),
        ({"time_embedding_type": "fourier"}, "EDMEulerScheduler", "whose logarithm"),
        (
            {"time_embedding_type": "learned", "num_train_timesteps": 50},
            "DDPMScheduler",
            "has 1000 times, and the network's num_train_timesteps=50",
        ),
        (
            {"time_embedding_type": "learned", "num_train_timesteps": 1000},
            "FlowMatchEulerDiscreteScheduler",
            "real times, and the network's time_embedding_type='learned' knows integers",
        ),
    ],
)
def test_times_that_the_network_does_not_know(folder, network, scheduler, matches):
    change(folder / UNET, **network)
    change(folder / SCHEDULER, _class_name=scheduler, prediction_type=...)
    refused(folder, starts=folder / SCHEDULER, matches=matches)


def test_laws_of_conditions(folder):
    refused(
        folder, starts=folder, matches="no classes, so that cond must be None",
        cond=models.one_hot(3),
    )  # fmt: skip
    change(folder / UNET, class_embed_type="identity")
    refused(folder, starts=folder, matches="class_embed_type='identity' doesn't say which labels")
    description = diffusers.describe(folder)
    assert description.num_classes is None
    teacher = description.teacher(description.abstract_params(), cond=models.normal(32))
    assert teacher.cond(jax.random.key(0), 2).shape == (2, 32)


@pytest.mark.parametrize(
    ("change_to", "matches"),
    [
        (
            lambda a: {k: v for k, v in a.items() if k != "conv_in.weight"},
            "conv_in.weight is missing",
        ),
        (lambda a: a | {"extra": a["conv_in.bias"]}, "extra is not expected"),
        (
            lambda a: a | {"conv_in.bias": a["conv_in.bias"][:4]},
            r"conv_in.bias has shape \(4,\) instead of \(8,\)",
        ),
        (
            lambda a: a | {"conv_in.bias": a["conv_in.bias"] * np.float16("nan")},
            "conv_in.bias holds NaN",
        ),
        (lambda a: {f"module.{k}": v for k, v in a.items()}, "DataParallel"),
        (lambda a: {"conv_in.bias": a["conv_in.bias"]}, "and [0-9]+ more"),
        (lambda a: a | {"conv_in.bias": a["conv_in.bias"].astype(int)}, "conv_in.bias is I64"),
    ],
)
def test_arrays_that_do_not_fit(folder, change_to, matches):
    change_arrays(folder, change_to)
    refused(folder, starts=folder / WEIGHTS, matches=matches)


@pytest.mark.parametrize(
    ("content", "matches"),
    [
        (b"", "but empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x80\x02}q\x00.", "but a pickle"),
        (b"\x10" * 100, "not a safetensors file"),
    ],
)
def test_weights_of_other_kinds(folder, content, matches):
    (folder / WEIGHTS).write_bytes(content)
    refused(folder, starts=folder / WEIGHTS, matches=matches)


def test_weights_that_are_cut_off(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])
    refused(folder, starts=folder / WEIGHTS, matches="or damaged .*download it again")


def test_pickles_are_not_read(folder):
    (folder / WEIGHTS).rename(folder / "unet/diffusion_pytorch_model.bin")
    refused(
        folder,
        starts=folder / "unet/diffusion_pytorch_model.bin",
        matches="a pickle of PyTorch's.*save_pretrained",
    )


def test_weights_of_which_there_are_two(folder):
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(folder / WEIGHTS, folder / "unet" / name)
    diffusers.read(folder)  # the one of the usual name
    (folder / WEIGHTS).unlink()
    refused(folder, starts=folder / "unet", matches="a.safetensors, b.safetensors: which?")
