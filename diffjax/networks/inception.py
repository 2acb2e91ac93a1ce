"""Inception network that FID, KID and the inception score are defined on.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, in the form
that Google released on 2015-12-05 and Heusel et al. 2017 chose for the FID. It differs from later
releases: 1008 classes, no auxiliary head, average pools that don't count their padding, and a
max pool in the last block. Names of modules are those of PyTorch's ports (pytorch-fid,
torch-fidelity, torchvision), so that conversion is renaming and transposing alone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array

INPUT_SIZE = 299
NUM_FEATURES = 2048
NUM_CLASSES = 1008

# Metrics are compared in the fourth digit: no bfloat16 or TF32 inside.
_PRECISION = jax.lax.Precision.HIGHEST


def preprocess(images: Array) -> Array:
    """Resize images as TensorFlow 1 does, and map [0, 255] to about [-1, 1].

    `tf.image.resize_bilinear` without `align_corners` or half-pixel centres: output pixel i shows
    the place i * size / 299, counted from the first pixel. PIL, torchvision and `jax.image` resize
    otherwise, which changes the FID.

    Args:
      images: [N, H, W, 3], values in [0, 255].

    Returns:
      [N, 299, 299, 3] float32, (pixel - 128) / 128.
    """
    rows, columns = (_interpolation(size) for size in images.shape[1:3])
    images = jnp.asarray(images, jnp.float32)
    resized = jnp.einsum("xw,nhwc->nhxc", columns, images, precision=_PRECISION)
    resized = jnp.einsum("yh,nhxc->nyxc", rows, resized, precision=_PRECISION)
    return (resized - 128) / 128


def _interpolation(size: int) -> np.ndarray:
    """Matrix [299, size] that resizes a line of pixels."""
    # In float32, as the original computes it: rounding decides where exact hits fall.
    place = np.arange(INPUT_SIZE, dtype=np.float32) * np.float32(size / INPUT_SIZE)
    low = place.astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    share = place - low.astype(np.float32)
    matrix = np.zeros((INPUT_SIZE, size), np.float32)
    np.add.at(matrix, (np.arange(INPUT_SIZE), low), 1 - share)
    np.add.at(matrix, (np.arange(INPUT_SIZE), high), share)
    return matrix


class ConvNormRelu(nn.Module):
    """Convolution without bias, batch norm with stored statistics, ReLU.

    Attributes:
      features: output channels.
      kernel: height and width.
      stride: in both directions.
      padding: "SAME" or "VALID".
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map [N, H, W, C] to [N, H', W', features]."""
        x = nn.Conv(
            self.features,
            self.kernel,
            (self.stride, self.stride),
            self.padding,
            use_bias=False,
            precision=_PRECISION,
            name="conv",
        )(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


class InceptionA(nn.Module):
    """Branches 1x1, 5x5, double 3x3 and pool: [N, H, W, C] -> [N, H, W, 224 + pool_features].

    Attributes:
      pool_features: output channels of the pool branch.
    """

    pool_features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply the block."""
        branch1x1 = ConvNormRelu(64, name="branch1x1")(x)

        branch5x5 = ConvNormRelu(48, name="branch5x5_1")(x)
        branch5x5 = ConvNormRelu(64, (5, 5), name="branch5x5_2")(branch5x5)

        branch3x3 = ConvNormRelu(64, name="branch3x3dbl_1")(x)
        branch3x3 = ConvNormRelu(96, (3, 3), name="branch3x3dbl_2")(branch3x3)
        branch3x3 = ConvNormRelu(96, (3, 3), name="branch3x3dbl_3")(branch3x3)

        pooled = ConvNormRelu(self.pool_features, name="branch_pool")(_average_pool(x))
        return _concatenate(branch1x1, branch5x5, branch3x3, pooled)


class InceptionB(nn.Module):
    """Branches that halve the resolution: [N, 35, 35, C] -> [N, 17, 17, C + 480]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply the block."""
        branch3x3 = ConvNormRelu(384, (3, 3), 2, "VALID", name="branch3x3")(x)

        double = ConvNormRelu(64, name="branch3x3dbl_1")(x)
        double = ConvNormRelu(96, (3, 3), name="branch3x3dbl_2")(double)
        double = ConvNormRelu(96, (3, 3), 2, "VALID", name="branch3x3dbl_3")(double)
        return _concatenate(branch3x3, double, _halving_max_pool(x))


