"""Settings that could do nothing beside the others: refused, told, or let pass."""

import re

import pytest

from diffjax.runs import bases, building, checks, idle, saved_config
from diffjax.runs.check import check
from diffjax.runs.evaluate import evaluate
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from tests.runs.test_steps_and_guidance import set_fields
from tests.runs.test_train import load_config

ZEROS = {"guidance.null": "zeros"}
KL = {"divergence": "reverse_kl"}
GUIDED = {"guidance.teacher": 2.0, **ZEROS}


def config(method, **changes):
    """A distillation of the digits' teacher, or training one of its kind."""
    if method == "denoising":
        made = load_config("teacher_digits")
    else:
        made = bases.distillation(method)
        made.teacher = "digits"
        if "data" in made:
            made.data = "digits"
    return set_fields(made, changes)


def checked(made, workdir):
    idle.check(made, building.build(made), workdir)


IDLE = [
    ("sid", ZEROS, "nothing is guided by leaving the condition out; set a scale of guidance"),
    (
        "sid",
        {**ZEROS, "guidance.teacher": 2.0, "guidance.negative": "digits"},
        "nothing is guided by leaving the condition out",
    ),
    (
        "sid",
        {"heun.s_churn": 40.0, "heun.s_min": 100.0},
        "none of the sampler's noise levels lies from heun.s_min=100 to s_max=inf; widen that",
    ),
    ("uni_instruct", {"through_ratio": True, "divergence": "none"}, "has no density ratio"),
    ("uni_instruct", {"max_logit": 2.0, "divergence": "none"}, "has no density ratio"),
    (
        "uni_instruct",
        {"reduce_variance": True, "ratio": "released", "divergence": "none"},
        "has no density ratio",
    ),
    ("uni_instruct", {"max_logit": 2.0, "ratio": "released"}, "isn't bounded"),
    ("uni_instruct", {"max_logit": 2.0, "divergence": "reverse_kl"}, "weighs every ratio by 1"),
    ("f_distill", {"ratio_max": 5.0, "divergence": "reverse_kl"}, "takes no density ratio"),
    ("f_distill", {"ratio_decay": 0.9, "normalize_ratio": False}, "takes no means"),
    ("uni_instruct", {"divergence": "none", "generator.gan_scale": 0.0}, "leaves no other loss"),
    ("smd", {"generator.gan_scale": 1.0, "joint_training": False}, "keeps the adversarial term"),
    ("f_distill", {"head_levels": 2, "generator.gan_scale": 0.0, **KL}, "ask no discriminator"),
    ("sim", {"c": 0.1, "distance": "squared"}, "has no constant"),
    ("sds", {"dropout": 0.1}, "has it off in teacher and generator"),
    ("sds", {"generator.frozen_kimg": 1.0}, "trains no other network in the meantime"),
]


@pytest.mark.parametrize(("method", "changes", "why"), IDLE)
def test_what_can_do_nothing_is_refused(method, changes, why, tmp_path):
    wanted = rf"^config\.{re.escape(next(iter(changes)))}=.* does nothing, since .*{re.escape(why)}"
    with pytest.raises(ValueError, match=wanted) as caught:
        checked(config(method, **changes), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["dmd2", "f_distill"])
def test_augmentation_that_a_method_does_not_apply_is_refused(method, tmp_path):
    made = config(method)
    exp = building.build(made)  # of a teacher without augmentation's labels
    made.augment_probability = 0.1
    with pytest.raises(ValueError, match=r"augment_probability=0\.1 does nothing, since .* as the"):
        idle.check(made, exp, tmp_path)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("sid", GUIDED),
        ("sid", {"fake_score.label_dropout": 0.1, **ZEROS}),
        ("sid", {"heun.s_churn": 40.0, "heun.s_min": 0.05, "heun.s_max": 50.0}),
        # Turned off, as a published config has it.
        ("f_distill", {"ratio_decay": 0.0, "divergence": "reverse_kl"}),
        ("f_distill", {"normalize_ratio": False}),
        ("uni_instruct", {"divergence": "none"}),
        ("uni_instruct", {"through_ratio": True, "divergence": "reverse_kl"}),
    ],
)
def test_what_acts_or_is_off_passes(method, changes, tmp_path):
    checked(config(method, **changes), tmp_path)


@pytest.mark.parametrize("method", ["sid", "diff_instruct", "sds", "f_distill"])
def test_an_interval_must_meet_the_levels_at_which_the_teacher_is_asked(method, tmp_path):
    for interval in ((0.3, 5.0), (60.0, 100.0)):
        checked(config(method, **GUIDED, **{"guidance.interval": interval}), tmp_path)
    for interval, shown in (((100.0, 200.0), "100.0, 200.0"), ((0.0, 1e-6), "0.0, 1e-06")):
        wanted = (
            rf"interval=\({shown}\) does nothing, since the teacher is asked from .* to 80; name"
        )
        with pytest.raises(ValueError, match=wanted):
            checked(config(method, **GUIDED, **{"guidance.interval": interval}), tmp_path)


