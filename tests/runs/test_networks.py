"""Networks by name: one door for ours, users' functions and folders of both, and its errors."""

import dataclasses
import re
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.models import record_folder
from diffjax.models.model_card import DENOISER, STUDENT, ModelCard
from diffjax.runs import bases, building, networks
from diffjax.runs.user_function import RefusedError

MODULE = Path(__file__).parents[1] / "support" / "my_teacher.py"


@pytest.fixture
def folder(tmp_path):
    shutil.copy(MODULE, tmp_path / "my_teacher.py")
    yield str(tmp_path)
    sys.modules.pop("my_teacher", None)
    sys.path[:] = [each for each in sys.path if each != str(tmp_path)]
    from diffjax.runs import user_function

    user_function._folders[:] = [each for each in user_function._folders if each != str(tmp_path)]


def config(folder, **fields):
    made = bases.distillation("sid")
    made.teacher = "my_teacher:points"
    for field, value in fields.items():
        *groups, name = field.split("__")
        group = made
        for each in groups:
            group = group[each]
        group[name] = value
    from diffjax.runs import user_function

    user_function.look_in(Path(folder))
    return made


def build(folder, **fields):
    return building.build(config(folder, **fields))


def ask(model, params, cond=None):
    y = jnp.linspace(-1, 1, 8).reshape(4, 2)
    return model(params, y, jnp.full(4, 0.7), labels=cond)


def test_a_function_is_a_teacher(folder):
    exp = build(folder)
    record = networks.teacher("my_teacher:points").record()
    teacher = exp.load_inputs()["teacher"]
    y = jnp.linspace(-1, 1, 8).reshape(4, 2)
    wanted = record.denoise(record.params, y, jnp.full(4, 0.7), None)
    np.testing.assert_array_equal(ask(exp.denoiser, teacher), wanted)
    assert teacher.keys() == {"layers"}
    state = exp.init_state({"teacher": teacher})
    assert set(state.params) == {"fake_score", "generator"}
    assert exp.method.sigma_data == 1.0
    assert (exp.method.sigma_min, exp.method.sigma_max) == pytest.approx((0.05, 100.0))


def test_what_depends_on_the_data_is_derived_and_told(folder):
    exp = build(folder, generator__learning_rate="auto")
    assert exp.init_sigma == 5.0  # SiD's 2.5, at twice EDM's standard deviation
    told = " ".join(exp.remarks)
    assert "init_sigma is 5" in told
    # An eps network's output is multiplied by sigma.
    assert "generator.learning_rate is 2e-06: 1e-05 / 5" in told
    assert "fake_score" not in told  # whose rate is stated
    own = bases.distillation("sid")
    own.teacher = "digits"
    assert building.build(own).remarks == ()
    assert building.build(own).init_sigma == 2.5


def test_noise_levels_scale_with_the_data(folder):
    exp = build(folder)
    own = bases.distillation("sid")
    own.teacher = "digits"
    for law in ("lognormal", "generator_sigma"):
        draws = [
            getattr(dataclasses.replace(each.method, sigma_min=0.0, sigma_max=1e9), law)()(
                jax.random.key(0), (1000,)
            )
            for each in (building.build(own), exp)
        ]
        np.testing.assert_allclose(2 * draws[0], draws[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("my_teacher:point", "my_teacher.py has no point; did you mean points"),
        ("my_teachers:points", "there is no module my_teachers beside the config file or on Pyth"),
        ("my_teacher.py:points", "a module has no .py: my_teacher:points$"),
        ("my_teacher:nothing", "my_teacher:nothing returned NoneType; it must return denoise, par"),
        ("my_teacher:fails", "config.teacher='my_teacher:fails' fails with OSError: the weights a"),
        ("my_teacher:number", "number of my_teacher.py is int; a function is needed"),
        ("my_teacher:unmapped", r"denoise failed for y \[4, 2\].*from_equinox\(batched=False\)"),
        ("my_teacher:halved", "denoise returned bfloat16; cast to float32 in your function"),
        ("my_teacher:small", "fails with TypeError"),
        ("random:random", "Random|returned float"),
    ],
)
def test_a_function_that_is_no_teacher_is_refused_in_one_line(folder, teacher, message):
    with pytest.raises(RefusedError, match=message) as caught:
        build(folder, teacher=teacher)
    assert "\n" not in str(caught.value)


