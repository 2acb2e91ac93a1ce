"""Runs of students of several steps and of guided teachers: in miniature, and what is refused."""

import dataclasses
import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from diffjax import methods
from diffjax.distributed import sharding
from diffjax.export import __main__ as export
from diffjax.methods.draws import Batch
from diffjax.methods.score_distillation import asked_in
from diffjax.models import guidance, network_folder
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.models.few_steps import StepGenerator
from diffjax.models.generator import DenoiserGenerator
from diffjax.models.guidance import Guided
from diffjax.runs import bases, building, checks, networks, subjects
from diffjax.runs.train import train
from diffjax.training import draws as drawing
from tests.runs.test_train import BATCH, miniature
from tests.support import golden_cases

GUIDED = {
    "guidance.teacher": 1.5,
    "guidance.fake_training": 1.25,
    "guidance.fake_loss": 2.0,
    "fake_score.label_dropout": 0.5,
}
MODULE = "tests.support.my_teacher"


def set_fields(config, changes):
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    return config


KWARGS = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 10,
    "model_channels": 8,
    "channel_mult": (1,),
    "num_blocks": 0,
    "attn_resolutions": (),
    "dropout": 0.0,
}
TEACHERS = {
    "plain": {},
    "null": {"label_dropout": 0.1},  # has learnt to do without a class
    "unconditional": {"label_dim": 0},
    "large": {"img_resolution": 16},
    "five": {"label_dim": 5},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of the teachers by name."""
    folder = tmp_path_factory.mktemp("teachers")
    for name, changes in TEACHERS.items():
        weights = golden_cases.weights(from_edm_kwargs(KWARGS | changes), prefix=name)
        network_folder.save_denoiser(folder / name, KWARGS | changes, weights)
    return {name: str(folder / name) for name in TEACHERS}


def distillation(method, folders, teacher="null", **changes):
    """A small config, `a__b` standing for a.b."""
    config = bases.distillation(method)
    config.teacher = folders[teacher]
    config.batch_size = 4
    config.mesh.data = 1
    if "data" in config:
        config.data = "digits"
    dotted = {field.replace("__", "."): value for field, value in changes.items()}
    return set_fields(config, dotted)


def traced(exp):
    """Draws of an update, and of each turn the names of its figures, traced alone."""
    mesh = sharding.make_mesh(data=1)

    def turns(state, inputs, key):
        read, images = dict(inputs), jnp.uint32(0)
        draws = drawing.draw(exp.method, key, read.pop("data", None), mesh, images=images)
        params, found = {**read, **state.params}, {}
        for turn in exp.update.turns:
            each = jax.tree.map(lambda leaf: leaf[0, 0], draws[turn.learner])
            found[turn.learner] = turn.loss(params, turn.samples(params, each), each)
        return draws, found

    return jax.eval_shape(turns, exp.abstract_state(), exp.abstract_inputs(), jax.random.key(0))


STUDENTS = [name for name in methods.names() if name != "denoising"]


@pytest.mark.parametrize("method", STUDENTS)
def test_every_method_teaches_several_steps_and_follows_a_guided_teacher(method, folders):
    asked = {"generator__steps": 3, "guidance__teacher": 2.0}
    exp = building.build(distillation(method, folders, **asked))
    generator, teacher = (exp.method.networks[name] for name in ("generator", "teacher"))
    assert isinstance(generator, StepGenerator)
    np.testing.assert_allclose(generator.sigmas, np.asarray([3, 2, 1]) * exp.init_sigma / 3)
    assert isinstance(teacher, Guided)
    if exp.method.judged_by == "teacher":
        assert exp.method.networks["features"].__self__ is teacher
    draws, found = traced(exp)
    for name, (values, figures) in found.items():
        turn = next(turn for turn in exp.update.turns if turn.learner == name)
        assert (values.shape, tuple(figures)) == ((4,), turn.reports)
        z, times = draws[name].z, draws[name].z["first"].shape[0]
        assert z["later"].shape == (times, 1, 4, 2, 8, 8, 1)
        assert z["step"].shape == (times, 1, 4)
    assert (exp.evaluations, exp.caption) == (3, "student, 3 evaluations")
    card = exp.card(0)
    assert (card.steps, card.sigmas) == (3, generator.sigmas)
    assert "3 steps" in card.title


# DMD2's is slow: `python -m pytest -m slow tests/runs/test_steps_and_guidance.py` passed in 20 s
# on two cores beside other tests, on 2026-11-30.
@pytest.mark.parametrize("method", ["sida", pytest.param("dmd2", marks=pytest.mark.slow)])
def test_later_steps_are_trained_on_data_where_that_is_asked(method, folders):
    asked = {"generator__steps": 2, "generator__noised_data": True}
    exp = building.build(distillation(method, folders, **asked))
    data = exp.inputs["data"].load()
    draws = jax.jit(exp.method.draw)(jax.random.key(0), data)
    fake_score, generator = draws["fake_score"], draws["generator"]
    for each in (fake_score, generator):
        assert each.z["real"].shape == each.noise.shape
        assert np.ptp(each.z["real"]) == 2  # images
    np.testing.assert_array_equal(generator.z["real"][0], fake_score.real[-1])
    np.testing.assert_array_equal(generator.labels[0], fake_score.real_labels[-1])
    if exp.method.share_samples:
        borrowed = exp.update.turns[1].borrowing
        for name in ("first", "later", "step", "real"):
            np.testing.assert_array_equal(fake_score.z[name][borrowed], generator.z[name][0])
        np.testing.assert_array_equal(fake_score.labels[borrowed], generator.labels[0])
        rest = [i for i in range(exp.method.fake_score_updates) if i != borrowed]
    else:
        rest = [0]
    for time in rest:
        np.testing.assert_array_equal(fake_score.z["real"][time], fake_score.real[time])
        np.testing.assert_array_equal(fake_score.labels[time], fake_score.real_labels[time])
    traced(exp)


def test_the_fake_score_is_guided_in_each_turn_by_its_own_scale(folders):
    exp = building.build(distillation("sid", folders, **GUIDED))
    method = exp.method
    asked = {turn: method.networks[asked_in(turn)] for turn in ("fake_score", "generator")}
    assert {turn: each.scale for turn, each in asked.items()} == {
        "fake_score": 1.25,
        "generator": 2.0,
    }
    for turn, guided in asked.items():
        assert method.in_turn_of(turn).networks["fake_score"] is guided
        assert method.in_turn_of(turn).networks["teacher"].scale == 1.5
    turns = {turn.learner: turn.loss.__self__ for turn in exp.update.turns}
    assert {turn: each.networks["fake_score"] for turn, each in turns.items()} == asked
    # Labels are dropped by the draws, of all networks alike, and not by a network for itself.
    assert exp.denoiser.network.label_dropout == 0
    plain = building.build(distillation("sid", folders))
    assert plain.method.in_turn_of("generator") is plain.method
    assert set(plain.method.networks) == {"teacher", "fake_score", "generator"}


def test_labels_are_dropped_in_the_fake_scores_turn_alone():
    cls = methods.get("diff_instruct")  # whose generator takes the fake score's labels
    batch = Batch((2,), 2000, 2, label_dim=3)
    options = {"networks": {}, "batch": batch}
    plain = cls(**options).draw(jax.random.key(0))
    null = np.full(3, 0.25, np.float32)
    dropped = cls(**options, label_dropout=0.1, null=null).draw(jax.random.key(0))
    chex.assert_trees_all_equal(dropped["generator"], plain["generator"])
    before, after = plain["fake_score"].labels, dropped["fake_score"].labels
    is_null = np.all(np.asarray(after) == 0.25, axis=-1)
    assert 0.07 < is_null.mean() < 0.13
    np.testing.assert_array_equal(np.asarray(after)[~is_null], np.asarray(before)[~is_null])
    rest = dataclasses.replace(dropped["fake_score"], labels=before)
    chex.assert_trees_all_equal(rest, plain["fake_score"])


@pytest.fixture(scope="module")
def run(tmp_path_factory, folders):
    """A run of two steps, guided by a weaker network, and its config."""
    workdir = tmp_path_factory.mktemp("run") / "w"
    config = miniature("sid_2step_guided_digits", 2, teacher=folders["null"])
    config.evaluate.every_kimg = 2 * BATCH / 1000
    changes = {**GUIDED, "guidance.negative": folders["plain"], "guidance.null": ""}
    set_fields(config, changes | {"guidance.interval": (0.1, 10.0)})
    train(config, str(workdir))
    return workdir, config


def test_its_network_says_how_it_is_sampled(run, folders):
    workdir, config = run
    inputs = json.loads((workdir / "inputs.json").read_text())["inputs"]
    assert inputs["guidance.negative"]["sha256"]
    card = networks.trained(str(workdir / "network"), field="test").card
    assert (card.kind, card.steps, card.sigmas) == ("student", 2, (2.5, 1.25))
    with pytest.raises(ValueError, match=r"2 steps.*of noise alone and takes no noise off"):
        networks.teacher(str(workdir / "network"))
    exp, mesh = building.build(config), sharding.make_mesh(data=1)
    indices = jnp.arange(4)

    def sampled(source, exp):
        subject = subjects.find(source, workdir, exp, 0, mesh)
        return subject, np.asarray(subject.sampler(subject.params, indices, indices))

    own, expected = sampled("student", exp)
    assert (own.evaluations, own.title.partition(",")[0]) == (2, "student")
    # By a config of one step, which knows nothing of it.
    other = building.build(distillation("sid", folders))
    found, samples = sampled(str(workdir / "network"), other)
    assert found.evaluations == 2
    assert "2 evaluations at init_sigma 2.5" in found.title
    np.testing.assert_allclose(samples, expected, atol=1e-5)
    best, _ = sampled("best", exp)
    assert best.evaluations == 2
    teacher, _ = sampled("teacher", exp)
    assert (teacher.evaluations, teacher.title) == (10, "teacher guided by 1.5, 10 evaluations")
    subjects.check("student", workdir, config, exp)
    changed = set_fields(config.copy_and_resolve_references(), {"generator.steps": 1})
    with pytest.raises(ValueError, match=r"generator\.steps: 2 -> 1"):
        subjects.check("student", workdir, changed, building.build(changed))


def test_its_function_is_exported(run, tmp_path):
    workdir, config = run
    arguments = ["--format=stablehlo", f"--output={tmp_path / 's'}"]
    assert export.main([f"--source={workdir}", *arguments]) == 0
    card = json.loads((tmp_path / "s.json").read_text())
    names = [each["name"] for each in card["function"]["inputs"]]
    assert names == ["z/first", "z/later", "class"]
    assert card["network"]["sigmas"] == [2.5, 1.25]
    function = jax_export.deserialize(bytearray((tmp_path / "s").read_bytes()))
    exp = building.build(config)
    generator = exp.method.networks["generator"]
    z = generator.latent(jax.random.key(2), 3)
    params = networks.trained(str(workdir / "network"), field="test").load()
    labels = jax.nn.one_hot(jnp.arange(3), 10)
    found = function.call(z, jnp.arange(3, dtype=jnp.int32))
    np.testing.assert_allclose(found, generator(params, z, labels=labels), atol=1e-5)


def test_a_config_from_before_there_were_steps_is_taken_for_one(folders):
    config = distillation("sid", folders)
    with config.unlocked():
        del config.guidance, config.fake_score.label_dropout
        for name in ("steps", "step_sigmas", "outputs", "backward"):
            del config.generator[name]
    exp = building.build(checks.upgraded(config))
    assert isinstance(exp.method.networks["generator"], DenoiserGenerator)


def test_levels_are_given_for_data_of_standard_deviation_one_half(folders):
    exp = building.build(
        distillation("sid", folders, generator__steps=2, generator__step_sigmas=(0.4,))
    )
    assert exp.sigmas == (2.5, 0.4)
    exp = building.build(
        set_fields(
            bases.distillation("sid"),
            {"teacher": f"{MODULE}:points", "generator.steps": 2, "generator.step_sigmas": (0.4,)},
        )
    )
    assert exp.sigmas == (5.0, 0.8)  # whose data have 1


REFUSED = [
    ({"generator.step_sigmas": (1.0,)}, r"generator\.step_sigmas=\(1\.0,\) is of a student of sev"),
    ({"generator.steps": 3, "generator.step_sigmas": (1.0,)}, r"steps=3 takes 2 after init_sigma"),
    ({"generator.steps": 2, "generator.step_sigmas": (2.5,)}, "2.5, 2.5 don't; take fewer steps"),
    ({"guidance.interval": (0.1, 1.0)}, "interval=.* does nothing while"),
    ({"guidance.negative": "plain"}, "negative=.* does nothing while"),
    ({"guidance.negative": "large", "guidance.teacher": 2.0}, r"denoises \(16, 16, 1\)"),
    ({"guidance.negative": "five", "guidance.teacher": 2.0}, "takes 5 classes and the teacher 10"),
    ({"guidance.negative": "no/such", "guidance.teacher": 2.0}, "guidance.negative"),
    ({"fake_score.label_dropout": 0.1, "share_samples": True}, "set one of them off"),
    ({"teacher": "plain", "guidance.teacher": 2.0}, r"teacher=2\.0: .* has learnt no condition"),
    ({"teacher": "plain", "guidance.fake_loss": 2.0}, r"fake_loss=2\.0: .*label_dropout is 0\)"),
    ({"teacher": "plain", "fake_score.label_dropout": 0.1}, r"dropout=0\.1: .* set it to 0\.0"),
    (
        {"teacher": "unconditional", "guidance.teacher": 2.0},
        r"unconditional, .* set it to 1\.0, or",
    ),
    ({"teacher": "unconditional", "guidance.fake_training": 2.0}, r"unconditional.* to 1\.0\.$"),
]
OF_THEM = {
    ("sida", "guidance.fake_loss", 2.0): r"fake_loss=2\.0: in 'sida' a discriminator judges",
    ("sida", "fake_score.label_dropout", 0.1): r"label_dropout=0\.1: in 'sida' a discriminator",
    ("sida", "generator.noised_data", True): "noised_data=True is of a student of several steps",
}


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_can_not_be_is_refused_in_one_line(changes, message, folders):
    config = distillation("sid", folders)
    named = {
        name: folders.get(value, value) if isinstance(value, str) else value
        for name, value in changes.items()
    }
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        building.build(set_fields(config, named))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", OF_THEM)
def test_so_is_what_a_method_with_data_can_not_do(asked, folders):
    method, field, value = asked
    config = set_fields(distillation(method, folders), {field: value})
    with pytest.raises(ValueError, match=OF_THEM[asked]):
        building.build(config)


def test_data_is_for_steps_that_are_trained_by_themselves(folders):
    asked = {"generator__steps": 2, "generator__noised_data": True, "generator__outputs": "last"}
    with pytest.raises(ValueError, match="noised_data=True trains each step by itself"):
        building.build(distillation("sida", folders, **asked))


def test_a_student_with_latents_of_its_own_takes_one_step():
    changes = {"teacher": f"{MODULE}:points", "student": f"{MODULE}:small", "generator.steps": 2}
    with pytest.raises(ValueError, match=r"steps=2 asks a denoiser .*my_teacher:small is a gen"):
        building.build(set_fields(bases.distillation("sid"), changes))


def test_zeros_may_stand_for_none_if_a_config_says_so(folders):
    asked = {"guidance__teacher": 2.0, "guidance__null": "zeros"}
    exp = building.build(distillation("sid", folders, "plain", **asked))
    teacher = exp.method.networks["teacher"]
    np.testing.assert_array_equal(teacher.null, np.zeros(10))
    assert (teacher.low, teacher.high) == (0.0, math.inf)
    exp = building.build(
        set_fields(
            bases.distillation("sid"),
            {"teacher": f"{MODULE}:of_classes", "guidance.teacher": 2.0, "guidance.null": "zeros"},
        )
    )
    assert exp.method.networks["teacher"].null.shape == (3,)


def test_the_negative_is_read_beside_the_teacher(folders):
    asked = {"guidance__teacher": 2.0, "guidance__negative": folders["unconditional"]}
    exp = building.build(distillation("sid", folders, "plain", **asked))
    inputs = exp.load_inputs()
    assert set(inputs) == {"teacher", "negative"}
    guided = exp.method.networks["teacher"]
    x, sigma, labels = jnp.ones((2, 8, 8, 1)), jnp.ones(2), jax.nn.one_hot(jnp.arange(2), 10)
    found = guided(guidance.paired(inputs)["teacher"], x, sigma, labels)
    above = guided.denoiser(inputs["teacher"], x, sigma, labels)
    below = guided.negative(inputs["negative"], x, sigma)
    np.testing.assert_allclose(found, 2 * above - below, rtol=1e-4, atol=1e-5)
