"""The check of a teacher: right ones pass, and each planted mistake is told what to change."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models
from diffjax.convert import teacher as released
from diffjax.diffusion.process import Process
from diffjax.models import checking, slopes
from diffjax.models import denoiser as denoisers
from tests.models import exact_teachers
from tests.models.exact_teachers import FLOW, PARAMS, VP

POINTS, SIGNALS, IMAGES = (
    exact_teachers.points(),
    exact_teachers.signals(),
    exact_teachers.images(),
)
KEY = jax.random.key(1)


def problems(teacher, **options):
    report = checking.check(teacher, name="mine:sky", key=KEY, **options)
    for line in report.lines():
        print(line)
    assert all(line.startswith("mine:sky: ") and "\n" not in line for line in report.problems)
    return report.problems


def first(teacher, **options):
    found = problems(teacher, **options)
    assert found, "nothing was found"
    return found[0].removeprefix("mine:sky: ")


def negated(net):
    return lambda *inputs: -net(*inputs)


RIGHT = {
    "edm": (Process.edm(), "x0"),
    "vp eps": (VP, "eps"),
    "vp score": (VP, "score"),
    "flow velocity": (FLOW, "velocity"),
    "flow data_at=1": (Process.rectified_flow(data_at=1), "velocity"),
    "cosine v": (Process.cosine(), "v"),
    "ve score": (Process.ve(0.01, 50.0), "score"),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_right_teachers_of_points_pass(kind):
    process, predicts = RIGHT[kind]
    denoise = process.denoiser(POINTS.net(process, predicts), predicts)
    assert problems(POINTS.teacher(denoise, process=process)) == ()


@pytest.mark.parametrize("data", [SIGNALS, IMAGES], ids=["signals", "images"])
@pytest.mark.parametrize("kind", ["edm", "vp eps", "flow velocity"])
def test_right_teachers_of_signals_and_images_pass(data, kind):
    process, predicts = RIGHT[kind]
    assert problems(data.teacher(process.denoiser(data.net(process, predicts), predicts))) == ()


@pytest.mark.parametrize("seed", range(2))
def test_a_right_teacher_passes_on_data_and_with_other_draws(seed):
    teacher = POINTS.teacher(VP.denoiser(POINTS.net(VP, "eps"), "eps"))
    key = jax.random.key(seed)
    for data in (None, POINTS.draw(seed, 4096)):
        report = checking.check(teacher, name="mine:sky", key=key, data=data)
        assert report.problems == ()
        assert len(report.levels) == 9
        assert report.origin == ("data" if data is not None else "the teacher's own samples")
        assert report.std == pytest.approx(POINTS.std, rel=0.05)


def test_a_wide_range_over_thin_data_is_no_fault_of_the_teacher():
    """A sampler of few steps leaves these samples so wide that slopes fall to 0.88."""
    teacher = IMAGES.teacher(
        lambda p, y, sigma, c: IMAGES.denoise(y, sigma), sigma_min=0.002, sigma_max=80.0
    )
    assert problems(teacher) == ()


def test_the_digits_teacher_is_right_where_noise_is_not_small():
    """A real network, whose data have std 0.75 and not the 0.5 of its preconditioning."""
    loaded = released.load("digits")
    denoiser = denoisers.from_edm_kwargs(loaded.init_kwargs)
    teacher = models.Teacher(
        lambda p, y, sigma, cond: denoiser(p, y, sigma, labels=cond),
        loaded.params,
        denoiser.image_shape,
        sigma_data=0.5,
        sigma_min=0.1,
        sigma_max=80.0,
        cond=models.one_hot(denoiser.label_dim),
    )
    report = checking.check(teacher, name="digits", key=KEY, levels=4)
    assert not any(level.is_wrong for level in report.levels), report.lines()
    (line,) = report.problems
    assert "sigma_data=0.5 says otherwise (over 20 % off): set sigma_data=0.7" in line


# Each planted mistake: what was written, and what the first line must say.
E, S, U = (POINTS.net(p, q) for p, q in ((VP, "eps"), (VP, "score"), (FLOW, "velocity")))
AT_1 = Process.rectified_flow(data_at=1)
BETAS = np.linspace(1e-4, 0.02, 1000)
LINEAR = Process.vp(lambda t: 0.1 + 19.9 * t, 1.0)
FAULTS = {
    "sign of eps": (VP.denoiser(negated(E), "eps"), "slope is -1.00: the sign of eps or score"),
    "sign of score": (VP.denoiser(negated(S), "score"), "slope is -1.00: the sign of eps or score"),
    "score for eps": (VP.denoiser(S, "eps"), "predicts='score' gives"),
    "eps for score": (VP.denoiser(E, "score"), "predicts='eps' gives"),
    "twice beta": (Process.vp(2.0, 10.0).denoiser(E, "eps"), "beta / 2) gives"),
    "other beta": (
        VP.denoiser(POINTS.net(LINEAR, "eps"), "eps"),
        "Process.vp(beta=lambda t: 0.1 + 19.9 * t, t_max=1.0), predicts='eps' gives",
    ),
    "time in thousands": (VP.denoiser(E, "eps", time_scale=1000), "time_scale=1 gives"),
    "time not in thousands": (
        FLOW.denoiser(lambda p, x, t, c: U(p, x, t / 1000, c), "velocity"),
        "time_scale=1000 gives",
    ),
    "ve for vp": (Process.ve(0.02, 20.0).denoiser(E, "eps"), "Process.vp(beta=1.0, t_max=10.0)"),
    "edm for vp": (Process.edm().denoiser(S, "score"), "Process.vp(beta=1.0, t_max=10.0)"),
    "vp for edm": (
        VP.denoiser(POINTS.net(Process.edm(), "eps"), "eps"),
        "Process.edm(), predicts='eps' gives",
    ),
    "sign of velocity": (
        FLOW.denoiser(negated(U), "velocity"),
        "of velocity's signs and ends, the other sign gives",
    ),
    "data at 0": (AT_1.denoiser(U, "velocity"), "of velocity's signs and ends, data_at=0 gives"),
    "data at 1": (
        FLOW.denoiser(POINTS.net(AT_1, "velocity"), "velocity"),
        "of velocity's signs and ends, data_at=1 gives",
    ),
    "data at 0, other sign": (
        AT_1.denoiser(negated(U), "velocity"),
        "of velocity's signs and ends, data_at=0 with net -> -net gives",
    ),
    "eps as D": (POINTS.net(Process.edm(), "eps"), "predicts='eps' gives"),
    "D with a sign": (
        lambda p, y, sigma, c: 2 * y - POINTS.denoise(y, sigma),
        "slope is -1.00: the sign of eps or score",
    ),
    "D of score with sigma": (
        lambda p, y, sigma, c: y + (POINTS.denoise(y, sigma) - y) / sigma[:, None],
        "D = y + sigma^2 score, which gives",
    ),
    "nothing learnt": (lambda p, y, sigma, c: p["one"] * y, "are the trained weights in params?"),
    "zero": (lambda p, y, sigma, c: 0 * p["one"] * y, "are the trained weights in params?"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_mistake_is_told_what_to_change(fault):
    denoise, told = FAULTS[fault]
    assert told in first(POINTS.teacher(denoise), levels=6)


def test_a_reading_whose_samples_have_another_size_comes_second():
    three = exact_teachers.Mixture([[1, 0], [-1, 0.5], [0, -1]], 0.2)
    net = three.net(LINEAR, "eps")
    denoise = LINEAR.denoiser(lambda p, x, t, c: net(p, x, t / 1000, c), "eps")
    assert "time_scale=1000 gives" in first(three.teacher(denoise, sigma_min=0.01, sigma_max=80.0))


def test_mistakes_are_told_for_other_shapes_too():
    eps, score = IMAGES.net(VP, "eps"), SIGNALS.net(VP, "score")
    assert "the sign of eps or score" in first(
        IMAGES.teacher(VP.denoiser(negated(eps), "eps")), levels=5
    )
    assert "predicts='score'" in first(SIGNALS.teacher(VP.denoiser(score, "eps")), levels=5)
    assert "beta / 2" in first(IMAGES.teacher(Process.vp(2.0, 10.0).denoiser(eps, "eps")), levels=5)


def test_a_mistake_is_told_on_data_too():
    teacher = POINTS.teacher(VP.denoiser(S, "eps"))
    assert "predicts='score'" in first(teacher, data=POINTS.draw(0, 4096))


@pytest.mark.parametrize("factor", [0.2, 0.7, 1.4, 5.0])
def test_a_wrong_sigma_data_is_told_the_right_one(factor):
    teacher = POINTS.teacher(VP.denoiser(E, "eps"), sigma_data=factor * POINTS.std)
    (line,) = problems(teacher)
    assert "(over 20 % off): set sigma_data=0.7" in line


def test_data_in_other_units_are_told():
    teacher = POINTS.teacher(VP.denoiser(E, "eps"))
    found = problems(teacher, data=POINTS.draw(0, 4096) * 100)
    assert any("same units" in line for line in found), found


def test_the_range_in_which_a_teacher_is_right_is_found():
    def wrong_below(p, y, sigma, c):
        out = POINTS.denoise(y, sigma)
        return jnp.where(sigma[:, None] < 0.1, (y + out) / 2, out)

    def wrong_above(p, y, sigma, c):
        return POINTS.denoise(y, sigma) + jnp.where(sigma[:, None] > 8, y / 2, 0)

    line = first(POINTS.teacher(wrong_below))
    assert "it is right from 0.112 to 20: set sigma_min=0.12" in line
    assert "set sigma_max=3.5" in first(POINTS.teacher(wrong_above))


def test_levels_that_cannot_be_told_are_no_problem():
    wide = exact_teachers.Mixture(np.zeros((1, 2)), 50.0)
    teacher = wide.teacher(lambda p, y, sigma, c: wide.denoise(y, sigma), sigma_min=1e-3)
    assert problems(teacher, levels=3) == ()
    level = slopes.Level(0.01, 1.3, 0.2, 1.0, 100)
    assert (level.verdict, level.is_wrong) == ("can't be told here", False)
    assert slopes.Level(0.01, 1.3, 0.01, 1.0, 100).verdict == "wrong"
    assert slopes.Level(0.01, math.nan, math.inf, 0.0, 100).verdict == "wrong"


# The short check.


def refused(teacher):
    with pytest.raises(ValueError, match=r"^mine:sky: ") as error:
        checking.short(teacher, "mine:sky")
    return str(error.value)


def small(denoise, **changes):
    return POINTS.teacher(denoise, **changes)


W = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2)), jnp.float32)
SHORT = {
    "shape": (lambda p, y, s, c: y[:, 0], "denoise returned [4] for y [4, 2]; it must keep the"),
    "bfloat16": (lambda p, y, s, c: y.astype(jnp.bfloat16), "denoise returned bfloat16; cast to"),
    "integers": (lambda p, y, s, c: y.astype(int), "denoise returned int32; cast to float32"),
    "two": (lambda p, y, s, c: (y, y), "denoise returned tuple; it must return one array"),
    "numpy": (lambda p, y, s, c: np.asarray(y) * 2, "it must be a pure function of jax.numpy"),
    "branch": (lambda p, y, s, c: y if s[0] > 1 else 2 * y, "branches on values"),
    "nan": (lambda p, y, s, c: y / jnp.where(s < 1, 0, s)[:, None], "aren't finite at sigma=0.02"),
    "unbatched": (
        lambda p, y, s, c: W.T @ (y.reshape(2) / s),
        "vmap missing? Equinox is unbatched",
    ),
    "batch norm": (
        lambda p, y, s, c: (y - y.mean(0)) / (y.std(0) + 0.1),
        "depends on the others of its batch; take the stored statistics",
    ),
    "places": (
        lambda p, y, s, c: y * (1 + jnp.arange(len(y)))[:, None],
        "when the examples of a batch change places",
    ),
    "first sigma": (lambda p, y, s, c: y / (1 + s[0]), "change places"),
    "condition": (lambda p, y, s, c: y @ c, "if the network wants a condition, say how"),
}


@pytest.mark.parametrize("fault", SHORT)
def test_the_short_check_names_what_to_change(fault):
    denoise, told = SHORT[fault]
    line = refused(small(denoise))
    assert told in line
    assert "\n" not in line


def test_the_check_is_told_what_the_short_one_finds():
    assert problems(small(SHORT["shape"][0])) == (refused(small(SHORT["shape"][0])),)


@pytest.mark.parametrize("sigma_max", [100.0, 1000.0])
def test_levels_beyond_the_process_are_told(sigma_max, caplog):
    denoise = exact_teachers.VP.denoiser(lambda p, x, t, c: p["one"] * x, "eps")
    fields = (2,), 1.0, 0.05, sigma_max
    checking.short(models.Teacher(denoise, PARAMS, *fields, process="vp"), f"to:{sigma_max}")
    assert "process is of type str and no models.Process" in caplog.text
    assert ("sigma is 0.01 to 148.4" in caplog.text) == (sigma_max > 148.4)


def test_a_missing_vmap_of_a_network_is_told():
    """In images an axis is dropped, in a matrix product the shapes don't fit."""

    def dropped(p, x, t, c=None):
        return x[:, 0]

    teacher = models.Teacher(VP.denoiser(dropped, "eps"), PARAMS, (1, 32, 32), 0.5, 0.02, 20.0)
    assert refused(teacher) == (
        "mine:sky: denoise returned [4, 32, 32] for y [4, 1, 32, 32]; it must keep the shape "
        "of y (vmap missing? Equinox is unbatched: from_equinox(batched=False))"
    )
    matrix = small(VP.denoiser(lambda p, x, t, c: W @ x * t, "eps"))
    with pytest.raises(ValueError, match=r"works on one example: vmap missing\?"):
        checking.short(matrix, "mine:sky")


