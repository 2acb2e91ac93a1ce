"""Image augmentation of EDM's training, and the labels that tell the network about it.

Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022,
appendix F.2: flips, isotropic scaling, rotation, anisotropic scaling and translation, each applied
to an image by chance. The network sees the parameters as nine labels, so that what it learns about
augmented images doesn't leak into those it generates, where the labels are zero.

Drawing is apart from applying:

    draws = augmentation.draw(key, len(images), p=0.12)
    images, augment_labels = augmentation.apply(images, draws)
"""

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from diffjax.interfaces import Array, PRNGKey

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int_]

NUM_LABELS = 9

_SCALE_STD = 0.2  # of log2 of the factor
_ANISO_STD = 0.2  # of log2 of the factor
_ANISO_ROTATE_PROBABILITY = 0.5
_TRANSLATE_STD = 0.125  # of the size of the image

# The low-pass filter of the sym6 wavelet: `pywt.Wavelet("sym6").dec_lo`, rounded to float32.
_SYM6 = np.asarray(
    [
        0.015404109327027373,
        0.0034907120842174702,
        -0.11799011114819057,
        -0.048311742585633,
        0.4910559419267466,
        0.787641141030194,
        0.3379294217276218,
        -0.07263752278646252,
        -0.021060292512300564,
        0.04472490177066578,
        0.0017677118642428036,
        -0.007800708325034148,
    ],
    np.float32,
)
_MARGIN = len(_SYM6) // 4  # pixels that the filter reaches to either side


@flax.struct.dataclass
class Draws:
    """Draws of the transformation of each image in a batch; all zeros leave it as it is.

    Attributes:
      xflip: [B] 1 to mirror left and right, else 0.
      yflip: [B] 1 to mirror top and bottom, else 0.
      scale: [B] ~ N(0, 1), enlarges by 2^(0.2 scale).
      rotation: [B] in [-pi, pi).
      aniso: [B] ~ N(0, 1), stretches one axis by 2^(0.2 aniso), the other by its inverse.
      aniso_rotation: [B] in [-pi, pi), turns the axes of that stretch.
      translation: [B, 2] ~ N(0, I), shift in x and y in units of an eighth of the image.
    """

    xflip: Array
    yflip: Array
    scale: Array
    rotation: Array
    aniso: Array
    aniso_rotation: Array
    translation: Array


