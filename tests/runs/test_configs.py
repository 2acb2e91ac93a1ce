"""Every config builds, its full-size update traces, and mistakes in it are told in one line."""

import ast
import io
import json
import re
import runpy
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from diffjax import methods
from diffjax.distributed import sharding
from diffjax.files import download, json_values
from diffjax.methods.score_distillation import ScoreDistillation
from diffjax.runs import bases, building, checks, idle
from diffjax.runs.train import train
from diffjax.training import draws as drawing


def _recorded(path):
    """Of most only what differs from another, which stands before it, by dotted names."""
    flat, found = {}, {}
    for name, each in json.loads(path.read_text()).items():
        left_out = {"like", "without", *each.get("without", ())}
        whole = {**flat.get(each.get("like"), {}), **each}
        flat[name] = {field: value for field, value in whole.items() if field not in left_out}
        found[name] = {}
        for field, value in flat[name].items():
            *groups, key = field.split(".")
            at = found[name]
            for group in groups:
                at = at.setdefault(group, {})
            at[key] = value
    return found


CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py"))
# What each config resolved to before there were bases, and the fields that have gone since. Those
# that came, a student and a fake score of another architecture, are "" for the teacher's copy, and
# another metric writer and a decoder are "" for none; `CAME` has those on steps and guidance, which
# are for neither. Configs that came after the bases are recorded as they were.
RECORDED = _recorded(Path(__file__).parent / "resolved_configs.json")
EARLIER = [name for name in NAMES if "task" in RECORDED[name]]
GONE = ("task", "image_shape", "label_dim")
INFINITE = RECORDED["sid_cifar"]["heun"]["s_max"]  # as JSON has it
CAME = {
    "generator": {"steps": 1, "step_sigmas": [], "outputs": "mixture", "backward": "one_step"},
    "guidance": {"teacher": 1.0, "interval": [0.0, INFINITE], "negative": "", "null": ""},
}
OF_FAKE_SCORES = {"guidance": {"fake_training": 1.0, "fake_loss": 1.0}}
OF_SID = {  # noise levels and weights, all as published
    "generator": {"noise_levels": "karras_uniform"},
    "fake_score": {"noise_levels": "lognormal", "weighting": "edm"},
}
OF_DATA = {"generator": {"noised_data": False}}
DISTILL = [name for name in NAMES if not name.startswith("teacher_")]
DIGITS = [name for name in NAMES if name.endswith("_digits")]
ON_EDM2 = [name for name in NAMES if "_edm2_" in name]  # of whose results no figure is published
ON_SIT = ["sid_sit_imagenet256"]  # whose settings are our own
# Of several steps, or a guided teacher: of whose results no figure is published either.
OURS = [name for name in NAMES if name.endswith(("step", "_guided"))]
# Trained on a file, which `real_images` stands in for.
ON_FILES = [name for name in NAMES if name.startswith("teacher_cifar")]

# From the papers' released code: alpha, both learning rates, b1 of the generator's Adam, epsilon,
# batch, Mimg in all, half-life of the EMA in kimg, dropout, augmentation, init_sigma, loss scale.
PUBLISHED = {
    "sid_cifar": (1.2, 1e-5, 0.0, 1e-8, 256, 500, 500, 0.13, 0.12, 2.5, 100),
    "sid_cifar_cond": (1.2, 1e-5, 0.0, 1e-8, 256, 800, 500, 0.13, 0.12, 2.5, 100),
    "sid_imagenet64": (1.2, 4e-6, 0.0, 1e-6, 8192, 1000, 2000, 0.1, 0.0, 2.5, 100),
    "sid_ffhq64": (1.2, 1e-5, 0.9, 1e-6, 512, 500, 500, 0.05, 0.15, 2.5, 100),
    "sid_afhqv2_64": (1.0, 5e-6, 0.0, 1e-6, 512, 500, 500, 0.05, 0.15, 2.5, 100),
    "di_cifar": (None, 1e-5, 0.0, 1e-8, 128, 200, 500, 0.13, 0.12, 1.0, 1),
    "di_cifar_cond": (None, 1e-5, 0.0, 1e-8, 128, 200, 500, 0.13, 0.12, 1.0, 1),
}
FID = {
    "sid_cifar": "1.923",
    "sid_cifar_cond": "1.710",
    "sid_imagenet64": "1.524",
    "sid_ffhq64": "1.550",
    "sid_afhqv2_64": "1.628",
    "di_cifar": "4.53",
    "di_cifar_cond": "4.19",
    "di_imagenet64": "5.57",
    "dmd_cifar_cond": "5.58",
    "dmd_imagenet64": "5.60",
    "fgm_cifar": "3.08",
    "sim_cifar": "2.06",
    "sida_cifar": "1.52",
    "sida_cifar_cond": "1.44",
    "sida_imagenet64": "1.35",
    "sida_ffhq64": "1.040",
    "sida_afhqv2_64": "1.276",
    "dmd2_imagenet64": "1.51",
    "f_distill_cifar_cond": "1.92",
    "f_distill_imagenet64": "1.16",
    "smd_imagenet64": "1.48",
    "uni_instruct_cifar": "1.46",
    "uni_instruct_cifar_cond": "1.38",
    "di_refine_stylegan2_cifar": "2.71",
    "di_refine_stylegan2_cifar_cond": "2.27",
}
# As counted in the PyTorch networks that EDM's authors released.
PARAMETERS = {
    "cifar": 55_733_891,
    "cifar_cond": 55_735_299,
    "cifar_small": 13_956_931,
    "cifar_tiny": 2_815_635,
    "cifar_edm2": 13_656_610,
    "imagenet512_edm2_xs": 124_713_765,
    "imagenet512_edm2_s": 280_213_477,
    "imagenet512_edm2_m": 497_808_549,
    "imagenet512_edm2_l": 777_498_981,
    "imagenet512_edm2_xl": 1_119_284_773,
    "imagenet512_edm2_xxl": 1_523_165_925,
    "imagenet64_edm2_s": 280_210_021,
    "imagenet64_edm2_m": 497_803_941,
    "imagenet64_edm2_l": 777_493_221,
    "imagenet64_edm2_xl": 1_119_277_861,
    "sit_imagenet256": 674_834_720,
    "imagenet64": 295_899_267,
    "ffhq64": 61_805_571,
    "afhqv2_64": 61_805_571,
    "refine_stylegan2_cifar": 55_733_891,
    "refine_stylegan2_cifar_cond": 55_735_299,
}
STUDENTS = {  # parameters of a student of another architecture
    "sds_digits": 10 * 10 * 64,
    "di_refine_stylegan2_cifar": 19_947_539,
    "di_refine_stylegan2_cifar_cond": 20_215_315,
}
# Tracing takes tens of seconds at full size; the rest is traced by `-m slow`.
TRACED_BY_DEFAULT = ("sid_cifar", "teacher_cifar_tiny", *DIGITS)


