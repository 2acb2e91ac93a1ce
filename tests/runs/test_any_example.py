"""Samples, pictures and measures of examples of any shape, through the modes of `main`."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffjax.distributed import sharding
from diffjax.evaluation import drawing, references, sampling
from diffjax.evaluation.evaluator import Evaluator
from diffjax.files import previews
from diffjax.models import conditions
from diffjax.runs import bases, building
from diffjax.runs.evaluate import evaluate
from diffjax.runs.pictures import Pictures
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from diffjax.runs.user_function import RefusedError
from tests.support import any_examples
from tests.support.any_examples import SD

MODULE = any_examples.__name__


def configured(teacher="points", **changes):
    config = bases.distillation("sid")
    config.teacher = f"{MODULE}:{teacher}"
    config.sample.source = config.evaluate.source = "teacher"
    config.heun.steps, config.mesh.data = 32, 1
    config.sample.batch_size = config.evaluate.batch_size = 512
    config.evaluate.metrics, config.evaluate.count = ("swd",), 2000
    config.evaluate.reference = f"{MODULE}:reference"
    for field, value in changes.items():
        group, _, name = field.rpartition("__")
        setattr(config[group] if group else config, name, value)
    return config


def sampled(tmp_path, teacher, count, **changes):
    config = configured(teacher, sample__count=count, sample__format="npz", **changes)
    sample(config, str(tmp_path))
    with np.load(tmp_path / "samples" / f"teacher_seed0_{count}.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("teacher", "shape", "names"),
    [
        ("points", (2,), set()),
        ("signals", (50,), {"condition/class", "condition/snr"}),
        ("pictures", (1, 6, 5), {"classes"}),
        ("volumes", (2, 3, 4, 5), {"classes"}),
        ("tables", (2,), {"condition"}),
    ],
)
def test_samples_are_floats_in_the_teachers_units_and_follow_their_conditions(
    tmp_path, teacher, shape, names
):
    arrays = sampled(tmp_path, teacher, 600)
    x = arrays.pop("images")
    assert (x.dtype, x.shape) == (np.float32, (600, *shape))
    assert set(arrays) == names
    mean = np.zeros(600)
    for name, drawn in arrays.items():
        if name == "condition":
            assert {tuple(row) for row in drawn.tolist()} == {(1, 0), (0, 1), (0, 0)}
            mean += any_examples.WEIGHTS["class"] * drawn[:, 1]
        else:
            weight = any_examples.WEIGHTS["snr" if name.endswith("snr") else "class"]
            mean += weight * drawn
    rest = x.reshape(600, -1) - mean[:, None]
    assert rest.std() == pytest.approx(SD, rel=0.06)
    assert abs(rest.mean()) < 0.2
    # A shape of an unknown kind has no picture, all others one grid.
    assert (tmp_path / "samples/teacher_seed0.png").exists() == (teacher != "volumes")


def test_frequencies_are_drawn_as_they_are(tmp_path):
    classes = sampled(tmp_path, "volumes", 600)["classes"]
    assert classes.dtype == np.int32
    assert set(classes) == {0, 2}
    assert np.mean(classes == 2) == pytest.approx(0.75, abs=0.07)


def test_one_class_of_a_users_teacher(tmp_path):
    config = configured("pictures", sample__label=2, sample__count=4)
    sample(config, str(tmp_path))
    folder = tmp_path / "samples/teacher_label2_seed0_4"
    assert Image.open(folder / "000003.png").size == (5, 6)
    record = json.loads((tmp_path / "samples/teacher_label2_seed0_4.json").read_text())
    assert record["label"] == 2


def test_a_students_own_latents(tmp_path):
    config = configured("points", student=f"{MODULE}:student")
    exp = building.build(config)
    mesh = sharding.make_mesh(data=1)
    params = exp.sampled.init(jax.random.key(0))
    sampler = exp.sampler(seed=5, mesh=mesh)
    x = sampling.first_images(sampler, params, 400, label_dim=0, mesh=mesh, quantise=False)
    assert x.mean() == pytest.approx(100, abs=1)
    assert x.std() == pytest.approx(SD, rel=0.1)
    few = sampler(params, jnp.arange(7, 10), None)
    np.testing.assert_array_equal(x[7:10], few)


def test_a_normal_law_draws_what_is_drawn_without_one():
    indices = jnp.arange(3, 8)
    with_law, without = (
        drawing.latents(3, indices, (4, 2), law) for law in (conditions.normal((4, 2)), None)
    )
    np.testing.assert_array_equal(with_law, without)
    law = conditions.one_hot(7)
    drawn = drawing.random_conditions(3, indices, 7, law=law)
    np.testing.assert_array_equal(drawn, drawing.random_classes(3, indices, 7))


def test_published_noise_levels_scale_with_the_data():
    ours = dataclasses.make_dataclass("D", ["sigma_data", "sigma_min", "sigma_max"])
    ours.round_sigma = staticmethod(lambda grid: grid)
    settings = sampling.HeunSettings()
    grid = settings.sigmas(ours(0.5, 0.0, np.inf))
    assert grid[[0, -2, -1]] == pytest.approx([80, 0.002, 0])
    assert settings.sigmas(ours(3.0, 0.0, np.inf)) == pytest.approx(6 * grid)
    clipped = settings.sigmas(ours(3.0, 0.1, 300.0))
    assert clipped[[0, -2]] == pytest.approx([300, 0.1])
    with pytest.raises(ValueError, match=r"heun.sigma_min=0.002 to .* knows 500 to 900"):
        settings.sigmas(ours(3.0, 500.0, 900.0))


REFUSED = [
    (
        "points",
        {"sample__count": 5},
        r"format='png' needs images, .*\(2,\): set it to 'npz'",
    ),
    ("points", {"sample__count": 5, "sample__format": "adm"}, r"format='adm' needs images"),
    ("volumes", {"sample__count": 5}, r"sample.format='png' needs images"),
    ("volumes", {}, r"sample.count=0 writes a picture alone, .*sample.format='npz'"),
    ("signals", {"sample__label": 1}, "the condition of .*:signals isn't a one-hot class"),
    ("tables", {"sample__label": 0}, "the condition of .*:tables isn't a one-hot class"),
    ("pictures", {"sample__label": 3}, "sample.label=3: the network has 3 classes"),
]


@pytest.mark.parametrize(("teacher", "changes", "message"), REFUSED)
def test_samples_that_cannot_be_are_refused_before_anything(tmp_path, teacher, changes, message):
    with pytest.raises(RefusedError, match=message) as caught:
        sample(configured(teacher, **changes), str(tmp_path / "w"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"metrics": ("fid",)},
            r"metrics=\('fid',\) needs images; shape is \(2,\): use \('swd',\)",
        ),
        ({"metrics": ("swd", "is"), "reference": ""}, "config.evaluate.metrics has 'swd', but"),
        ({"metrics": ("kid",), "count": 5000}, r"metrics=\('kid',\) needs images"),
        ({"metrics": ("fdd",)}, "metrics has 'fdd'; known are: .*swd"),
        ({"metrics": ("fd",)}, "evaluate.features='inception' needs images; shape is .*'values'"),
        ({"metrics": ("recall",), "features": "pixels"}, "features='pixels' needs images"),
        ({"reference": ""}, "reference is empty: name an .npz .*'module:function'"),
        ({"reference": "digits"}, "reference='digits': examples of .* are floats of"),
        (
            {"reference": f"{MODULE}:no_such"},
            "evaluate.reference='.*any_examples.py has no",
        ),
        ({"reference": f"{MODULE}:elsewhere"}, r"returned \[2000, 3\], .*\[N, 2\] is needed"),
        ({"reference": f"{MODULE}:whole_numbers"}, r"returned int32 \[2000, 2\]; floats"),
        ({"reference": f"{MODULE}:not_numbers"}, "NaN or infinity in 2000 of 2000 examples"),
        ({"reference": f"{MODULE}:nothing"}, r"returned NoneType; an array"),
        ({"reference": f"{MODULE}:raising"}, "fails with KeyError"),
        (
            {"metrics": ("fd",), "features": f"{MODULE}:infinite"},
            "features='infinite' make NaN or infinity of the reference",
        ),
        (
            {"metrics": ("fd",), "features": f"{MODULE}:raising"},
            r"config.evaluate.features='.*' fails on float32 \[.*, 2\] with TypeError",
        ),
    ],
)
def test_measures_that_cannot_be_are_refused(tmp_path, changes, message):
    changes = {f"evaluate__{name}": value for name, value in changes.items()}
    config = configured("points", **changes)
    with pytest.raises(RefusedError, match=message) as caught:
        building.make_evaluator(config, building.build(config), sharding.make_mesh())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((4, 2)), "b": np.zeros(1)}, "no array 'images' in it, but 'a', 'b'"),
        ({"images": np.zeros((4, 3))}, r"holds \[4, 3\], but the teacher's examples are of \(2,\)"),
        ({"images": np.zeros((1, 2))}, "1 examples: a distribution needs more"),
        ({"images": np.zeros((4, 2), np.uint8)}, "holds uint8"),
        ({"x": np.array([{}, {}])}, "allow_pickle"),
        (b"PK\x03\x04 no zip", "neither an .npz nor an .npy"),
        (b"", "neither an .npz nor an .npy"),
        (None, "there is no such file"),
    ],
)
def test_files_that_are_no_reference(tmp_path, arrays, message):
    path = tmp_path / "data.npz"
    if isinstance(arrays, bytes):
        path.write_bytes(arrays)
    elif arrays is not None:
        np.savez(path, **arrays)
    config = configured("points", evaluate__reference=str(path))
    with pytest.raises((RefusedError, FileNotFoundError), match=message) as caught:
        building.make_evaluator(config, building.build(config), sharding.make_mesh())
    assert "\n" not in str(caught.value)
    assert f"config.evaluate.reference={str(path)!r}" in str(caught.value)


def measured(tmp_path, **changes):
    config = configured(**changes)
    evaluate(config, str(tmp_path))
    return json.loads((tmp_path / "evaluation_teacher.json").read_text())


def test_samples_are_measured_as_they_are(tmp_path):
    np.savez(tmp_path / "data.npz", only=any_examples.reference(3000, 7))
    found = measured(
        tmp_path,
        evaluate__metrics=("swd", "mmd", "moments", "fd", "precision"),
        evaluate__reference=str(tmp_path / "data.npz"),
        evaluate__features="values",
    )
    assert found["swd_2k"] < 0.1 * SD
    assert abs(found["mmd_2k"]) < 0.003
    assert found["moments_2k"] == max(found["moments_2k_mean"], found["moments_2k_std"]) < 0.06
    assert found["fd_values_2k"] < 0.1 * SD**2
    assert found["precision_values_2k"] > 0.9
    reference = found["measured"]["reference"]
    assert (reference["count"], reference["image_shape"]) == (3000, [2])
    assert len(reference["sha256"]) == 64


@pytest.mark.parametrize(("function", "factor"), [("squares", None), ("doubled", 2)])
def test_features_of_floats(tmp_path, function, factor):
    changes = {"evaluate__metrics": ("fd",)}
    own = measured(tmp_path, evaluate__features=f"{MODULE}:{function}", **changes)
    assert own[f"fd_{function}_2k"] >= 0
    if factor:
        plain = measured(tmp_path, evaluate__features="values", **changes)
        assert own["fd_doubled_2k"] == pytest.approx(factor**2 * plain["fd_values_2k"], rel=1e-3)


@pytest.mark.parametrize(("teacher", "expected"), [("points", 0.0), ("pictures", None)])
def test_moments_without_a_reference(tmp_path, teacher, expected):
    found = measured(
        tmp_path, teacher=teacher, evaluate__metrics=("moments",), evaluate__reference=""
    )
    parts = {name for name in found if name.startswith("moments")}
    assert parts == {"moments_2k", "moments_2k_mean", "moments_2k_std"}
    # Over all coordinates together: the means of three classes widen the pictures.
    classes = any_examples.WEIGHTS["class"] * np.arange(3)
    wider = 0.0 if expected == 0 else np.hypot(SD, classes.std()) / SD - 1
    assert found["moments_2k"] == found["moments_2k_std"] == pytest.approx(wider, abs=0.05)


def test_images_of_our_own_networks_by_their_values():
    mesh = sharding.make_mesh(data=1)
    real = references.load(
        "digits",
        None,
        image_shape=(8, 8, 1),
        keep_rows=False,
        batch_size=500,
        mesh=mesh,
        keep_values=True,
    )
    assert (real.values.shape, real.mean) == ((1797, 64), None)
    assert real.values.min() == -1
    measure = Evaluator(
        features=None,
        names=("swd", "moments"),
        reference=real,
        count=40,
        batch_size=16,
        seed=0,
        mesh=mesh,
    )
    found = measure(lambda params, i, drawn: jnp.ones((len(i), 8, 8, 1)), None, label_dim=0)
    # White images: each pixel lies 1 - mean away, in units of 0.5.
    gap = 1 - real.values.astype(np.float64).mean(axis=0)
    assert found["moments_40_mean"] == pytest.approx(np.sqrt(np.mean(gap**2)) / 0.5, rel=1e-6)
    assert found["swd_40"] > 1


def pictures_of(teacher):
    exp = building.build(configured(teacher))
    return Pictures(exp.denoiser, rows=2, columns=3)


def test_a_preview_draws_instead_of_the_shape(tmp_path):
    drawn = pictures_of("drawn").grid(np.zeros((6, 2, 2), np.float32))
    assert drawn.shape == (4, 6, 1)
    assert set(drawn.ravel()) == {42}
    panels = pictures_of("drawn").panels([("a", np.zeros((6, 2, 2), np.float32))] * 2)
    assert panels.shape[1] > 12
    sample(configured("drawn", sample__count=2, grid__rows=1, grid__columns=3), str(tmp_path))
    assert np.asarray(Image.open(tmp_path / "samples/teacher_seed0.png")).max() == 21
    each = np.asarray(Image.open(tmp_path / "samples/teacher_seed0_2/000001.png"))
    assert set(each.ravel()) == {7}


def test_pictures_go_by_rank_and_stay_of_a_size_to_look_at():
    rng = np.random.default_rng(0)
    for teacher in ("points", "signals", "pictures"):
        pictures = pictures_of(teacher)
        pictures = dataclasses.replace(pictures, rows=8, columns=8)
        samples = rng.normal(size=(pictures.count, *pictures.denoiser.shape)).astype(np.float32)
        height, width, _ = pictures.grid(samples).shape
        assert max(height, width) < 700
    assert pictures_of("points").count > 1000
    assert pictures_of("signals").count == 6
    assert not pictures_of("volumes").exist


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("failing", r"failing: preview of float32 \[2048, 2\] fails with AttributeError"),
        ("empty", r"empty: preview of float32 \[2048, 2\] returned NoneType; a Pillow image"),
    ],
)
def test_a_preview_that_draws_nothing(tmp_path, teacher, message, capsys):
    with pytest.raises(RefusedError, match=message):
        sample(configured(teacher), str(tmp_path))
    arrays = sampled(tmp_path, teacher, 5)  # what was asked for is there all the same
    assert arrays["images"].shape == (5, 2)
    assert not list((tmp_path / "samples").glob("*.png"))


def test_pictures_of_other_libraries():
    class Figure:
        def savefig(self, file, format):
            Image.new("RGBA", (3, 2), (255, 0, 0, 0)).save(file, format=format)

    assert (previews.as_pixels(Figure()) == 255).all()  # transparent on white
    assert previews.as_pixels(Figure()).shape == (2, 3, 3)
    assert previews.as_pixels(Image.new("L", (3, 2), 9)).shape == (2, 3, 1)
    assert previews.as_pixels(np.zeros((2, 3, 1), np.uint8)).shape == (2, 3, 1)
    for wrong in (np.zeros((2, 3)), np.zeros((2, 3, 2), np.uint8), "x", None, 3):
        with pytest.raises(ValueError, match="a Pillow image, a matplotlib figure or a uint8"):
            previews.as_pixels(wrong)


def trained(tmp_path, teacher, **changes):
    config = configured(
        teacher,
        batch_size=16,
        duration_kimg=0.032,
        log_kimg=0.016,
        grid_kimg=0.016,
        checkpoint_kimg=0.032,
        ema_halflife_kimg=0.01,
        heun__steps=4,
        evaluate__count=200,
        **changes,
    )
    config.generator.learning_rate = config.fake_score.learning_rate = "auto"
    train(config, str(tmp_path))


def test_a_run_measures_and_compares_points(tmp_path, capsys):
    trained(tmp_path, "points", evaluate__every_kimg=0.016, evaluate__best="swd")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum("swd_200" in line for line in lines) == 2
    assert (tmp_path / "best").is_dir()
    # Data, teacher and student side by side: three scatters of the same size.
    width, height = Image.open(next((tmp_path / "samples").glob("comparison_*.png"))).size
    assert width > 3 * 384 > height


@pytest.mark.parametrize(
    ("teacher", "note"),
    [
        ("volumes", "no pictures are written: examples of (2, 3, 4, 5) have none"),
        ("failing", "warning: no pictures are written: "),
    ],
)
def test_a_run_without_pictures_says_so_once(tmp_path, capsys, teacher, note):
    trained(tmp_path, teacher)
    assert capsys.readouterr().out.count(note) == 1
    assert (tmp_path / "network").is_dir()
    assert not list(tmp_path.glob("samples/*.png"))