def draw(
    key: PRNGKey,
    batch: int,
    *,
    p: float = 0.12,
    xflip: float = 1e8,
    yflip: float = 1.0,
    scale: float = 1.0,
    rotate_frac: float = 1.0,
    aniso: float = 1.0,
    translate_frac: float = 1.0,
) -> Draws:
    """Draw augmentations for a batch, by default as EDM does on CIFAR-10.

    Each operation is switched on for an image with the probability min(1, p * its multiplier),
    independently of the others. A flip that is on is decided by a fair coin, so that a multiplier
    of 1e8 mirrors every other image and 1 mirrors p / 2 of them. EDM takes p = 0.12 for CIFAR-10
    and 0.15 for FFHQ and AFHQv2.

    Args:
      key: of all draws.
      batch: number of images.
      p: probability that the multipliers refer to.
      xflip: multiplier of mirroring left and right.
      yflip: multiplier of mirroring top and bottom.
      scale: multiplier of isotropic scaling.
      rotate_frac: multiplier of rotation.
      aniso: multiplier of anisotropic scaling.
      translate_frac: multiplier of translation.

    Returns:
      The draws, [B] or [B, 2] float32. A multiplier of 0 leaves its part zero.

    Raises:
      ValueError: p isn't in [0, 1] or a multiplier is negative.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1], got {p}.")
    multipliers = {
        "xflip": xflip,
        "yflip": yflip,
        "scale": scale,
        "rotate_frac": rotate_frac,
        "aniso": aniso,
        "translate_frac": translate_frac,
    }
    for name, multiplier in multipliers.items():
        if multiplier < 0:
            raise ValueError(f"{name} multiplies a probability and can't be {multiplier}.")
    value_keys, gate_keys = jax.random.split(key, (2, 7))

    def gated(i: int, values: Array, probability: float) -> Array:
        is_on = jax.random.uniform(gate_keys[i], (batch,), jnp.float32) < probability
        return values * is_on.reshape((batch,) + (1,) * (values.ndim - 1)).astype(values.dtype)

    def coin(i: int) -> Array:
        fair = jnp.float32(0.5)  # whose type decides the draws
        return jax.random.bernoulli(value_keys[i], fair, (batch,)).astype(jnp.float32)

    def normal(i: int, *shape: int) -> Array:
        return jax.random.normal(value_keys[i], (batch, *shape), jnp.float32)

    def angle(i: int) -> Array:
        return jax.random.uniform(value_keys[i], (batch,), jnp.float32, -jnp.pi, jnp.pi)

    return Draws(
        xflip=gated(0, coin(0), p * xflip),
        yflip=gated(1, coin(1), p * yflip),
        scale=gated(2, normal(2), p * scale),
        rotation=gated(3, angle(3), p * rotate_frac),
        aniso=gated(4, normal(4), p * aniso),
        aniso_rotation=gated(5, angle(5), _ANISO_ROTATE_PROBABILITY),
        translation=gated(6, normal(6, 2), p * translate_frac),
    )


@jax.default_matmul_precision("highest")
def apply(images: Array, draws: Draws) -> tuple[Array, Array]:
    """Augment images and compute the labels for the network.

    Pure, of static shapes and differentiable in the images. Images are upsampled twofold with a
    wavelet filter, sampled at the transformed places and downsampled with the same filter, against
    aliasing; what comes in from outside the image is its reflection, up to one image size away, and
    zero beyond.

    Args:
      images: [B, H, W, C], H and W at least 7, usually in [-1, 1]; results can leave that range.
      draws: of `draw`, for B images.

    Returns:
      (images [B, H, W, C] float32, labels [B, 9] float32). The labels are xflip, yflip, scale,
      cos(rotation) - 1, sin(rotation), aniso cos(aniso_rotation), aniso sin(aniso_rotation) and
      the translation in x and y: all zero for an image left as it is.

    Raises:
      ValueError: images aren't [B, H, W, C], too small, or not as many as the draws.
    """
    # A reflection must reach as far as both filters do, or else not even no change is no change.
    if images.ndim != 4 or min(images.shape[1:3]) <= 2 * _MARGIN:
        raise ValueError(f"images must be [B, H, W, C] with H, W >= 7, got {images.shape}.")
    if draws.xflip.shape != images.shape[:1]:
        raise ValueError(f"Got {len(images)} images but draws for {len(draws.xflip)}.")
    images = jnp.asarray(images, jnp.float32)
    images = jnp.where(draws.xflip[:, None, None, None] == 1, images[:, :, ::-1], images)
    images = jnp.where(draws.yflip[:, None, None, None] == 1, images[:, ::-1], images)
    height, width = images.shape[1:3]
    images = _warp(images, _inverse_transforms(draws, height, width))
    return images, _labels(draws)


def _labels(draws: Draws) -> Array:
    columns = [
        draws.xflip,
        draws.yflip,
        draws.scale,
        jnp.cos(draws.rotation) - 1,
        jnp.sin(draws.rotation),
        draws.aniso * jnp.cos(draws.aniso_rotation),
        draws.aniso * jnp.sin(draws.aniso_rotation),
        draws.translation[:, 0],
        draws.translation[:, 1],
    ]
    return jnp.stack(columns, axis=1).astype(jnp.float32)


def _inverse_transforms(draws: Draws, height: int, width: int) -> Array:
    """Affine maps [B, 2, 3] from a place in the output to the place in the input it shows.

    Places are (x, y) in pixels, from the centre of the image, x to the right and y down.
    """
    scale = jnp.exp2(_SCALE_STD * draws.scale)
    stretch = jnp.exp2(_ANISO_STD * draws.aniso)
    linear = (
        _diagonal(1 / scale, 1 / scale)
        @ _rotation(draws.rotation)
        @ _rotation(-draws.aniso_rotation)
        @ _diagonal(1 / stretch, stretch)
        @ _rotation(draws.aniso_rotation)
    )
    size = jnp.asarray([[width, height]], jnp.float32)
    shift = draws.translation * (_TRANSLATE_STD * size)
    offset = -jnp.einsum("bij,bj->bi", linear, shift)
    return jnp.concatenate([linear, offset[:, :, None]], axis=2)


def _rotation(angle: Array) -> Array:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)


def _diagonal(x: Array, y: Array) -> Array:
    zero = jnp.zeros_like(x)
    return jnp.stack([jnp.stack([x, zero], -1), jnp.stack([zero, y], -1)], -2)


def _warp(images: Array, inverse: Array) -> Array:
    """Sample images [B, H, W, C] at the places that `inverse` [B, 2, 3] sends each pixel to."""
    height, width = images.shape[1:3]
    up_y, up_x = _reflect_and_upsample(height), _reflect_and_upsample(width)
    down_y, down_x = _downsample(height), _downsample(width)

    upsampled = jnp.einsum("yh,xw,bhwc->byxc", up_y, up_x, images)
    places = jax.vmap(_places_to_sample, (0, None, None))(inverse, height, width)
    sampled = jax.vmap(_sample_bilinearly)(upsampled, places)
    return jnp.einsum("hy,wx,byxc->bhwc", down_y, down_x, sampled)


def _reflect_and_upsample(size: int) -> FloatArray:
    """Matrix [2 (3 size - 2), size] that extends a line of pixels and upsamples it.

    The line is extended by size - 1 pixels to either side, the most that a reflection can give.
    EDM's code extends by what the image of the batch that is sent the farthest needs, and by no
    more than size - 1. Both hold what sampling reads, at the same places from the centre, so the
    result is equal, and here shapes are static and no image depends on the others of its batch.
    The exception is the image that is sent the farthest: turned or shrunk, it reads the outermost
    taps of the filter a little beyond EDM's extension, where that has zeros. The difference is
    negligible in large batches, and small even where every image is a batch of its own.
    """
    reflect = np.pad(np.eye(size, dtype=np.float32), ((size - 1, size - 1), (0, 0)), "reflect")
    upsample = _filter_taps(2 * len(reflect), len(reflect), lambda fine, i: fine - 2 * i + 5)
    return upsample @ reflect


def _downsample(size: int) -> FloatArray:
    """Matrix [size, 2 (size + 6)] that undoes upsampling, and drops the margin."""
    fine_size = 2 * (size + 2 * _MARGIN)
    return _filter_taps(size, fine_size, lambda i, fine: fine - 2 * i - 1)


def _filter_taps(
    rows: int, columns: int, tap: Callable[[IntArray, IntArray], IntArray]
) -> FloatArray:
    """Matrix [rows, columns] of filter coefficients number `tap(row, column)`, or 0 without one."""
    taps = tap(np.arange(rows)[:, None], np.arange(columns))
    exists = (taps >= 0) & (taps < len(_SYM6))
    return np.where(exists, _SYM6[np.clip(taps, 0, len(_SYM6) - 1)], np.float32(0))


def _places_to_sample(inverse: Array, height: int, width: int) -> Array:
    """Indices (y, x) into the upsampled image, [2, 2 (H + 6), 2 (W + 6)]."""
    y = jnp.arange(2 * (height + 2 * _MARGIN), dtype=jnp.float32) - (height + 2 * _MARGIN) + 0.5
    x = jnp.arange(2 * (width + 2 * _MARGIN), dtype=jnp.float32) - (width + 2 * _MARGIN) + 0.5
    # From the upsampled grid, which the filter shifts by half a fine pixel, and back to it.
    x, y = jnp.meshgrid((x + 0.5) / 2, (y + 0.5) / 2)
    ones = jnp.ones_like(x)
    x, y = 2 * jnp.einsum("ij,jyx->iyx", inverse, jnp.stack([x, y, ones])) - 0.5
    return jnp.stack([y + (3 * height - 2) - 0.5, x + (3 * width - 2) - 0.5])


def _sample_bilinearly(image: Array, places: Array) -> Array:
    """Sample an image [Y, X, C] at the (y, x) indices `places` [2, ...], zero outside of it."""
    sample = functools.partial(jax.scipy.ndimage.map_coordinates, order=1, mode="constant")
    return jax.vmap(sample, in_axes=(2, None), out_axes=2)(image, tuple(places))