def labelled(denoise, cond):
    return small(denoise, cond=cond)


TABLE = jnp.asarray(np.random.default_rng(0).standard_normal((10, 2)), jnp.float32)
LABELS = {
    "integers for one-hot": (
        lambda p, y, s, c: y + c @ TABLE,
        models.uniform(10),
        "conditions int32 [4]",
    ),
    "one-hot for integers": (
        lambda p, y, s, c: y + TABLE[c.astype(int)],
        models.one_hot(10),
        "conditions float32 [4, 10]",
    ),
    "no dict": (
        lambda p, y, s, c: y + TABLE[c["class"]],
        models.uniform(10),
        "conditions int32 [4]",
    ),
    "other key": (
        lambda p, y, s, c: y + TABLE[c["class"]],
        models.uniform({"label": 10}),
        "conditions label int32 [4]",
    ),
    "none wanted": (
        lambda p, y, s, c: y if c is None else y @ c["x"],
        models.one_hot(10),
        "works without",
    ),
    "across axes": (lambda p, y, s, c: y + c, models.uniform((0.0, 1.0)), "conditions float32 [4]"),
    "ignored": (
        lambda p, y, s, c: POINTS.denoise(y, s),
        models.one_hot(10),
        "the condition (float32 [4, 10]) changes nothing",
    ),
}