class InceptionC(nn.Module):
    """Branches 1x1, factorised 7x7 once and twice, and pool: [N, H, W, C] -> [N, H, W, 768].

    Attributes:
      inner: channels between the factors of the 7x7 branches.
    """

    inner: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply the block."""
        branch1x1 = ConvNormRelu(192, name="branch1x1")(x)

        single = ConvNormRelu(self.inner, name="branch7x7_1")(x)
        single = ConvNormRelu(self.inner, (1, 7), name="branch7x7_2")(single)
        single = ConvNormRelu(192, (7, 1), name="branch7x7_3")(single)

        double = ConvNormRelu(self.inner, name="branch7x7dbl_1")(x)
        double = ConvNormRelu(self.inner, (7, 1), name="branch7x7dbl_2")(double)
        double = ConvNormRelu(self.inner, (1, 7), name="branch7x7dbl_3")(double)
        double = ConvNormRelu(self.inner, (7, 1), name="branch7x7dbl_4")(double)
        double = ConvNormRelu(192, (1, 7), name="branch7x7dbl_5")(double)

        pooled = ConvNormRelu(192, name="branch_pool")(_average_pool(x))
        return _concatenate(branch1x1, single, double, pooled)


class InceptionD(nn.Module):
    """Branches that halve the resolution: [N, 17, 17, C] -> [N, 8, 8, C + 512]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply the block."""
        branch3x3 = ConvNormRelu(192, name="branch3x3_1")(x)
        branch3x3 = ConvNormRelu(320, (3, 3), 2, "VALID", name="branch3x3_2")(branch3x3)

        branch7x7 = ConvNormRelu(192, name="branch7x7x3_1")(x)
        branch7x7 = ConvNormRelu(192, (1, 7), name="branch7x7x3_2")(branch7x7)
        branch7x7 = ConvNormRelu(192, (7, 1), name="branch7x7x3_3")(branch7x7)
        branch7x7 = ConvNormRelu(192, (3, 3), 2, "VALID", name="branch7x7x3_4")(branch7x7)
        return _concatenate(branch3x3, branch7x7, _halving_max_pool(x))


class InceptionE(nn.Module):
    """Branches 1x1, forked 3x3 once and twice, and pool: [N, H, W, C] -> [N, H, W, 2048].

    Attributes:
      pool: "average" or "max"; the released network has a max pool in its very last block.
    """

    pool: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply the block."""
        branch1x1 = ConvNormRelu(320, name="branch1x1")(x)

        single = ConvNormRelu(384, name="branch3x3_1")(x)
        single = _concatenate(
            ConvNormRelu(384, (1, 3), name="branch3x3_2a")(single),
            ConvNormRelu(384, (3, 1), name="branch3x3_2b")(single),
        )

        double = ConvNormRelu(448, name="branch3x3dbl_1")(x)
        double = ConvNormRelu(384, (3, 3), name="branch3x3dbl_2")(double)
        double = _concatenate(
            ConvNormRelu(384, (1, 3), name="branch3x3dbl_3a")(double),
            ConvNormRelu(384, (3, 1), name="branch3x3dbl_3b")(double),
        )

        pooled = (
            _average_pool(x) if self.pool == "average" else nn.max_pool(x, (3, 3), (1, 1), "SAME")
        )
        pooled = ConvNormRelu(192, name="branch_pool")(pooled)
        return _concatenate(branch1x1, single, double, pooled)


class InceptionV3(nn.Module):
    """Features and logits of [N, 299, 299, 3] images as `preprocess` gives them."""

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Compute (features [N, 2048], logits [N, 1008])."""
        x = ConvNormRelu(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = ConvNormRelu(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = ConvNormRelu(64, (3, 3), name="Conv2d_2b_3x3")(x)
        x = _halving_max_pool(x)
        x = ConvNormRelu(80, name="Conv2d_3b_1x1")(x)
        x = ConvNormRelu(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x)
        x = _halving_max_pool(x)
        x = InceptionA(pool_features=32, name="Mixed_5b")(x)
        x = InceptionA(pool_features=64, name="Mixed_5c")(x)
        x = InceptionA(pool_features=64, name="Mixed_5d")(x)
        x = InceptionB(name="Mixed_6a")(x)
        x = InceptionC(inner=128, name="Mixed_6b")(x)
        x = InceptionC(inner=160, name="Mixed_6c")(x)
        x = InceptionC(inner=160, name="Mixed_6d")(x)
        x = InceptionC(inner=192, name="Mixed_6e")(x)
        x = InceptionD(name="Mixed_7a")(x)
        x = InceptionE(pool="average", name="Mixed_7b")(x)
        x = InceptionE(pool="max", name="Mixed_7c")(x)
        features = jnp.mean(x, axis=(1, 2))
        logits = nn.Dense(NUM_CLASSES, precision=_PRECISION, name="fc")(features)
        return features, logits


def _average_pool(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _halving_max_pool(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


def _concatenate(*branches: Array) -> Array:
    return jnp.concatenate(branches, axis=-1)
