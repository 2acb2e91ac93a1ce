"""What is wrong with a student is one line, before a run computes anything long."""

import dataclasses

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models
from diffjax.models import contract

ONE_HOT = models.one_hot(4)


def teacher(cond=None):
    return models.Teacher(lambda p, y, s, c: y, {}, (2,), 1.0, 0.05, 50.0, cond=cond)


def student(generate=lambda p, z, c: z @ p["w"], latent=None, **params):
    return models.Generator(generate, {"w": jnp.ones((5, 2))} | params, latent or models.normal(5))


def of_three(params, z, cond):
    return z @ params["w"] + cond @ jnp.ones((3, 2))


def branching(params, z, cond):
    return z @ params["w"] if z[0, 0] > 0 else -z @ params["w"]


def whole(path):
    return lambda p, z, c: (z @ p["w"]).astype(path)


REFUSED = [
    (student(lambda p, z, c: z), None, r"'s' generates \(5,\) and teacher 't' denoises \(2,\)"),
    (student(lambda p, z, c: jnp.sum(z @ p["w"], 0)), None, r"generates \(\) and teacher"),
    (student(lambda p, z, c: (z @ p["w"])[:2]), None, r"returned \[2, 2\] for 4 latents"),
    (student(lambda p, z, c: (z @ p["w"], {})), None, "returned tuple; .* mutable=, the first"),
    (student(whole("bfloat16")), None, "returned bfloat16; cast to float32"),
    (student(whole("float16")), None, "returned float16; cast to float32"),
    (student(whole("int32")), None, "returned int32; cast to float32"),
    (
        student(latent=lambda key, n: models.normal(5)(key, 3)),
        None,
        r"latent\(key, 4\) has shape \[3, 5\]; its first axis must be the batch, 4",
    ),
    (
        student(lambda p, z, c: z["u"] @ p["w"], latent=lambda key, n: {"v": jnp.ones((n, 5))}),
        None,
        r"failed for latents v float32 \[4, 5\] and the condition none of teacher 't' \(KeyError",
    ),
    (student(of_three), ONE_HOT, r"and the condition float32 \[4, 4\] of teacher 't' \("),
    (student(of_three), None, "if it wants a condition, it needs a teacher that has one"),
    (
        student(lambda p, z, c: z @ p["w"] + (0 if c is None else c.shape.no)),
        ONE_HOT,
        "it works without a condition",
    ),
    (
        student(lambda p, z, c: z @ p["w"] + c["class"][:, None]),
        models.uniform({"kind": 4, "snr": (0.0, 1.0)}),
        r"the condition kind int32 \[4\], snr float32 \[4\] of teacher 't' \(KeyError",
    ),
    (student(branching), None, "a pure function of jax.numpy, without NumPy or branches"),
    (student(lambda p, z, c: np.asarray(z)), None, "a pure function of jax.numpy"),
]


@pytest.mark.parametrize(("generator", "cond", "message"), REFUSED)
def test_a_student_that_does_not_fit(generator, cond, message):
    with pytest.raises(ValueError, match=message) as told:
        contract.check_generator(generator, teacher(cond), "s", "t")
    assert "\n" not in str(told.value)


def test_an_unmapped_network_is_told():
    model = eqx.nn.Linear(5, 2, key=jax.random.key(0))
    generator = models.Generator(lambda m, z, c: m(z), model, models.normal(5))
    with pytest.raises(ValueError, match=r"failed for latents float32 \[4, 5\]"):
        contract.check_generator(generator, teacher(), "s", "t")


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        (student(w=jnp.full((5, 2), jnp.nan)), r"aren't finite \(100% of them\); look for NaN in"),
        (student(lambda p, z, c: jnp.log(z @ p["w"])), "aren't finite .*division by 0"),
        (
            student(lambda p, z, c: z["u"], latent=lambda k, n: {"u": jnp.full((n, 2), jnp.inf)}),
            "latent u drew numbers that aren't finite",
        ),
    ],
)
def test_numbers_that_are_not_finite(generator, message):
    with pytest.raises(ValueError, match=message) as told:
        contract.short_generator(generator, None, "s")
    assert "\n" not in str(told.value)


class Normed(nn.Module):
    running: bool

    @nn.compact
    def __call__(self, z):
        return nn.BatchNorm(use_running_average=self.running)(nn.Dense(2)(z))


@pytest.mark.parametrize("running", [True, False])
def test_statistics_of_the_batch_are_told(running, caplog):
    variables = Normed(True).init(jax.random.key(0), jnp.zeros((1, 5)))
    model = Normed(running)

    def generate(variables, z, cond):
        return model.apply(variables, z, mutable=["batch_stats"])[0]

    generator = models.Generator(generate, variables, models.normal(5))
    contract.short_generator(generator, None, f"normed:{running}")
    assert ("depends on the others of its batch" in caplog.text) == (not running)


def test_a_condition_that_changes_nothing_is_told_unless_it_is_always_the_same(caplog):
    generator = student()
    contract.short_generator(generator, models.from_array(np.ones((1, 4), np.float32)), "alone")
    assert not caplog.records
    contract.short_generator(generator, ONE_HOT, "deaf")
    assert "deaf: the condition (float32 [4, 4]) changes nothing" in caplog.text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"latent": lambda key, n: models.normal(5)(jax.random.key(0), n)}, "same for two keys"),
        ({"generate": lambda p, z, c: 0 * z[:, :2]}, "latents (float32 [4, 5]) change nothing"),
    ],
)
def test_latents_that_change_nothing_are_told(changes, told, caplog):
    contract.short_generator(student(**changes), None, "deaf")
    assert told in caplog.text
    assert bool(told) == bool(caplog.records)


def test_indices_may_be_of_one_point(caplog):
    of = dataclasses.replace(teacher(), params={"w": jnp.ones(1)})
    contract.short_generator(models.points(of, count=1), None, "one")
    assert not caplog.records


def test_a_fake_score_whose_weights_are_not_finite():
    record = dataclasses.replace(
        teacher(), denoise=lambda p, y, s, c: y * p["w"], params={"w": jnp.float32(jnp.nan)}
    )
    with pytest.raises(contract.NotFiniteError, match="f: denoise gave numbers that aren't finite"):
        contract.check_finite(record, "f")