def load(name: str) -> ConfigDict:
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()


def as_it_was(name: str) -> ConfigDict:
    """A full config of its own, from before there were bases."""

    def with_tuples(value: object) -> object:
        if isinstance(value, dict):
            return {key: with_tuples(item) for key, item in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return ConfigDict(with_tuples(json_values.decode(RECORDED[name])))


def changed(name: str, of: Callable[[str], ConfigDict] = load, **changes: object) -> ConfigDict:
    """A config with fields set, `a__b` standing for a.b."""
    config = of(name)
    with config.ignore_type():
        for field, value in changes.items():
            *groups, last = field.split("__")
            group = config
            for part in groups:
                group = group[part]
            assert last in group, field
            group[last] = value
    return config


def leaves(tree: object) -> list[tuple[tuple[int, ...], object]]:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


@pytest.fixture
def no_download(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"nothing is to be downloaded, but {args} was asked for")

    monkeypatch.setattr(download, "fetch", refuse)


@pytest.fixture
def real_images(tmp_path):
    """Ten images in EDM's format, of sizes and numbers of classes as asked for, or latents."""

    def make(size: int = 32, classes: int = 10, *, latents: bool = False) -> Path:
        path = tmp_path / f"{size}x{size}_{classes}.zip"
        names = [f"00000/img{number:08d}.{'npy' if latents else 'png'}" for number in range(10)]
        with zipfile.ZipFile(path, "w") as archive:
            for number, name in enumerate(names):
                buffer = io.BytesIO()
                if latents:
                    np.save(buffer, np.ones((8, size, size), np.float32))
                else:
                    Image.new("RGB", (size, size), (number, 0, 0)).save(buffer, "png")
                archive.writestr(name, buffer.getvalue())
            labels = [[name, classes - 1 - number] for number, name in enumerate(names)]
            archive.writestr("dataset.json", json.dumps({"labels": labels if classes else None}))
        return path

    return make


def load_with_data(name: str, real_images: Callable[..., Path]) -> ConfigDict:
    config = load(name)
    if name in ON_FILES:
        config.dataset = str(real_images())
    if config.get("data") == "img512-sd.zip":
        config.data = str(real_images(64, 1000, latents=True))
    elif config.get("data"):
        size = 32 if "32x32" in config.data else 64
        classes = {"cifar10-32x32.zip": 10, "imagenet-64x64.zip": 1000}.get(config.data, 0)
        config.data = str(real_images(size, classes))
    return config


def test_the_tables_here_know_every_config():
    tables = {*FID, *DIGITS, *ON_FILES, *ON_EDM2, *ON_SIT, *OURS}
    assert set(NAMES) == {*tables, "sid_cifar_tiny", "smd_cifar"}
    assert (len(DIGITS), len(ON_FILES), len(ON_EDM2), len(OURS)) == (9, 4, 16, 4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_settings(name):
    config = load(name)
    assert (
        config.get("alpha"),
        config.generator.learning_rate,
        config.generator.b1,
        config.generator.eps,
        config.batch_size,
        config.duration_kimg / 1000,
        config.ema_halflife_kimg,
        config.dropout,
        config.augment_probability,
        config.init_sigma,
        config.generator.loss_scale,
    ) == PUBLISHED[name]
    # What all of the published runs share.
    assert config.fake_score.learning_rate == config.generator.learning_rate
    assert config.fake_score.eps == config.generator.eps
    assert (config.fake_score.b1, config.fake_score.b2, config.generator.b2) == (0.0, 0.999, 0.999)
    assert (config.fake_score.loss_scale, config.fake_score.updates) == (1.0, 1)
    savings = (config.share_samples, config.teacher_dtype, config.optimizer_state_dtype)
    assert (*savings, config.fake_score.every) == (False, "", "float32", 1)
    assert config.ema_rampup == 0.05
    assert config.get("t_max", 800.0) == 800.0
    half = name in ("sid_imagenet64", "sid_ffhq64", "sid_afhqv2_64")
    assert config.dtype == ("bfloat16" if half else "float32")


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_gives_the_command_and_the_result(name):
    text = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))
    lines = [line.strip() for line in text.splitlines()]
    assert f"python -m diffjax.main --config=configs/{name}.py" in lines
    if name in FID:
        flat = " ".join(text.split())
        assert f"Result: FID {FID[name]} in one evaluation" in flat
        assert "not measured here" in flat
        assert "Hardware: " in flat
        assert "Time: " in flat


