"""Numbers that are in range and that a run couldn't hold."""

import re

import pytest

from diffjax.runs import bases, building, checks
from tests.runs.test_steps_and_guidance import set_fields


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 2**31}, "config.batch_size=2147483648: counts are under 2**31; take less"),
        ({"evaluate.count": 10**12}, "config.evaluate.count=1000000000000: counts are"),
        ({"generator.eps": 1e-50}, "config.generator.eps=1e-50: float32 holds 1.2e-38 to 3.4e+38"),
        ({"generator.learning_rate": 1e39}, "config.generator.learning_rate=1e+39: float32 holds"),
        ({"alpha": -1e300}, "config.alpha=-1e+300: float32 holds"),
        (
            {"generator.steps": 2, "generator.step_sigmas": (1e-300,)},
            "config.generator.step_sigmas=(1e-300,): float32 holds",
        ),
        ({"generator.steps": 10**9}, "config.generator.steps=1000000000: a whole number of at"),
        ({"heun.steps": 10**9}, "config.heun.steps=1000000000: a whole number of at least 2 is"),
    ],
)
def test_what_no_run_could_hold_is_refused(changes, message):
    config = set_fields(bases.distillation("sid"), {"teacher": "digits", **changes})
    with pytest.raises(ValueError, match="^" + re.escape(message)) as caught:
        checks.check(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"seed": 2**32 - 1}, {"alpha": 0.0}, {"heun.s_max": float("inf")}]
)
def test_seeds_zero_and_infinity_pass(changes):
    checks.check(set_fields(bases.distillation("sid"), {"teacher": "digits", **changes}))


@pytest.mark.parametrize("rho", [1e-30, 1e-3, 1e30])
def test_a_grid_that_overflows_or_does_not_fall_is_refused(rho):
    config = set_fields(bases.distillation("sid"), {"teacher": "digits", "heun.rho": rho})
    with pytest.raises(ValueError, match=r"^config\.heun\.rho=.*; EDM takes 7\.$"):
        building.build(config)