def test_a_transformers_label_dropout_needs_classes_and_a_training_of_its_own(tmp_path):
    small = {"hidden_size": 16, "depth": 1, "num_heads": 2}
    made = bases.with_transformer(config("sid"), **small)
    checked(made, tmp_path)  # the base's
    made.network.label_dropout = 0.2
    wanted = r"network\.label_dropout=0\.2 does nothing, .* fake_score\.label_dropout is for that"
    with pytest.raises(ValueError, match=wanted):
        checked(made, tmp_path)
    made = bases.with_transformer(config("denoising"), **small, label_dropout=0.2)
    checked(made, tmp_path)
    assert building.build(made).sampled.network.label_dropout == 0.2
    made.conditional = False
    with pytest.raises(ValueError, match=r"label_dropout=0\.2 .* the network has no classes"):
        checked(made, tmp_path)


def test_noise_levels_of_edm2_are_not_those_of_a_transformer(tmp_path):
    made = bases.with_edm2(config("denoising"), uncertainty_weighting=False, p_mean=-0.8)
    checked(made, tmp_path)
    made = bases.with_transformer(made, hidden_size=16, depth=1, num_heads=2)
    with pytest.raises(ValueError, match=r"config\.edm2\.p_mean=-0\.8 .* times of their own"):
        checked(made, tmp_path)


def test_a_run_goes_on_as_it_was_begun(tmp_path):
    made = config("sid", **ZEROS)
    saved_config.save(tmp_path, made)
    checked(made, tmp_path)
    made = config("uni_instruct", through_ratio=True, max_logit=2.0, divergence="none")
    with pytest.raises(ValueError, match="through_ratio=True does nothing"):
        checked(made, tmp_path)
    saved_config.save(tmp_path, made)
    checked(made, tmp_path)
    made.max_logit = 3.0
    with pytest.raises(ValueError, match=r"max_logit=3\.0 does nothing"):
        checked(made, tmp_path)


def test_a_run_from_before_there_was_the_field_has_it_off_without_a_ratio():
    made = config("uni_instruct", divergence="none")
    with made.unlocked():
        del made["through_ratio"]
    assert checks.upgraded(made).through_ratio is False


@pytest.mark.parametrize("mode", [train, check, sample, evaluate])
def test_every_mode_asks_before_it_writes(mode, tmp_path):
    made = set_fields(load_config("sid_digits"), ZEROS)
    with pytest.raises(ValueError, match=r"config\.guidance\.null='zeros' does nothing"):
        mode(made, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_comes_too_late_is_told(tmp_path, caplog):
    made = config("sida", duration_kimg=150.0)
    checked(made, tmp_path)
    assert "config.gan_from_kimg=200 isn't reached by duration_kimg=150" in caplog.text
    caplog.clear()
    checked(config("sida", duration_kimg=300.0), tmp_path)
    assert not caplog.text


def test_an_untrained_judge_is_told(tmp_path, caplog):
    off = {"fake_score.gan_scale": 0.0, "generator.gan_scale": 0.0}
    checked(config("f_distill", **off, **KL), tmp_path)
    assert not caplog.text
    for method, changes in (("f_distill", off), ("dmd2", {"fake_score.gan_scale": 0.0})):
        checked(config(method, **changes), tmp_path)
        assert f"{method} heeds an untrained" in caplog.text


def test_leftovers_are_told(tmp_path, caplog):
    made = set_fields(bases.with_network(config("sid")), {"student": "", "evaluate.best": "kid"})
    checked(made, tmp_path)
    building.check_reporting(made, building.build(made))
    checked(config("sid"), tmp_path)
    assert "of another method" not in caplog.text
    checked(set_fields(config("sid"), {"method": "diff_instruct"}), tmp_path)
    for told in (
        "alpha isn't of method='diff_instruct'",
        "network.* do nothing",
        "best='kid' keeps none",
    ):
        assert told in caplog.text


def test_attention_at_no_resolution_is_told(tmp_path, caplog):
    made = config("denoising", **{"network.attn_resolutions": (16,)})
    checked(made, tmp_path)
    assert "attn_resolutions=(16,): the network has the resolutions 8, 4, and so" in caplog.text
    caplog.clear()
    for resolutions in ((4,), ()):
        made.network.attn_resolutions = resolutions
        checked(made, tmp_path)
    assert not caplog.text


def test_a_format_without_samples_is_told(tmp_path, caplog):
    made = set_fields(load_config("sid_digits"), {"sample.format": "npz"})
    with pytest.raises(FileNotFoundError):
        sample(made, str(tmp_path / "run"))
    assert "config.sample.format='npz' is of samples, and config.sample.count=0" in caplog.text


def test_an_init_sigma_that_is_clipped_is_told(monkeypatch):
    made = config("sid", init_sigma=90.0)
    exp = building.build(made)
    assert not exp.remarks
    monkeypatch.setattr(type(exp.denoiser), "sigma_max", property(lambda self: 80.0))
    exp = building.build(made)
    assert exp.init_sigma == 80
    assert exp.remarks[0].startswith("init_sigma is 80 instead of 90: the network knows 0 to 80")