@pytest.mark.parametrize("fault", LABELS)
def test_labels_of_the_wrong_form_are_told(fault):
    denoise, law, told = LABELS[fault]
    line = refused(labelled(denoise, law))
    assert told in line
    assert "cond=" in line or "another law as cond" in line


@pytest.mark.parametrize("wrong", [False, True])
def test_parameters_may_hold_more_than_arrays(wrong):
    def net(params, x, t, cond):
        assert params["kind"] == "eps"
        assert isinstance(params["order"], int)
        return E(params, x, t) * (-1 if wrong else 1)

    params = {**PARAMS, "kind": "eps", "order": 2, "table": np.arange(3)}
    teacher = dataclasses.replace(POINTS.teacher(VP.denoiser(net, "eps")), params=params)
    found = problems(teacher)
    assert ("the sign of eps or score" in found[0]) if wrong else found == ()


def test_conditions_go_with_their_examples():
    """Eight classes, one Gaussian each: a right teacher passes, on its samples and on data."""

    def denoise(p, y, sigma, cond):
        mean = jnp.asarray(POINTS.means)[cond["class"]]
        return mean + (POINTS.sd**2 / (POINTS.sd**2 + sigma**2))[:, None] * (y - mean)

    teacher = labelled(denoise, models.uniform({"class": 8}))
    assert problems(teacher) == ()
    classes = np.random.default_rng(0).integers(8, size=4096)
    noise = np.random.default_rng(1).standard_normal((4096, 2))
    data = (POINTS.means[classes] + POINTS.sd * noise, {"class": classes})
    assert problems(teacher, data=data) == ()
    with pytest.raises(
        ValueError, match=r"is conditional: data must be \(data, their conditions\)"
    ):
        problems(teacher, data=data[0])


def test_nonsense_is_refused():
    teacher = POINTS.teacher(VP.denoiser(E, "eps"))
    with pytest.raises(ValueError, match=r"data are float64 \[7, 3\]; they must be numbers"):
        problems(teacher, data=np.zeros((7, 3)))
    with pytest.raises(ValueError, match="levels=2 must be at least 3"):
        problems(teacher, levels=2)


def test_a_report_is_a_table_and_its_problems():
    teacher = POINTS.teacher(VP.denoiser(E, "eps"))
    report = checking.check(teacher, name="mine:sky", key=KEY)
    assert len(report.lines()) == 2 + 9 + 1 + 1
    assert report.lines()[-1] == "mine:sky: no problem found"
    again = dataclasses.replace(report, problems=("mine:sky: this",))
    assert again.lines()[-1] == "mine:sky: this"
