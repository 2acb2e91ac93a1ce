"""Bases have every field of a method, known from the method alone."""

import dataclasses
from typing import ClassVar

import pytest
from ml_collections import ConfigDict

from diffjax import methods
from diffjax.methods import Learner, Method, base
from diffjax.methods.settings import POSITIVE, setting
from diffjax.runs import bases, checks, show

EMPTY = ("teacher", "dataset", "data", "evaluate.reference")


@pytest.fixture
def toy(monkeypatch):
    """A method of its own kind: three learners, one of them fresh, a teacher and data."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Toy(Method):
        strength: float = setting(0.5, POSITIVE)
        gain: float = setting(2.0, POSITIVE, field="critic.gain")
        pull: float = setting(3.0, POSITIVE, field="other.pull")

        learners: ClassVar = (
            Learner("critic", starts_as="fresh"),
            Learner("guide", optimizer="guidance"),
            Learner("student", averaged=True),
        )
        reads: ClassVar = ("teacher", "data")
        samples_from: ClassVar = "student"
        sampled_by: ClassVar = "one_step"

    monkeypatch.setitem(base._registry, "toy", Toy)
    return Toy


def filled(config: ConfigDict) -> ConfigDict:
    """A config with something in what the base leaves empty."""
    for field in EMPTY:
        if field in bases.flat(config.to_dict()):
            config.update_from_flattened_dict({field: "something"})
    return config


@pytest.mark.parametrize("method", methods.names())
def test_every_field_has_a_rule_that_its_default_keeps(method):
    config = bases.denoising() if method == "denoising" else bases.distillation(method)
    assert bases.flat(config.to_dict()) == bases.fields(method)
    rules = checks.rules(config)
    assert set(bases.fields(method)) == {*rules, "method"}
    for field, rule in rules.items():
        assert rule.holds(checks.get(config, field)) == (field not in EMPTY[:3]), field
    checks.check(filled(config))


@pytest.mark.parametrize("method", ["sid", "diff_instruct"])
def test_a_distillation_needs_its_teacher(method):
    with pytest.raises(ValueError, match=r"^config\.teacher='': one is needed, such as "):
        checks.check(bases.distillation(method))


@pytest.mark.parametrize(
    ("method", "base"), [("dmd2", r"distillation\('dmd2'\)"), ("denoising", r"denoising\(\)")]
)
def test_another_method_needs_its_base(method, base):
    config = bases.distillation("sid")
    config.teacher, config.method = "digits", method
    with pytest.raises(ValueError, match=rf"is missing; method='{method}' has it .* bases\.{base}"):
        checks.check(config)


def test_a_teacher_needs_its_data():
    with pytest.raises(ValueError, match=r"^config\.dataset='': one is needed: digits, a folder"):
        checks.check(bases.denoising())


@pytest.mark.parametrize("method", methods.names())
def test_the_settings_of_a_method_have_its_defaults(method):
    for each in methods.get(method).settings():
        assert bases.fields(method)[each.field] == each.default


def test_published_loss_scales_differ():
    assert bases.distillation("sid").generator.loss_scale == 100
    assert bases.distillation("diff_instruct").generator.loss_scale == 1
    assert "alpha" not in bases.distillation("diff_instruct")


def test_bases_are_of_their_own():
    bases.distillation("sid").generator.learning_rate = 1.0
    bases.fields("sid")["alpha"] = 7.0
    assert bases.distillation("sid").generator.learning_rate == 1e-5
    assert bases.distillation("sid").alpha == 1.2


def test_a_misspelt_field_is_an_error():
    config = bases.distillation("sid")
    with pytest.raises(AttributeError, match='Did you mean "alpha"'):
        config.alhpa = 1.0
    with pytest.raises(AttributeError, match='Did you mean "learning_rate"'):
        config.generator.learning_rat = 1.0
    with pytest.raises(KeyError, match='Did you mean "rows"'):
        config.grid.update(row=3)


def test_methods_that_there_are_not():
    with pytest.raises(ValueError, match="method='sdi' is unknown; known are: denoising, diff_"):
        bases.distillation("sdi")
    with pytest.raises(ValueError, match=r"method='denoising' reads no teacher: bases\.denoising"):
        bases.distillation("denoising")


def test_a_new_method_needs_nothing_here(toy):
    config = bases.distillation("toy")
    assert config.method == "toy"
    assert (config.strength, config.critic.gain, config.other.pull) == (0.5, 2.0, 3.0)
    assert (config.critic.learning_rate, config.critic.rampup_kimg) == (1e-3, 10_000)
    assert (config.guidance.learning_rate, "initial" in config.guidance) == (1e-5, False)
    assert (config.student.initial, config.student.frozen_kimg) == ("", 0)
    assert (config.dataset, config.teacher) == ("", "")
    assert "network" not in config
    assert set(bases.fields("toy")) == {*checks.rules(config), "method"}
    checks.check(filled(config))
    assert show.fields(config, ["critic"])["critic.gain"].origin == "command line"
    config.critic.gain = 0.0
    with pytest.raises(ValueError, match=r"config\.critic\.gain=0\.0: a positive number"):
        checks.check(config)
    config.critic.gain = 2.0
    config.student.decay_kimg = 1e9
    with pytest.raises(ValueError, match=r"student\.decay_kimg=.* must fit into duration_kimg="):
        checks.check(config)


def test_groups_are_flattened():
    assert bases.flat({"a": 1, "b": {"c": (2,), "d": {"e": None}}}) == {
        "a": 1,
        "b.c": (2,),
        "b.d.e": None,
    }
