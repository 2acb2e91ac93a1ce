"""Attention by the definition, and that fused kernels are given the same."""

import functools
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.networks import attention, layers
from diffjax.networks.attention import self_attention


def arguments(channels=16):
    return jax.random.normal(jax.random.key(0), (3, 3, 4, 5, channels))


def test_definition():
    qkv = np.asarray(arguments(), np.float64)
    out = np.asarray(self_attention(*jnp.asarray(qkv, jnp.float32), 2))
    q, k, v = qkv.reshape(3, 3, 20, 2, 8)
    for head in range(2):
        logits = q[:, :, head] @ k[:, :, head].transpose(0, 2, 1) / np.sqrt(8)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        wanted = (weights @ v[:, :, head]).reshape(3, 4, 5, 8)
        np.testing.assert_allclose(out[..., 8 * head : 8 * head + 8], wanted, atol=1e-6)


def by_differentiation(q, k, v, heads):
    """The same in float32, left to automatic differentiation."""
    split = (q.shape[0], -1, heads, q.shape[-1] // heads)
    out = jax.nn.dot_product_attention(*(x.astype(jnp.float32).reshape(split) for x in (q, k, v)))
    return out.reshape(q.shape)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.02), ("float16", 0.003)]
)
def test_gradients_are_those_of_automatic_differentiation(dtype, tolerance):
    qkv = arguments().astype(dtype)
    cotangent = jax.random.normal(jax.random.key(1), qkv.shape[1:]).astype(dtype)
    out, pull = jax.vjp(lambda qkv: self_attention(*qkv, 2), qkv)
    wanted, pull_wanted = jax.vjp(lambda qkv: by_differentiation(*qkv, 2), qkv.astype("float32"))
    got = [out, *pull(cotangent)[0]]
    for a, b in zip(got, [wanted, *pull_wanted(cotangent.astype("float32"))[0]], strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a.astype("float32"), b, atol=tolerance * float(jnp.abs(b).max()))


def test_gradients_of_float16_may_exceed_its_range_in_between():
    q, k, v = arguments().astype(jnp.float16)
    v, cotangent = 2000 * v, jnp.full(q.shape, 1000, jnp.float16)
    d_weights = jnp.einsum("bhwc,bxyc->bhwxy", *(x.astype("float32") for x in (cotangent, v)))
    assert jnp.abs(d_weights).max() > 100 * float(jnp.finfo(jnp.float16).max)
    _, pull = jax.vjp(lambda q, k: self_attention(q, k, v, 2), q, 1e-3 * k)
    assert jnp.isfinite(pull(cotangent)[0]).all()


def test_no_pair_of_pixels_is_kept_in_float32_but_on_tpus():
    """In half precision: at 32x32 pixels it is what fills the memory."""
    qkv = arguments().reshape(3, 3, 20, 2, 8).astype(jnp.bfloat16)
    kept = jax.eval_shape(lambda qkv: jax.vjp(attention._attention, *qkv)[1], qkv)
    pairs = [leaf.dtype for leaf in jax.tree.leaves(kept) if leaf.shape[-2:] == (20, 20)]
    assert pairs == [jnp.bfloat16]


def test_tpus_leave_the_gradient_to_automatic_differentiation():
    def gradient(qkv):
        return jax.grad(lambda qkv: self_attention(*qkv, 2).astype("float32").sum())(qkv)

    traced = jax.jit(gradient).trace(arguments().astype(jnp.bfloat16))
    texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("tpu", "cuda")}
    # What automatic differentiation multiplies in the end: float32 by half precision.
    mixed = "(tensor<3x2x20x20xf32>, tensor<3x20x2x8xbf16>)"
    assert mixed in texts["tpu"]
    assert mixed not in texts["cuda"]


@pytest.mark.parametrize("convolve", [layers._apart, layers._at_once])
def test_queries_keys_and_values_are_every_third_channel(convolve):
    """As they are computed on GPUs, and on TPUs."""
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel, bias = map(jax.random.normal, keys, [(2, 3, 4, 8), (1, 1, 8, 24), (24,)])
    wanted = np.einsum("bhwc,cn->bhwn", x, kernel[0, 0]) + bias
    for i, result in enumerate(convolve(x, kernel, bias)):
        np.testing.assert_allclose(result, wanted[..., i::3], atol=1e-5)


def test_cudnn_is_asked_for_the_same(monkeypatch):
    """What it is asked for, done by JAX here: cuDNN itself needs a GPU."""
    asked = []
    by_jax = jax.nn.dot_product_attention

    def watched(*args, implementation, **kwargs):
        asked.append(implementation)
        return by_jax(*args, **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", watched)
    qkv = arguments()
    cotangent = jax.random.normal(jax.random.key(1), (3, 4, 5, 16))

    def total(qkv, kernels):
        return (self_attention(*qkv, 2, kernels) * cotangent).sum()

    got, wanted = (
        jax.value_and_grad(functools.partial(total, kernels=name))(qkv) for name in ("cudnn", "xla")
    )
    assert asked == ["cudnn"]
    assert got[0] == pytest.approx(float(wanted[0]), rel=1e-5)
    np.testing.assert_allclose(got[1], wanted[1], atol=1e-5)


def test_what_cudnn_lacks_is_one_clear_error(monkeypatch):
    def refuses(*_, **__):
        raise NotImplementedError("The head dim must be <= 128")

    monkeypatch.setattr(jax.nn, "dot_product_attention", refuses)
    with pytest.raises(ValueError, match=r"attention='cudnn' .* 2 heads of 8 .* <= 128"):
        self_attention(*arguments(), 2, "cudnn")


ON_A_GPU = """
import jax, jax.numpy as jnp, numpy as np
from diffjax.networks.attention import self_attention

qkv = jax.random.normal(jax.random.key(0), (3, 2, 16, 16, 128))
cotangent = jax.random.normal(jax.random.key(1), (2, 16, 16, 128))

@jax.jit
def fused(qkv):
    return self_attention(*qkv.astype(jnp.bfloat16), 2, "cudnn").astype(jnp.float32)

wanted = jax.vjp(lambda qkv: self_attention(*qkv, 2), qkv)
got = jax.vjp(fused, qkv)
for ours, theirs in ((got[0], wanted[0]), (got[1](cotangent)[0], wanted[1](cotangent)[0])):
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    print("relative difference", error)
    assert 0 < error < 0.02, error
assert "cudnn" in fused.lower(qkv).as_text()
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="there is no NVIDIA GPU here")
def test_cudnn_agrees_with_the_definition_on_a_gpu():
    environment = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    environment["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"  # of the definition
    subprocess.run([sys.executable, "-c", ON_A_GPU], env=environment, check=True)