@pytest.mark.parametrize("name", NAMES)
def test_imports_ml_collections_and_the_bases_and_nothing_else(name):
    imports = [
        node
        for node in ast.walk(ast.parse((CONFIGS / f"{name}.py").read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert [ast.unparse(node) for node in imports] == [
        "from ml_collections import ConfigDict",
        "from diffjax.runs import bases",
    ]


def test_the_recorded_configs_are_all():
    assert set(RECORDED) == set(NAMES)


def with_what_came(expected: dict) -> dict:
    """A distillation's recorded config with the fields that it lacks, at their defaults."""
    groups = [CAME]
    if "fake_score" in expected:
        groups += [OF_FAKE_SCORES, {"fake_score": {"label_dropout": 0.0}}]
    if "data" in expected:
        groups.append(OF_DATA)
    if expected["method"] == "sid":
        groups.append(OF_SID)
        expected.setdefault("time_range", [0.02, 0.98])
    for group in groups:
        for name, fields in group.items():
            expected[name] = {**fields, **expected.get(name, {})}
    return expected


@pytest.mark.parametrize("name", NAMES)
def test_a_config_resolves_to_what_it_was(name):
    expected = {field: value for field, value in RECORDED[name].items() if field not in GONE}
    if name in EARLIER and RECORDED[name]["task"] == "pretrain":
        expected["method"] = "denoising"
    elif name in EARLIER:
        expected |= {"student": "", "fake_score": expected["fake_score"] | {"network": ""}}
    expected["metric_writer"] = ""
    if "teacher" in expected:
        expected.setdefault("decoder", "")
        expected = with_what_came(expected)
    if "edm2" in expected:
        expected["edm2"] = {"power_stds": [], **expected["edm2"]}
    if expected["method"] == "uni_instruct":
        expected["through_ratio"] = False
    # As text, in which 1 and 1.0 differ.
    resolved = json_values.encode(name, load(name).to_dict())
    assert json.dumps(resolved, sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert list not in fields(load(name)).values()  # tuples, so that overrides are read as such


@pytest.mark.parametrize("name", EARLIER)
def test_an_earlier_config_is_upgraded(name):
    before = as_it_was(name)
    upgraded = json_values.encode(name, checks.upgraded(before).to_dict())
    assert before == as_it_was(name), "it is a copy that is changed"
    kept = {field: upgraded.pop(field, None) for field in ("image_shape", "label_dim")}
    assert kept == {field: RECORDED[name].get(field) for field in kept}
    assert upgraded == json_values.encode(name, load(name).to_dict())


@pytest.mark.parametrize("name", [name for name in DIGITS if name in EARLIER])
def test_an_earlier_config_builds(name):
    config = checks.upgraded(as_it_was(name))
    assert building.build(config).denoiser == building.build(load(name)).denoiser


def test_upgrading_keeps_what_it_need_not_change():
    config = load("sid_digits")
    assert checks.upgraded(config) == config
    assert checks.upgraded(config) is not config
    own = ConfigDict({"anything": 1})
    assert checks.upgraded(own) == own
    locked = as_it_was("teacher_digits").lock()
    upgraded = checks.upgraded(locked)
    assert upgraded.is_locked
    assert upgraded.network.is_locked
    assert (upgraded.method, "task" in upgraded) == ("denoising", False)


def fields(config: ConfigDict, prefix: str = "") -> dict[str, type]:
    found: dict[str, type] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            found |= fields(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = type(value)
    return found


def test_distillations_have_the_same_fields_of_the_same_types():
    # Of types too: an override on the command line must have the type that the config gives.
    expected = fields(load("sid_digits"))
    shared = {each.field for each in ScoreDistillation.settings()}
    alone = {each.field: type(each.default) for each in methods.get("sid").settings()}
    alone = {field: kind for field, kind in alone.items() if field not in shared}
    assert set(alone) > {"alpha", "t_max", "generator.noise_levels"}
    for name in DISTILL:
        found = fields(load(name))
        if name in ON_EDM2:
            of_edm2 = {f"edm2.{field}" for field in bases.edm2_fields("sid")}
            assert of_edm2 <= set(found), name
            found = {field: kind for field, kind in found.items() if field not in of_edm2}
        if load(name).method == "diff_instruct":
            assert not set(alone) & set(found), name
            found |= alone
        if load(name).method not in ("sid", "diff_instruct", "sds"):
            method = methods.get(load(name).method)
            own = {each.field for each in method.settings()} - shared
            own |= {f"{each.name}.{field}" for each in method.learners for field in each.fields}
            own |= {"data"} if "data" in method.reads else set()
            assert own <= set(found), name
            found = {field: kind for field, kind in found.items() if field not in own}
            found |= {field: kind for field, kind in expected.items() if field in {*own, *alone}}
        if load(name).method == "sds":
            own = {"p_mean": float, "p_std": float, "weight": str}
            assert own.items() <= found.items()
            assert not [field for field in found if field.startswith("fake_score.")]
            found = {field: kind for field, kind in found.items() if field not in own}
            lacking = {*alone, "share_samples", "augment_probability"}
            found |= {
                field: kind
                for field, kind in expected.items()
                if field in lacking or field.startswith(("fake_score.", "guidance.fake_"))
            }
        assert found == expected, name


@pytest.mark.parametrize("name", NAMES)
def test_builds_without_a_download(name, no_download, real_images, tmp_path):
    config = load_with_data(name, real_images)
    exp = building.build(config)
    idle.check(config, exp, tmp_path)  # each setting can act
    params = exp.denoiser.abstract_params()
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    base = name.removesuffix("_guided").removesuffix("_2step").removesuffix("_4step")
    of_data = [data for data in PARAMETERS if base.endswith(f"_{data}")]
    of_data = max(of_data, key=len, default="")
    assert count == PARAMETERS.get(of_data, 188_945)
    state = exp.abstract_state()
    if config.get("student"):
        average = jax.tree.leaves(exp.averaged(state))
        assert sum(leaf.size for leaf in average) == STUDENTS[name]
    else:
        assert leaves(exp.averaged(state)) == leaves(params)
        assert exp.denoiser.network.dropout == exp.init_kwargs["dropout"]
    mesh = sharding.make_mesh(**config.mesh)
    sharding.check_batch(config.batch_size, config.get("accumulation", 1), mesh)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_built_follows_the_config(name, no_download):
    _, rate, _, eps, batch, mimg, halflife, dropout, augment, init_sigma, scale = PUBLISHED[name]
    config = load(name)
    exp = building.build(config)
    method, update = exp.method, exp.update
    assert building.schedule(config).total == -(-mimg * 1_000_000 // batch)
    assert exp.denoiser.network.dropout == dropout
    assert method.augment_probability == augment
    assert method.networks["generator"].init_sigma == init_sigma
    assert (update.batch_size, update.averages.halflife) == (batch, halflife * 1000)
    assert (method.generator_loss_scale, method.fake_score_loss_scale) == (scale, 1)
    assert type(method) is methods.get(config.method)
    assert exp.denoiser.network.dtype == (jnp.bfloat16 if eps == 1e-6 else jnp.float32)
    # Adam's first step on a gradient as large as epsilon is half of the learning rate.
    assert set(update.optimizers) == {"generator", "fake_score"}
    for learner, optimizer in update.optimizers.items():
        gradient = jnp.asarray(eps, jnp.float32)
        step, opt_state = optimizer.update(gradient, optimizer.init(gradient))
        np.testing.assert_allclose(step, -rate / 2, rtol=1e-3)
        second, _ = optimizer.update(jnp.zeros(()), opt_state)
        has_momentum = learner == "generator" and config.generator.b1 > 0
        assert bool(second != 0) == has_momentum


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in TRACED_BY_DEFAULT else pytest.mark.slow)
        for name in NAMES
    ],
)
def test_the_update_traces_at_full_size(name, no_download, real_images):
    config = load_with_data(name, real_images)
    exp = building.build(config)
    mesh = sharding.make_mesh(**config.mesh)
    state = exp.abstract_state()
    inputs = exp.abstract_inputs()
    losses = {"fake_loss", "generator_loss", "delta"} if name in DISTILL else {"loss"}
    losses -= {"fake_loss"} if config.method == "sds" else set()
    losses |= {"gan", "discriminator"} if {"teacher", "data"} <= set(exp.method.reads) else set()
    losses |= {"gan", "critic"} if config.method == "smd" else set()

    def update(state, inputs, key):
        read = dict(inputs)
        data = read.pop("data", None)
        draws = drawing.draw(exp.method, key, data, mesh, images=state.images)
        return drawing.on_mesh(exp.update, mesh)(state, read, draws)

    new_state, metrics = jax.eval_shape(update, state, inputs, jax.random.key(0))
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    assert leaves(new_state) == leaves(state)
    assert losses == set(exp.method.shown) <= set(metrics)
    assert {(leaf.shape, leaf.dtype) for leaf in metrics.values()} == {((), np.dtype("float32"))}


NUMBER = "a positive number is needed"
WHOLE = "a whole number of at least 1 is needed"
MISTAKES = [
    (
        "sid_cifar",
        {"method": "sdi"},
        "config.method='sdi' .* denoising, .* sid, ",
    ),
    (
        "sid_cifar",
        {"attention": "cudnn"},
        "config.attention='cudnn' runs on NVIDIA GPUs, and here there is 8 x cpu",
    ),
    ("sid_cifar", {"dtype": "float8"}, "config.dtype='float8' .* float32, bfloat16, float16"),
    ("sid_cifar", {"alpha": float("nan")}, "config.alpha=nan: a finite number"),
    ("sid_cifar", {"alpha": float("inf")}, "config.alpha=inf: a finite number"),
    ("sid_cifar", {"t_max": 0.0}, r"config.t_max=0.0: it lies in \(0, 1000\]"),
    ("sid_cifar", {"t_max": 1001.0}, r"config.t_max=1001.0: it lies in \(0, 1000\]"),
    ("sid_cifar", {"t_max": float("nan")}, r"config.t_max=nan: it lies in \(0, 1000\]"),
    ("di_cifar", {"init_sigma": 0.0}, f"config.init_sigma=0.0: {NUMBER}"),
    ("sds_digits", {"p_std": -0.1}, "config.p_std=-0.1: a number of at least 0"),
    (
        "sds_digits",
        {"weight": "sigma"},
        "config.weight='sigma' is unknown; known are: denoisers, noises, dreamfusion",
    ),
    (
        "sim_cifar",
        {"distance": "cubed"},
        "config.distance='cubed' is unknown; known are: pseudo_huber, squared",
    ),
    ("sim_cifar", {"c": 0.0}, f"config.c=0.0: {NUMBER}"),
    (
        "sim_cifar",
        {"weight": "sigma"},
        "config.weight='sigma' is unknown; known are: unit, normalizing",
    ),
    ("sid_cifar", {"evaluate__count": 0}, f"config.evaluate.count=0: {WHOLE}"),
    ("sid_cifar", {"evaluate__seeds": 0}, f"config.evaluate.seeds=0: {WHOLE}"),
    ("sid_cifar", {"evaluate__metrics": "fid"}, "config.evaluate.metrics='fid': a tuple of names"),
    ("sid_cifar", {"evaluate__batch_size": -1}, f"config.evaluate.batch_size=-1: {WHOLE}"),
    ("sid_cifar", {"batch_size": 12.5}, f"config.batch_size=12.5: {WHOLE}"),
    ("sid_cifar", {"accumulation": 0}, f"config.accumulation=0: {WHOLE}"),
    ("sid_cifar", {"seed": -1}, "config.seed=-1: a whole number of at least 0"),
    ("sid_cifar", {"dropout": 1.5}, r"config.dropout=1.5: it lies in \[0, 1\)"),
    ("sid_cifar", {"ema_rampup": -1.0}, "config.ema_rampup=-1.0: .*at least 0"),
    ("sid_cifar", {"log_kimg": -1.0}, f"config.log_kimg=-1.0: {NUMBER}"),
    ("sid_cifar", {"keep_checkpoints": 0}, f"config.keep_checkpoints=0: {WHOLE}"),
    ("sid_cifar", {"grid__rows": 0}, f"config.grid.rows=0: {WHOLE}"),
    ("sid_cifar", {"heun__steps": 1}, "config.heun.steps=1: a whole number of at least 2"),
    ("sid_cifar", {"heun__sigma_min": 100.0}, "config.heun.sigma_min=100.0 must be under"),
    ("sid_cifar", {"generator__loss_scale": float("nan")}, f"loss_scale=nan: {NUMBER}"),
    ("sid_cifar", {"batch_size": 0}, f"config.batch_size=0: {WHOLE}"),
    ("sid_cifar", {"duration_kimg": -1.0}, f"config.duration_kimg=-1.0: {NUMBER}"),
    ("sid_cifar", {"updates_per_call": 0}, f"config.updates_per_call=0: {WHOLE}"),
    ("sid_cifar", {"max_skipped_in_a_row": 0}, f"config.max_skipped_in_a_row=0: {WHOLE}"),
    ("sid_cifar", {"ema_halflife_kimg": 0.0}, f"config.ema_halflife_kimg=0.0: {NUMBER}"),
    ("sid_cifar", {"fake_score__updates": 0}, f"config.fake_score.updates=0: {WHOLE}"),
    ("sid_cifar", {"fake_score__every": 0}, f"config.fake_score.every=0: {WHOLE}"),
    ("di_cifar", {"teacher_dtype": "float8"}, "teacher_dtype='float8' .* '' for that of"),
    ("di_cifar", {"optimizer_state_dtype": "float16"}, "='float16' .* float32, bfloat16"),
    (
        "sid_cifar",
        {"generator__learning_rate": -1e-5},
        f"config.generator.learning_rate=-1e-05: {NUMBER}",
    ),
    (
        "di_cifar",
        {"fake_score__learning_rate": float("nan")},
        f"config.fake_score.learning_rate=nan: {NUMBER}",
    ),
    ("sid_cifar", {"compile_apart": True}, "config.compile_apart=True is unknown; known are: "),
    ("sid_cifar", {"generator__decay_kimg": -1.0}, "generator.decay_kimg=-1.0: a number of at"),
    (
        "sid_cifar",
        {"generator__decay_kimg": 9.0, "generator__frozen_kimg": 2.0, "duration_kimg": 10.0},
        "generator.decay_kimg=9.0 must fit into duration_kimg=10.0 after .*frozen_kimg=2.0",
    ),
    ("sid_cifar", {"generator__eps": 0.0}, f"config.generator.eps=0.0: {NUMBER}"),
    ("sid_cifar", {"generator__b1": 1.0}, r"config.generator.b1=1.0: it lies in \[0, 1\)"),
    ("sid_cifar", {"fake_score__b2": -0.1}, r"config.fake_score.b2=-0.1: it lies in \[0, 1\)"),
    ("sid_cifar", {"augment_probability": 1.1}, r"augment_probability=1.1: it lies in \[0, 1\]"),
    ("sid_cifar", {"augment_probability": -0.1}, r"augment_probability=-0.1: it lies in \[0, 1\]"),
    (
        "sid_imagenet64",
        {"augment_probability": 0.12},
        "augment_probability=0.12 .* takes 0 augmentation labels, not 9; set it to 0",
    ),
    (
        "sid_cifar",
        {"teacher": "edm-cifar10-uncond-vp"},
        "teacher='edm-cifar10-uncond-vp' .* nearest is 'edm-cifar10-32x32-uncond-vp'",
    ),
    ("teacher_digits", {"dataset": "digit"}, "dataset='digit' is unknown; known are: digits"),
    (
        "teacher_digits",
        {"optimizer__learning_rate": 0.0},
        f"config.optimizer.learning_rate=0.0: {NUMBER}",
    ),
    (
        "teacher_digits",
        {"augment_probability": 0.12},
        "augment_probability=0.12 .* takes 0 augmentation labels, not 9; set it to 0",
    ),
]


MISTAKES_OF_EARLIER_CONFIGS = [
    ("sid_cifar", {"task": "destill"}, "config.task='destill' .* distill, pretrain"),
    (
        "sid_cifar",
        {"image_shape": (64, 64, 3)},
        r"config.image_shape=\(64, 64, 3\) .* \(32, 32, 3\); set image_shape to that",
    ),
    (
        "sid_cifar",
        {"image_shape": (32, 32, 1)},
        r"config.image_shape=\(32, 32, 1\) .* \(32, 32, 3\); set image_shape to that",
    ),
    ("sid_cifar", {"label_dim": 10}, "config.label_dim=10 .* 0 classes; set label_dim to that"),
    ("sid_cifar_cond", {"label_dim": 0}, "config.label_dim=0 .* 10 classes; set label_dim to that"),
]


@pytest.mark.parametrize(("name", "changes", "message"), MISTAKES)
def test_a_mistake_is_told_in_one_line(name, changes, message, no_download):
    with pytest.raises(ValueError, match=message) as caught:
        building.build(changed(name, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "changes", "message"), MISTAKES_OF_EARLIER_CONFIGS)
def test_a_mistake_in_an_earlier_config_is_told_in_one_line(name, changes, message, no_download):
    with pytest.raises(ValueError, match=message) as caught:
        building.build(checks.upgraded(changed(name, as_it_was, **changes)))
    assert "\n" not in str(caught.value)


# For each field what no field of its kind may be; a few fields allow one of them.
WRONG = {
    bool: [None, 1, "yes", 0.5, ()],
    int: [None, "1", 1.5, float("nan"), float("inf"), -7, True, (1,)],
    float: [None, "1", float("nan"), float("inf"), -1e9, (1.0,)],
    str: [None, 3, 0.5, True, ("a",)],
    tuple: [None, "text", 3, (1.5,), ("a", 3), (0,), (-1, 2)],
}
ALLOWED = {
    ("alpha", -1e9),
    ("p_mean", -1e9),
    ("heun.s_max", float("inf")),
    ("generator.step_sigmas", (1.5,)),
    ("guidance.fake_training", -1e9),
    ("guidance.fake_loss", -1e9),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_a_rule(name):
    config = load(name)
    assert fields(config).keys() == {*checks.rules(config), "method"}


@pytest.mark.parametrize(
    "name", ["sid_imagenet64", "di_cifar_cond", "sds_digits", "teacher_digits"]
)
def test_every_field_refuses_what_it_cannot_be(name):
    """The fields of the others are the same, of the same types."""
    tried = 0
    for field, kind in fields(load(name)).items():
        for value in WRONG[kind]:
            if (field, value) in ALLOWED:
                continue
            config = changed(name, **{field.replace(".", "__"): value})
            with pytest.raises(ValueError, match=rf"^config\.{re.escape(field)}=") as caught:
                checks.check(config)
            assert "\n" not in str(caught.value)
            assert re.search("needed|lies in|known are|at least", str(caught.value))
            tried += 1
        config = load(name)
        *groups, last = field.split(".")
        with config.unlocked():
            group = config
            for part in groups:
                group = group[part]
            del group[last]
        with pytest.raises(ValueError, match=rf"^config\.{re.escape(field)} is missing"):
            checks.check(config)
    assert tried > 200


@pytest.mark.parametrize("field", ["image_shape", "label_dim"])
def test_what_an_earlier_config_says_of_its_teacher_has_a_rule(field):
    config = checks.upgraded(as_it_was("sid_imagenet64"))
    kind = {"image_shape": tuple, "label_dim": int}[field]
    for value in WRONG[kind]:
        with config.ignore_type():
            config[field] = value
        with pytest.raises(ValueError, match=rf"^config\.{field}=.*needed"):
            checks.check(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2**32}, r"config\.seed=4294967296: a whole number of at least 0, and under 2"),
        ({"mesh__data": 0}, r"config\.mesh\.data=0: .* or -1 for all devices"),
        ({"heun__s_min": 2.0, "heun__s_max": 1.0}, r"config\.heun\.s_min=2\.0 must not be over"),
        ({"batch_size": 512.0}, r"config\.batch_size=512\.0: a whole number"),
        ({"teacher": ""}, r"config\.teacher='': one is needed, such as"),
        ({"teacher": "x\n" * 99}, None),
        ({"dtype": "x\n" * 99}, r"config\.dtype='x.*\.\.\. is unknown; known are: float32"),
    ],
)
def test_values_at_the_bounds(changes, message):
    config = changed("sid_imagenet64", **changes)
    if message is None:
        checks.check(config)
        return
    with pytest.raises(ValueError, match=message) as caught:
        checks.check(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((64, 32, 3), r"config\.image_shape=\(64, 32, 3\): \(height, width"),
        ((64, 64), r"config\.image_shape=\(64, 64\): \(height"),
    ],
)
def test_an_image_shape_that_is_none(shape, message):
    config = checks.upgraded(changed("sid_imagenet64", as_it_was, image_shape=shape))
    with pytest.raises(ValueError, match=message) as caught:
        checks.check(config)
    assert "\n" not in str(caught.value)


