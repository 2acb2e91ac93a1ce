"""Types of the arrays that losses take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses
from tests.support.loss_calls import CALLS


def arrays(dtype, scale=1.0):
    random = np.random.RandomState(0)
    return [jnp.asarray(scale * random.standard_normal((3, 64, 64, 3)), dtype) for _ in range(3)]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_summed_in_float32(name, dtype):
    half = arrays(dtype, scale=20.0)  # whose sums of squares no float16 holds
    got = CALLS[name](*half)
    assert got.dtype == jnp.float32
    wanted = CALLS[name](*(a.astype(jnp.float32) for a in half))
    np.testing.assert_array_equal(got, wanted)
    gradient = jax.grad(lambda x: CALLS[name](x, *half[1:]).sum())(half[0])
    assert gradient.dtype == dtype
    assert np.isfinite(gradient.astype(np.float32)).all()


def test_the_floor_of_sids_weight_in_float16():
    x, _, d_fake = arrays("float16")
    values = losses.sid(x, x, d_fake, alpha=1.0)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("name", CALLS)
def test_integers_are_refused(name):
    with pytest.raises(TypeError, match="floating-point, not uint8"):
        CALLS[name](*(a.astype(jnp.uint8) for a in arrays("float32")))


def test_a_wider_type_stays(monkeypatch):
    with jax.enable_x64(True):
        values = CALLS["sid"](*(a.astype(jnp.float64) for a in arrays("float32")))
    assert values.dtype == jnp.float64


def test_vmap_maps_batches():
    x, d_teacher, d_fake = (a[:, None] for a in arrays("float32"))
    weight = jnp.asarray([[1.0], [2.0], [3.0]])
    mapped = jax.vmap(lambda *a: losses.diff_instruct(*a[:3], weight=a[3]))
    got = mapped(x, d_teacher, d_fake, weight)
    wanted = losses.diff_instruct(x[:, 0], d_teacher[:, 0], d_fake[:, 0], weight=weight[:, 0])
    np.testing.assert_allclose(got[:, 0], wanted, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "value",
    [
        lambda s, x, t, f: losses.sim(x, t, f, s, distance="squared"),
        lambda s, x, t, f: losses.denoising(x, f, weight=1.0, log_variance=1024 * s),
        lambda s, x, t, f: losses.smd_critic(t, f, f[:, 0, 0], skew=s, real=False),
        lambda s, x, t, f: losses.skewed_logits(f, s),
    ],
)
def test_other_half_precise_arguments_are_widened(dtype, value):
    images = arrays("float32")
    half = jnp.asarray([0.003, 0.01, 0.02], dtype)
    got = value(half, *images)
    np.testing.assert_allclose(got, value(half.astype(jnp.float32), *images), rtol=1e-3)
