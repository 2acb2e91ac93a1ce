import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.training import ema
from tests.support import golden_cases


def batch_sizes(case):
    return [name.removeprefix("nimg_b") for name in case.names if name.startswith("nimg_b")]


@pytest.mark.parametrize(("name", "batch_size"), golden_cases.cases("ema_table", each=batch_sizes))
def test_decay_against_published_loop(name, batch_size):
    case = golden_cases.Case(name)
    images, halflife = case.raw(f"nimg_b{batch_size}"), 1000 * case.meta["ema_halflife_kimg"]
    rampup = case.meta["ema_rampup_ratio"]
    ramped = [ema.decay(n, int(batch_size), halflife=halflife, rampup=rampup) for n in images]
    expected = case.exact(f"ema_beta_b{batch_size}")
    np.testing.assert_allclose(ramped, expected, rtol=2e-6, atol=1e-12)
    if f"ema_beta_norampup_b{batch_size}" in case:
        constant = [ema.decay(n, int(batch_size), halflife=halflife, rampup=None) for n in images]
        expected = case.exact(f"ema_beta_norampup_b{batch_size}")
        np.testing.assert_allclose(constant, expected, rtol=2e-6)


def test_first_update_takes_the_parameters_as_they_are():
    assert ema.decay(0, 128, halflife=1000) == 0
    average = ema.update({"w": jnp.zeros(3)}, {"w": jnp.arange(3.0)}, jnp.float32(0))
    np.testing.assert_array_equal(average["w"], [0, 1, 2])


def test_weights_of_old_and_new():
    average = ema.update(jnp.asarray([1.0]), jnp.asarray([3.0]), jnp.float32(0.75))
    np.testing.assert_allclose(average, [1.5])


def test_equal_values_stay_equal():
    value = jnp.asarray([0.1, 1e-7, 3e8], jnp.float32)
    np.testing.assert_array_equal(ema.update(value, value, jnp.float32(0.3)), value)
