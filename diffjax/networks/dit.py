"""Transformer of DiT (Peebles & Xie 2023, arXiv:2212.09748), which is SiT's too (2401.08740)."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array
from diffjax.networks import blocks, dropout, layers
from diffjax.networks.attention import self_attention

_TIME_FEATURES = 256
_MASKS = 2  # of dropout in a block
_WIDE = nn.initializers.xavier_uniform()
_NARROW = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """Settings that all blocks of a network share; see `DiT`."""

    num_heads: int
    mlp_ratio: float
    dropout: float
    dtype: Any
    attention: str
    rematerialize: bool


class Block(nn.Module):
    """Transformer block with adaptive layer norm, adaLN-Zero (figure 3).

    Attributes:
      style: what all blocks share.
    """

    style: BlockStyle

    @nn.compact
    def __call__(self, x: Array, emb: Array, dropout_seed: Array | None = None) -> Array:
        """Map tokens x [B, N, C] and the activated embedding emb [B, C] to [B, N, C]."""
        style, width = self.style, x.shape[-1]
        dense = functools.partial(nn.Dense, dtype=style.dtype, kernel_init=_WIDE)
        modulation = nn.Dense(
            6 * width,
            dtype=style.dtype,
            kernel_init=nn.initializers.zeros,
            name="adaLN_modulation",
        )(emb)
        parts = jnp.split(modulation[:, None], 6, axis=-1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts

        y = modulated(x, shift_attn, scale_attn)
        q, k, v = jnp.split(dense(3 * width, name="attn_qkv")(y), 3, axis=-1)
        y = self_attention(q, k, v, style.num_heads, style.attention)
        y = dense(width, name="attn_proj")(y)
        x = x + gate_attn * self._dropped(y, dropout_seed, 0)

        y = modulated(x, shift_mlp, scale_mlp)
        y = nn.gelu(dense(int(width * style.mlp_ratio), name="mlp_fc1")(y), approximate=True)
        y = dense(width, name="mlp_fc2")(y)
        return x + gate_mlp * self._dropped(y, dropout_seed, 1)

    def _dropped(self, y: Array, seed: Array | None, mask: int) -> Array:
        return y if seed is None else dropout.dropout(y, self.style.dropout, seed[mask])


class DiT(nn.Module):
    """Raw network F(x; noise label) of DiT and of SiT, of images or latents cut into patches.

    Attributes:
      img_resolution: height and width of the images or latents.
      out_channels: channels of the prediction.
      label_dim: number of classes; 0 for an unconditional network.
      patch_size: height and width of a patch, a divisor of img_resolution.
      hidden_size: channels of a token, a multiple of 4 and of num_heads: 384, 768, 1024 and 1152
        from S to XL.
      depth: number of blocks: 12, 12, 24 and 28.
      num_heads: of attention: 6, 12, 16 and 16.
      mlp_ratio: hidden channels of a block's perceptron over hidden_size.
      learn_sigma: whether as many channels follow the prediction's, in which DiT predicts
        variances and SiT nothing.
      null_class: whether there is an embedding of no class, for which a row of labels is zeros.
        Networks have one that were trained with labels dropped.
      dropout: rate on what attention and perceptron add; the released networks have none.
      label_dropout: rate at which a row of labels is zeroed while training.
      dtype: of the computation; parameters, layer norms' statistics and the embedding are float32.
      attention: "xla" or "cudnn"; see `attention.self_attention`.
      rematerialize: whether blocks are computed again in the backward pass.
    """

    img_resolution: int
    out_channels: int
    label_dim: int = 0
    patch_size: int = 2
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    learn_sigma: bool = True
    null_class: bool = True
    dropout: float = 0.0
    label_dropout: float = 0.0
    dtype: Any = jnp.float32
    attention: str = "xla"
    rematerialize: bool = False

    augment_dim = 0  # it takes no augmentation labels

    @nn.compact
    def __call__(
        self,
        x: Array,
        noise_labels: Array,
        labels: Array | None = None,
        augment_labels: Array | None = None,
        *,
        train: bool = False,
    ) -> Array:
        """Apply the network.

        Args:
          x: [B, H, W, C] scaled noisy images.
          noise_labels: [B], the time: in [0, 1] for SiT, in [0, 999] for DiT.
          labels: [B, label_dim] one-hot, a row of zeros for no class; None where label_dim is 0.
          augment_labels: None.
          train: whether dropout is on, which draws from the rng "dropout".

        Returns:
          [B, H, W, out_channels], twice as many with learn_sigma, in `dtype`.
        """
        assert augment_labels is None, "DiT takes no augmentation labels"
        size, rows = self.patch_size, self.img_resolution // self.patch_size
        tokens = nn.Conv(
            self.hidden_size,
            (size, size),
            strides=(size, size),
            padding="VALID",
            dtype=self.dtype,
            kernel_init=_of_patches,
            name="x_embedder",
        )(x.astype(self.dtype))
        tokens = tokens + positions(rows, self.hidden_size).astype(self.dtype)
        grid = tokens.shape
        tokens = tokens.reshape(grid[0], -1, grid[-1])
        emb = self._embed(noise_labels.astype(jnp.float32), labels, train)
        seeds = self._dropout_seeds(train)
        style = BlockStyle(
            self.num_heads,
            self.mlp_ratio,
            self.dropout,
            self.dtype,
            self.attention,
            self.rematerialize,
        )
        for i in range(self.depth):
            block, seed = Block(style, parent=None), None if seeds is None else seeds[i]
            tokens = blocks.apply_block(self, f"blocks_{i}", block, tokens, emb, seed)
            if i == (self.depth - 1) // 2:  # there is no encoder: what a discriminator judges
                self.sow(layers.FEATURES, "level0", tokens.reshape(grid))

        zeros = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=nn.initializers.zeros)
        modulation = zeros(2 * self.hidden_size, name="final_layer_adaLN_modulation")(emb)
        tokens = modulated(tokens, *jnp.split(modulation[:, None], 2, axis=-1))
        channels = self.out_channels * (2 if self.learn_sigma else 1)
        patches = zeros(size * size * channels, name="final_layer_linear")(tokens)
        patches = patches.reshape(-1, rows, rows, size, size, channels)
        out = patches.transpose(0, 1, 3, 2, 4, 5)
        return out.reshape(-1, rows * size, rows * size, channels)

    def _embed(self, noise_labels: Array, labels: Array | None, train: bool) -> Array:
        """Embed time and class, activated, [B, hidden_size] float32."""
        dense = functools.partial(nn.Dense, self.hidden_size, kernel_init=_NARROW)
        emb = layers.PositionalEmbedding(_TIME_FEATURES)(noise_labels)
        emb = dense(name="t_embedder_2")(nn.silu(dense(name="t_embedder_0")(emb)))
        if self.label_dim:
            assert labels is not None, "labels are needed where label_dim is not 0"
            labels = layers.label_dropout(self, labels, self.label_dropout, train)
            shape = self.label_dim + self.null_class, self.hidden_size
            table = self.param("y_embedder", _NARROW, shape, jnp.float32)
            if self.null_class:
                labels = jnp.concatenate([labels, 1 - labels.sum(-1, keepdims=True)], axis=-1)
            # A look-up, whose precision isn't the matrix unit's.
            emb = emb + jnp.matmul(labels, table, precision=jax.lax.Precision.HIGHEST)
        return nn.silu(emb)

    def _dropout_seeds(self, train: bool) -> Array | None:
        """Seeds of each block's masks, [depth, 2, 2] uint32; None without dropout."""
        if not (train and self.dropout):
            return None
        seeds = dropout.seeds(self.make_rng("dropout"), _MASKS * self.depth)
        return seeds.reshape(self.depth, _MASKS, -1)


