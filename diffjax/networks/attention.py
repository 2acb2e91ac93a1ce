"""Self-attention over the pixels of an image."""

import functools
import math

import jax
import jax.numpy as jnp

from diffjax.types import Array


def self_attention(qkv: Array, num_heads: int, attention: str = "xla") -> Array:
    """Attention of every pixel to every pixel.

    Reverse-mode derivatives alone are defined.

    Args:
      qkv: [B, H, W, 3·C], the channels ordered (head, channel of head, q/k/v) as in EDM.
      num_heads: number of heads.
      attention: "xla", or "cudnn" for NVIDIA's fused kernels, which never write the weights of
        pairs of pixels to memory; for bfloat16 and float16, on GPUs from Ampere on.

    Returns:
      [B, H, W, C]; the softmax is taken in float32.

    Raises:
      ValueError: cuDNN hasn't this attention on this GPU.
    """
    batch, height, width, channels = qkv.shape
    qkv = qkv.reshape(batch, height * width, num_heads, channels // (3 * num_heads), 3)
    q, k, v = qkv[..., 0], qkv[..., 1], qkv[..., 2]
    if attention == "cudnn":
        try:
            out = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
        except NotImplementedError as error:
            raise ValueError(
                f"config.attention='cudnn' can't be had for {num_heads} heads of {q.shape[-1]} "
                f"channels here ({error}); set it to 'xla'."
            ) from error
    else:
        out = _attention(q, k, v)
    return out.reshape(batch, height, width, channels // 3)


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _attention(q: Array, k: Array, v: Array) -> Array:
    """softmax(q kᵀ / √c) v, all [B, N, heads, c]."""
    return _attention_forward(q, k, v)[0]


_AttentionKept = tuple[Array, Array, Array, Array]


def _attention_forward(q: Array, k: Array, v: Array) -> tuple[Array, _AttentionKept]:
    # Scaling one factor before the product keeps half-precision products in range.
    logits = _product("bqhc,bkhc->bhqk", q, k / math.sqrt(q.shape[-1]))
    weights = jax.nn.softmax(logits, axis=-1).astype(q.dtype)
    return _product("bhqk,bkhc->bqhc", weights, v).astype(q.dtype), (q, k, v, weights)


def _attention_backward(kept: _AttentionKept, d_out: Array) -> tuple[Array, Array, Array]:
    # By automatic differentiation weights are kept, and products of their gradient computed, in
    # float32 whatever q's type is.
    q, k, v, weights = kept
    d_v = _product("bhqk,bqhc->bkhc", weights, d_out).astype(v.dtype)
    d_weights = _product("bqhc,bkhc->bhqk", d_out, v)
    along = (weights * d_weights).sum(axis=-1, keepdims=True)
    scale = 1 / math.sqrt(q.shape[-1])
    d_logits = (weights * (d_weights - along) * scale).astype(q.dtype)
    d_q = _product("bhqk,bkhc->bqhc", d_logits, k).astype(q.dtype)
    d_k = _product("bhqk,bqhc->bkhc", d_logits, q).astype(k.dtype)
    return d_q, d_k, d_v


_attention.defvjp(_attention_forward, _attention_backward)
