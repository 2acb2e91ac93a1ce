import jax.numpy as jnp
import numpy as np

from diffjax.training import ema
from tests.support import golden_cases


def test_decay_against_published_loop():
    case = golden_cases.Case("ema_beta")
    images = case.raw("nimg_b256")
    ramped = [ema.decay(n, 256, halflife=500_000) for n in images]
    np.testing.assert_allclose(ramped, case.raw("ema_beta_b256"), rtol=2e-6, atol=1e-12)
    constant = [ema.decay(n, 256, halflife=500_000, rampup=None) for n in images]
    np.testing.assert_allclose(constant, case.raw("ema_beta_norampup_b256"), rtol=2e-6)


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