def test_a_teacher_that_is_not_there(tmp_path, no_download):
    path = tmp_path / "teacher"
    with pytest.raises(FileNotFoundError, match=f"teacher={re.escape(str(path))}: .*convert"):
        building.build(changed("sid_cifar", teacher=str(path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluate__reference": ""}, r"metrics has 'fd', but config.evaluate.reference is empty"),
        ({"evaluate__reference": "digit"}, "evaluate.reference='digit' is unknown; .* digits"),
        ({"evaluate__features": "pixel"}, "features='pixel' is unknown; .* pixels"),
        ({"evaluate__metrics": ("fid",)}, "'fid', .* ask for 'fd'"),
        ({"evaluate__metrics": ("fdd",)}, "evaluate.metrics has 'fdd'; known are: fid, "),
        ({"evaluate__count": 3}, "evaluate.count=3: 'precision' needs at least 4"),
        (
            {"evaluate__reference": "cifar10-32x32"},
            "'precision', which needs real images, .*'cifar10-32x32' holds their statistics only",
        ),
    ],
)
def test_a_mistake_in_the_evaluation(changes, message, no_download):
    config = changed("sid_digits", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        building.make_evaluator(config, building.build(config), sharding.make_mesh())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_evaluation_asks_for_can_be_measured(name, no_download):
    config = load(name)
    building.check_evaluation(config)
    assert config.evaluate.count == (1797 if name in DIGITS else 50_000)
    assert config.evaluate.best in config.evaluate.metrics


@pytest.mark.parametrize(
    ("batch_size", "rounds", "nearest"), [(100, 1, 96), (100, 2, 96), (12, 1, 16), (1, 4, 32)]
)
def test_a_batch_that_does_not_divide_over_the_devices(batch_size, rounds, nearest):
    mesh = sharding.make_mesh()
    assert mesh.size == 8
    message = (
        f"batch_size={batch_size} does not divide over 8 devices times accumulation={rounds}; "
        f"batch_size={nearest} would."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sharding.check_batch(batch_size, rounds, mesh)
    sharding.check_batch(nearest, rounds, mesh)


def test_training_refuses_before_it_writes_anything(tmp_path):
    for changes, message in (
        ({"batch_size": 100}, "batch_size=100"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"mesh__fsdp": 3}, r"mesh\.fsdp=3"),
        ({"evaluate__best": "kd"}, r"best='kd' isn't among evaluate\.metrics"),
        ({"evaluate__reference": ""}, r"'fd', but config\.evaluate\.reference is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            train(changed("sid_digits", **changes), str(tmp_path / "run"))
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("teacher", "nearest"),
    [("cifar_tini", "cifar_tiny"), ("digit", "digits"), ("edm-cifar10", "edm-cifar10-32x32-")],
)
def test_a_teacher_that_is_not_known(teacher, nearest, no_download):
    with pytest.raises(ValueError, match=f"^teacher='{teacher}' is .*the nearest is '{nearest}"):
        building.build(changed("sid_digits", teacher=teacher))


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        (
            "cifar_tiny",
            r"^config\.generator\.initial=cifar_tiny is another network than the teacher",
        ),
        ("digit", r"^config\.generator\.initial='digit' is unknown; the nearest is 'digits'"),
        ("no/such", r"^config\.generator\.initial=no/such: there is no such file"),
    ],
)
def test_a_generator_that_cannot_start_so(initial, message, no_download):
    config = load("sid_digits")
    config.generator.initial = initial
    exp = building.build(config)  # which what it started from need not outlive
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        exp.load_initial()


@pytest.mark.parametrize("name", ["sid_digits", "teacher_digits"])
def test_no_rampup_is_a_constant_half_life(name):
    assert building.build(load(name)).update.averages.rampup == 0.05
    assert building.build(changed(name, ema_rampup=0.0)).update.averages.rampup is None


def test_the_greatest_norms_reach_the_optimizers_they_are_of():
    config = load("sid_digits")
    config.generator.max_grad_norm, config.fake_score.max_grad_norm = 2.0, 3.0
    optimizers = building.build(config).update.optimizers
    for learner, norm in (("generator", 2.0), ("fake_score", 3.0)):
        optimizer = optimizers[learner]
        params = {"x": jnp.zeros(4)}
        # Adam's second moment, after one gradient, is a thousandth of its square.
        _, state = optimizer.update({"x": jnp.full(4, 50.0)}, optimizer.init(params), params)
        moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (4,)]
        np.testing.assert_allclose(moments, [np.full(4, 0.001 * (norm / 2) ** 2)], rtol=1e-5)


