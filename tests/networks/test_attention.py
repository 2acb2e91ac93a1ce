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

from diffjax.networks.layers import self_attention


def arguments(heads=2, channels=16):
    return jax.random.normal(jax.random.key(0), (3, 4, 5, 3 * channels))


def test_definition():
    qkv = np.asarray(arguments(), np.float64)
    out = np.asarray(self_attention(jnp.asarray(qkv, jnp.float32), 2))
    q, k, v = np.moveaxis(qkv.reshape(3, 20, 2, 8, 3), -1, 0)
    for head in range(2):
        logits = q[:, :, head] @ k[:, :, head].transpose(0, 2, 1) / np.sqrt(8)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        wanted = (weights @ v[:, :, head]).reshape(3, 4, 5, 8)
        np.testing.assert_allclose(out[..., 8 * head : 8 * head + 8], wanted, atol=1e-6)


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

    def total(qkv, attention):
        return (self_attention(qkv, 2, attention) * cotangent).sum()

    got, wanted = (
        jax.value_and_grad(functools.partial(total, attention=name))(qkv)
        for name in ("cudnn", "xla")
    )
    assert asked == ["cudnn"]
    assert got[0] == pytest.approx(float(wanted[0]), rel=1e-5)
    np.testing.assert_allclose(got[1], wanted[1], atol=1e-5)


def test_what_cudnn_lacks_is_one_clear_error(monkeypatch):
    def refuses(*_, **__):
        raise NotImplementedError("The head dim must be <= 128")

    monkeypatch.setattr(jax.nn, "dot_product_attention", refuses)
    with pytest.raises(ValueError, match=r"config\.attention='cudnn' .* 2 heads of 8 .* <= 128"):
        self_attention(arguments(), 2, "cudnn")


ON_A_GPU = """
import jax, jax.numpy as jnp, numpy as np
from diffjax.networks.layers import self_attention

qkv = jax.random.normal(jax.random.key(0), (2, 16, 16, 3 * 128))
cotangent = jax.random.normal(jax.random.key(1), (2, 16, 16, 128))

@jax.jit
def fused(qkv):
    return self_attention(qkv.astype(jnp.bfloat16), 2, "cudnn").astype(jnp.float32)

wanted = jax.vjp(lambda qkv: self_attention(qkv, 2), qkv)
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