def test_a_file_that_has_the_name_of_pythons(folder):
    (Path(folder) / "colorsys.py").write_text("def teacher(): pass\n")
    import colorsys  # noqa: F401

    with pytest.raises(RefusedError, match=r"colorsys\.py isn't that module.* another name"):
        build(folder, teacher="colorsys:teacher")


def test_the_short_check_is_for_users_teachers(folder):
    exp = build(folder, teacher="my_teacher:not_finite")
    with pytest.raises(RefusedError, match=r"aren't finite at sigma=0\.05"):
        exp.check_records()
    build(folder).check_records()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"student": "my_teacher:broken"}, "^my_teacher:broken: generate gave numbers that aren't"),
        (
            {"fake_score__network": "my_teacher:broken_fresh"},
            "^my_teacher:broken_fresh: denoise gave numbers that aren't finite",
        ),
    ],
)
def test_numbers_of_a_student_and_of_a_fake_score_are_asked_before_a_run(folder, fields, message):
    exp = build(folder, **fields)
    with pytest.raises(RefusedError, match=message):
        exp.check_records()
    (field,) = fields
    good = {"student": "small", "fake_score__network": "fresh"}[field]
    build(folder, **{field: f"my_teacher:{good}"}).check_records()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "bfloat16"}, "config.dtype='bfloat16': my_teacher:points computes as its own"),
        ({"dropout": 0.1}, "config.dropout=0.1: my_teacher:points computes"),
        ({"augment_probability": 0.1}, "takes 0 augmentation labels"),
        ({"student": "my_teacher:wide"}, r"student 'my_teacher:wide' generates \(3,\) and teacher"),
        ({"student": "my_teacher:points"}, "fails with TypeError"),
        (
            {"student": "small"},
            "config.student='small': a function is needed, as \"module:function",
        ),
        ({"student": "network"}, r"needs the fields network\.\*: bases\.with_network"),
        ({"fake_score__network": "my_teacher:of_classes"}, "my_teacher:of_classes: denoise failed"),
        ({"fake_score__network": "x"}, "config.fake_score.network='x': a function is needed"),
        ({"generator__learning_rate": "fast"}, "learning_rate='fast': a positive number.*\"auto\""),
    ],
)
def test_what_does_not_fit_a_users_teacher(folder, fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(folder, **fields)
    assert "\n" not in str(caught.value)


FORMULA = {"teacher": "my_teacher:of_formula"}
FRESH = {"fake_score__network": "my_teacher:fresh"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (FORMULA, "the fake_score would learn nothing: .*another network in config.fake_score.net"),
        (FORMULA | FRESH, "the generator would learn nothing: .*another network in config.student"),
        ({"student": "my_teacher:still"}, "^my_teacher:still: nothing of its params is trained"),
        ({"fake_score__network": "my_teacher:of_formula"}, "the fake_score would learn nothing"),
    ],
)
def test_a_learner_without_anything_to_train_is_refused(folder, fields, message):
    exp = build(folder, **fields)
    with pytest.raises(RefusedError, match=message) as caught:
        exp.check_records()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, []),
        ({"student": "my_teacher:small"}, []),
        ({"teacher": "my_teacher:deaf"}, ["fake_score", "generator"]),
        ({"teacher": "my_teacher:deaf", "student": "my_teacher:small"} | FRESH, []),
        ({"student": "my_teacher:deaf_student"}, ["generator"]),
    ],
)
def test_a_learner_that_computes_without_its_parameters_is_told(folder, fields, told, caplog):
    build(folder, **fields).check_records()
    assert sorted(re.findall(r"so that the (\w+) stays as it is", caplog.text)) == told


