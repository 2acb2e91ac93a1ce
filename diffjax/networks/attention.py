"""Self-attention over the pixels of an image."""

import math

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array


def self_attention(q: Array, k: Array, v: Array, num_heads: int, attention: str = "xla") -> Array:
    """Multi-head attention of every pixel to every pixel: softmax(q kᵀ / √c) v.

    Reverse-mode derivatives alone are defined.

    Args:
      q: queries [B, H, W, C], the channels ordered (head, channel of head).
      k: keys [B, H, W, C], channels ordered likewise.
      v: values [B, H, W, C], channels ordered likewise.
      num_heads: number of heads, a divisor of C.
      attention: "xla", or "cudnn" for NVIDIA's fused kernels, which never write the weights of
        pairs of pixels to memory; for bfloat16 and float16, on GPUs from Ampere on.

    Returns:
      [B, H, W, C] of q's type; the softmax is taken in float32.

    Raises:
      ValueError: cuDNN hasn't this attention on this GPU.
    """
    shape = q.shape
    q, k, v = (x.reshape(shape[0], -1, num_heads, shape[-1] // num_heads) for x in (q, k, v))
    if attention == "cudnn":
        try:
            out = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
        except NotImplementedError as error:
            raise ValueError(
                f"attention='cudnn' can't be had for {num_heads} heads of {q.shape[-1]} "
                f"channels here ({error}); set it to 'xla'."
            ) from error
    else:
        # On TPUs a large update lays out more memory with the gradient written here than without.
        out = jax.lax.platform_dependent(q, k, v, tpu=_plain, default=_attention)
    return out.reshape(shape)


def _plain(q: Array, k: Array, v: Array) -> Array:
    """Softmax(q kᵀ / √c) v, all [B, N, heads, c]."""
    return _attention_forward(q, k, v)[0]


@jax.custom_vjp
def _attention(q: Array, k: Array, v: Array) -> Array:
    """Attention as `_plain`, with a hand-written gradient."""
    return _plain(q, k, v)


_Kept = tuple[Array, Array, Array, Array]


def _attention_forward(q: Array, k: Array, v: Array) -> tuple[Array, _Kept]:
    # Scaling one factor before the product keeps half-precision products in range.
    logits = _pairs(q, k / math.sqrt(q.shape[-1]))
    weights = jax.nn.softmax(logits, axis=-1).astype(q.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, v), (q, k, v, weights)


def _attention_backward(kept: _Kept, d_out: Array) -> tuple[Array, Array, Array]:
    # Automatic differentiation would keep the weights, and multiply their gradient, in float32
    # whatever q's type is. float16 lacks the range for the latter.
    q, k, v, weights = kept
    d_weights = _pairs(d_out, v)
    along = (weights * d_weights).sum(axis=-1, keepdims=True)
    d_logits = weights * (d_weights - along) / math.sqrt(q.shape[-1])
    if q.dtype != jnp.float16:
        d_logits = d_logits.astype(q.dtype)
    d_q = jnp.einsum("bhqk,bkhc->bqhc", d_logits, k).astype(q.dtype)
    d_k = jnp.einsum("bhqk,bqhc->bkhc", d_logits, q).astype(k.dtype)
    d_v = jnp.einsum("bhqk,bqhc->bkhc", weights, d_out)
    return d_q, d_k, d_v


_attention.defvjp(_attention_forward, _attention_backward)


def _pairs(x: Array, y: Array) -> Array:
    """Products of pairs of pixels: [B, N, heads, c] twice -> [B, heads, N, N] float32."""
    return jnp.einsum("bqhc,bkhc->bhqk", x, y, preferred_element_type=jnp.float32)