def modulated(x: Array, shift: Array, scale: Array) -> Array:
    """Layer norm of tokens, scaled and shifted: norm(x) (1 + scale) + shift, in the type of x.

    Args:
      x: [B, N, C].
      shift: [B, 1, C].
      scale: [B, 1, C].
    """
    norm = nn.LayerNorm(
        epsilon=1e-6,
        use_bias=False,
        use_scale=False,
        use_fast_variance=False,
        dtype=x.dtype,
        parent=None,
    )
    return norm.apply({}, x) * (1 + scale) + shift  # type: ignore[operator]


def positions(rows: int, features: int) -> Array:
    """Sinusoidal embedding of the places of patches, [rows, rows, features] float32.

    The first half of the features tell the column and the others the row, sines first.

    Args:
      rows: of patches, and columns.
      features: a multiple of 4.
    """
    quarter = features // 4
    # Of one axis alone, so that a program holds no large constant; float64, as published.
    frequencies = 1 / 10000 ** (np.arange(quarter) / quarter)
    phases = np.arange(rows)[:, None] * frequencies
    along = jnp.asarray(np.concatenate([np.sin(phases), np.cos(phases)], axis=1), jnp.float32)
    shape = rows, rows, 2 * quarter
    columns = jnp.broadcast_to(along[None], shape)
    return jnp.concatenate([columns, jnp.broadcast_to(along[:, None], shape)], axis=-1)


def _of_patches(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Xavier uniform initializer of a convolution as the linear map of a patch that it is."""
    flat = math.prod(shape[:-1]), shape[-1]
    return _WIDE(key, flat, dtype).reshape(shape)