@pytest.mark.parametrize(
    ("frozen", "decay", "rates"),
    [
        (0, 4, [1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        (2, 0, [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]),
        (2, 8, [0, 0, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
    ],
)
def test_the_generators_rate_waits_and_decays(frozen, decay, rates):
    config = load("sid_digits")
    kimg = config.batch_size / 1000
    config.duration_kimg = 10 * kimg
    config.generator.frozen_kimg, config.generator.decay_kimg = frozen * kimg, decay * kimg
    optimizer = building.build(config).update.optimizers["generator"]
    params = {"x": jnp.zeros(1)}
    state, steps = optimizer.init(params), []
    for i, _ in enumerate(rates):
        # Of equal gradients Adam makes steps of a learning rate each.
        images = jnp.uint32(i * config.batch_size)
        update, state = optimizer.update({"x": jnp.ones(1)}, state, params, images=images)
        steps.append(-float(update["x"][0]) / config.generator.learning_rate)
    np.testing.assert_allclose(steps, rates, atol=1e-5)


def test_cudnn_reaches_all_networks_and_not_float32_ones(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    config = load("sid_cifar")
    config.attention = "cudnn"
    with pytest.raises(ValueError, match=r"config\.attention='cudnn' computes in bfloat16"):
        building.build(config)
    config.dtype = "bfloat16"
    networks = building.build(config).method.networks
    for denoiser in (networks["teacher"], networks["fake_score"], networks["generator"].denoiser):
        assert denoiser.network.attention == "cudnn"
    config.teacher_dtype = "float32"
    with pytest.raises(ValueError, match=r"config\.attention='cudnn' computes in bfloat16"):
        building.build(config)


def test_inception_that_cannot_be_downloaded_is_told_with_its_field(monkeypatch):
    def fetch(source):
        raise ConnectionError(f"{source}: the download failed; give its path")

    monkeypatch.setattr(download, "fetch", fetch)
    config = load("sid_digits")
    config.evaluate.update(features="inception", metrics=("fid",), best="fid")
    exp = building.build(config)
    with pytest.raises(ConnectionError, match=r"--config\.evaluate\.features_weights=PATH"):
        building.make_evaluator(config, exp, sharding.make_mesh())