def test_a_formula_teaches_networks_of_other_arrays(folder):
    build(folder, **FORMULA, **FRESH, student="my_teacher:small").check_records()


def test_another_student(folder):
    exp = build(folder, student="my_teacher:small")
    start = exp.load_initial()
    assert start["generator"].keys() == {"w"}
    state = exp.init_state(exp.load_inputs(), start)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), exp.abstract_state())
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == shapes
    draws = exp.method.draw(jax.random.key(0))
    assert draws["generator"].z["u"].shape == (1, 1, 128, 5)
    assert draws["generator"].noise.shape == (1, 1, 128, 2)


@pytest.mark.parametrize("name", ["fresh", "like"])  # without the teacher, and of it
def test_another_fake_score(folder, name):
    exp = build(folder, fake_score__network=f"my_teacher:{name}")
    start = exp.load_initial()
    assert set(start) == {"fake_score"}
    own = exp.load_inputs()["teacher"]
    assert not np.array_equal(start["fake_score"]["layers"]["0"], own["layers"]["0"])
    state = exp.init_state({"teacher": own}, start)
    np.testing.assert_array_equal(state.params["generator"]["layers"]["0"], own["layers"]["0"])


def test_one_of_our_own_networks_as_student():
    made = bases.distillation("sid")
    made.teacher = "digits"
    bases.with_network(made, model_channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=())
    exp = building.build(made)
    state = exp.init_state(exp.load_inputs(), exp.load_initial())
    count = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in state.params.items()
    }
    assert count["generator"] < count["fake_score"] / 5
    assert exp.init_kwargs["model_channels"] == 8
    assert exp.sampled.label_dim == exp.denoiser.label_dim == 10
    with pytest.raises(ValueError, match=r"network\.chanels is no field; there are: class_name"):
        bases.with_network(bases.distillation("sid"), chanels=3)


def save(folder, exp, kind=DENOISER, init_sigma=None, scale=2.0):
    params = jax.tree.map(lambda leaf: scale * leaf, exp.sampled.init(None))
    directory = Path(folder) / "saved"
    card = ModelCard(kind, init_sigma=init_sigma)
    record_folder.save(directory, exp.origin, exp.sampled.arrays, params, card)
    return directory, params


def test_a_users_network_is_kept_and_opened(folder):
    exp = build(folder)
    directory, params = save(folder, exp)
    network = networks.teacher(str(directory))
    jax.tree.map(np.testing.assert_array_equal, network.load(), params)
    np.testing.assert_array_equal(ask(network.model, network.load()), ask(exp.denoiser, params))
    assert building.build(config(folder, teacher=str(directory))).denoiser.shape == (2,)


def test_a_users_student_is_kept_and_opened(folder):
    exp = build(folder, student="my_teacher:small")
    directory, params = save(folder, exp, STUDENT, 5.0)
    network = networks.trained(str(directory), field="source")
    jax.tree.map(np.testing.assert_array_equal, network.load(), params)
    z = {"u": jnp.ones((4, 5))}
    np.testing.assert_array_equal(network.model(network.load(), z), exp.sampled(params, z))
    with pytest.raises(ValueError, match=r"is a student .*name a denoiser"):
        networks.teacher(str(directory))


def test_a_function_that_has_changed_since(folder, caplog):
    exp = build(folder)
    directory, _ = save(folder, exp)
    file = Path(folder) / "my_teacher.py"
    file.write_text(file.read_text() + "\n# changed\n")
    sys.modules.pop("my_teacher")
    networks.teacher(str(directory))
    assert "my_teacher.py has changed since" in caplog.text
    file.write_text(file.read_text().replace("(8, 2)", "(9, 2)").replace("inputs, 8", "inputs, 9"))
    sys.modules.pop("my_teacher")
    message = r"isn't what my_teacher:points makes now: .*layers/0 has shape \(6, 8\) instead of"
    with pytest.raises(ValueError, match=message):
        networks.teacher(str(directory))
