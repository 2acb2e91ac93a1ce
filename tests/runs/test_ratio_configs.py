"""Published settings of configs whose methods take a density ratio from a discriminator."""

import runpy
from pathlib import Path

import pytest

from diffjax.runs import bases, building, checks

CONFIGS = Path(__file__).parents[2] / "configs"


def load(name):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()


@pytest.mark.parametrize(
    ("name", "divergence", "rate", "batch", "gan", "r1", "decay", "levels", "iterations"),
    [
        ("f_distill_cifar_cond", "forward_kl", 1e-4, 2048, 1e-3, 1, 0, 0, 60_000),
        ("f_distill_imagenet64", "jensen_shannon", 2e-6, 512, 3e-3, 0, 0.5, 1, 380_000),
    ],
)
def test_f_distill(name, divergence, rate, batch, gan, r1, decay, levels, iterations):
    config = load(name)
    generator, fake_score = config.generator, config.fake_score
    assert (config.divergence, config.batch_size, config.init_sigma) == (divergence, batch, 80)
    assert generator.learning_rate == fake_score.learning_rate == rate
    assert generator.weight_decay == fake_score.weight_decay == 0.01
    assert (generator.max_grad_norm, fake_score.max_grad_norm) == (10, 0)
    assert (generator.gan_scale, fake_score.gan_scale, fake_score.r1_scale) == (gan, 1, r1)
    assert (config.ratio_decay, config.head_levels, fake_score.updates) == (decay, levels, 4)
    assert (config.ratio_min, config.ratio_max, config.normalize_ratio) == (0.1, 20, True)
    assert (config.share_samples, config.same_noise) == (False, False)
    assert config.duration_kimg * 1000 == iterations / 5 * batch


@pytest.mark.parametrize(
    ("name", "rate", "width", "iterations"),
    [("smd_cifar", 5e-5, 256, 150_000), ("smd_imagenet64", 2e-6, 768, 200_000)],
)
def test_smd(name, rate, width, iterations):
    config = load(name)
    assert (config.batch_size, config.init_sigma, config.head_channels) == (280, 80, width)
    assert (config.joint_training, config.share_samples) == (True, True)
    assert (config.generator.gan_scale, config.fake_score.updates) == (3e-3, 5)
    for learner in (config.generator, config.fake_score):
        assert (learner.learning_rate, learner.b1, learner.b2) == (rate, 0.9, 0.999)
        assert (learner.weight_decay, learner.max_grad_norm) == (0.01, 10)
    assert config.duration_kimg * 1000 == iterations / 5 * config.batch_size


@pytest.mark.parametrize("suffix", ["", "_cond"])
def test_uni_instruct_is_sidas_but_for_the_divergence(suffix):
    ours, sida = (load(f"{method}_cifar{suffix}").to_dict() for method in ("uni_instruct", "sida"))
    own = {name: ours.pop(name) for name in sorted(ours.keys() - sida.keys())}
    assert own == {
        "divergence": "forward_kl",
        "max_logit": 10.0,
        "ratio": "logit",
        "reduce_variance": False,
        "through_ratio": False,
    }
    assert sida.pop("alpha") == 1.0
    assert ours | {"method": "sida"} == sida


MISTAKES = [
    (
        "uni_instruct",
        {"divergence": "kl"},
        "config.divergence='kl' is unknown; .*neyman",
    ),
    (
        "uni_instruct",
        {"divergence": "neyman", "ratio": "released"},
        "divergence='neyman': the released code runs forward_kl, jeffreys and none",
    ),
    ("uni_instruct", {"reduce_variance": True}, "reduce_variance=True is an option of"),
    (
        "uni_instruct",
        {"through_ratio": True, "ratio": "released"},
        "through_ratio=True is an option of ratio='logit'; set it to False",
    ),
    ("f_distill", {"ratio_min": 30.0}, "ratio_min=30.0 must be under ratio_max=20.0"),
    ("f_distill", {"ratio_decay": 1.0}, "ratio_decay=1.0 never"),
    ("f_distill", {"divergence": "none"}, "config.divergence='none' is unknown"),
    ("f_distill", {"head_levels": 9}, "head_levels=9 is more than the 2 levels of the encoder"),
    ("smd", {"head_channels": 200}, "head_channels=200: 0 is needed"),
    ("smd", {"joint_training": 1}, "config.joint_training=1: True or False"),
]


@pytest.mark.parametrize(("method", "changes", "message"), MISTAKES)
def test_mistakes_are_told_in_one_line(method, changes, message):
    config = bases.distillation(method)
    config.update(teacher="digits", data="digits")
    with config.ignore_type():
        config.update(changes)
    with pytest.raises(ValueError, match=message) as error:
        building.build(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("ratio", "through"), [("logit", True), ("released", False)])
def test_runs_begun_before_the_ratio_could_be_stopped_are_taken_for_what_they_were(ratio, through):
    config = bases.distillation("uni_instruct")
    config.ratio = ratio
    with config.unlocked():
        del config["through_ratio"]
    assert checks.upgraded(config).through_ratio is through
