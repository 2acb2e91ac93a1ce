"""Synthesis network of StyleGAN2: styles -> an image, from 4×4 up.

Sources: Karras et al. 2020 (StyleGAN2, arXiv:1912.04958; StyleGAN2-ADA, arXiv:2006.06676).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffjax.interfaces import Array, PRNGKey
from diffjax.networks import resampling
from diffjax.networks.stylegan2_layers import StyledConv, ToRGB, UpsamplingSkip

ARCHITECTURES = ("orig", "skip", "resnet")
NOISE_MODES = ("random", "const", "none")
Noise = Mapping[str, Array]  # layer, such as "b8_conv0" -> [B, 8, 8], unit normal

_FIRST = 4  # resolution of the constant that synthesis starts from


class SynthesisBlock(nn.Module):
    """Block of one resolution: features and the image so far -> those of twice the resolution.

    Attributes:
      features: number of channels.
      resolution: of the block's output.
      img_channels: of the image.
      architecture: "orig", "skip" or "resnet".
      is_last: whether it is the last block.
      conv: further attributes of its `StyledConv`s.
      dtype: of the computation; None for that of ws.
    """

    features: int
    resolution: int
    img_channels: int
    architecture: str
    is_last: bool
    conv: Mapping[str, Any]
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Array | None,
        image: Array | None,
        ws: Sequence[Array],
        *,
        noise: Noise,
        is_const: bool,
    ) -> tuple[Array, Array | None]:
        """Apply the block.

        Args:
          x: [B, H/2, W/2, I]; None in the first block.
          image: [B, H/2, W/2, img_channels], or None.
          ws: [B, w_dim] for each of its layers, the image's last.
          noise: [B, H, W] by layer, none for no noise.
          is_const: whether the noise is the layers' own constant.

        Returns:
          (x [B, H, W, features], image [B, H, W, img_channels] or None).
        """
        taps, clamp, fused = (self.conv[name] for name in ("taps", "conv_clamp", "fused"))
        name = f"b{self.resolution}"
        ws = list(ws)

        def conv(x: Array, layer: str, *, up: bool = False, gain: float = 1.0) -> Array:
            module = StyledConv(self.features, self.resolution, up=up, name=layer, **self.conv)
            given = noise.get(f"{name}_{layer}")
            return module(x, ws.pop(0), noise=given, is_const=is_const, gain=gain)

        if x is None:
            shape = (_FIRST, _FIRST, self.features)
            const = self.param("const", nn.initializers.normal(1.0), shape, jnp.float32)
            x = jnp.broadcast_to(const, (ws[0].shape[0], *shape)).astype(self.dtype or const.dtype)
            x = conv(x, "conv1")
        elif self.architecture == "resnet":
            half = math.sqrt(0.5)
            y = UpsamplingSkip(self.features, taps, name="skip")(x, gain=half)
            x = y + conv(conv(x, "conv0", up=True), "conv1", gain=half)
        else:
            x = conv(conv(x, "conv0", up=True), "conv1")
        if image is not None:
            image = resampling.upsample(image, taps)
        if self.is_last or self.architecture == "skip":
            rgb = ToRGB(self.img_channels, clamp, fused, name="torgb")(x, ws[0])
            rgb = rgb.astype(ws[0].dtype)
            image = rgb if image is None else image + rgb
        return x, image


class SynthesisNetwork(nn.Module):
    """Synthesis network: ws [B, num_ws, w_dim] -> images [B, H, W, img_channels].

    Attributes:
      img_resolution: H = W, a power of 2, 4 or more.
      img_channels: of the image.
      channel_base: channels times resolution.
      channel_max: the most channels of a layer.
      architecture: "orig", "skip" or "resnet".
      resample_filter: separable filter's factor, even in length.
      conv_clamp: bound of the magnitude of what layers give; None for none.
      use_noise: whether layers have noise.
      activation: of the layers, a key of `stylegan2_layers.ACTIVATIONS`.
      fused_modconv: whether each example gets kernels of its own; the result is the same.
      dtype: of the convolutions; None for that of ws. The image is added up in that of ws.
    """

    img_resolution: int
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    architecture: str = "skip"
    resample_filter: Sequence[float] = (1, 3, 3, 1)
    conv_clamp: float | None = None
    use_noise: bool = True
    activation: str = "lrelu"
    fused_modconv: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, ws: Array, *, noise_mode: str = "random", noise: Noise | None = None
    ) -> Array:
        """Make images of styles.

        Args:
          ws: [B, num_ws, w_dim].
          noise_mode: "random", "const" (the layers' own constant) or "none".
          noise: of mode "random", by layer, as `draw_noise` gives it; None draws it from the rng
            "noise".

        Returns:
          Images [B, H, W, img_channels]; those of the data are in [-1, 1], these aren't clipped.

        Raises:
          ValueError: on another mode, or noise of another form.
        """
        noise = self._noise(noise_mode, noise, ws.shape[0])
        conv = {
            "use_noise": self.use_noise,
            "activation": self.activation,
            "conv_clamp": self.conv_clamp,
            "taps": tuple(self.resample_filter),
            "fused": self.fused_modconv,
        }
        x: Array | None = None
        image: Any = None
        first = 0
        for resolution in resolutions(self.img_resolution):
            block = SynthesisBlock(
                min(self.channel_base // resolution, self.channel_max),
                resolution,
                self.img_channels,
                self.architecture,
                is_last=resolution == self.img_resolution,
                conv=conv,
                dtype=self.dtype,
                name=f"b{resolution}",
            )
            layers = 1 if x is None else 2
            # The image's layer shares its w with the next block's first.
            used = [ws[:, first + i] for i in range(layers + 1)]
            is_const = noise_mode == "const"
            x, image = block(x, image, used, noise=noise, is_const=is_const)
            first += layers
        return image

    def _noise(self, mode: str, noise: Noise | None, batch: int) -> Noise:
        if mode not in NOISE_MODES:
            raise ValueError(f"noise_mode={mode!r} is none of {', '.join(NOISE_MODES)}")
        if mode != "random" or not self.use_noise or self.is_initializing():
            return {}
        if noise is None:
            return draw_noise(self.make_rng("noise"), batch, self.img_resolution)
        wanted = {name: (batch, size, size) for name, size in noisy(self.img_resolution).items()}
        given = {name: tuple(array.shape) for name, array in noise.items()}
        if given != wanted:
            raise ValueError(f"noise has the shapes {given} instead of {wanted}")
        return noise


def resolutions(img_resolution: int) -> list[int]:
    """Resolutions of the synthesis blocks, from 4 up.

    Args:
      img_resolution: of the image.

    Raises:
      ValueError: if it isn't a power of 2, 4 or more.
    """
    if img_resolution < _FIRST or img_resolution & (img_resolution - 1):
        raise ValueError(f"img_resolution={img_resolution} must be a power of 2, 4 or more")
    return [1 << level for level in range(2, img_resolution.bit_length())]


def noisy(img_resolution: int) -> dict[str, int]:
    """Layers that take noise, in order, with their resolutions.

    Args:
      img_resolution: of the image.

    Raises:
      ValueError: if it isn't a power of 2, 4 or more.
    """
    sizes = resolutions(img_resolution)
    names = ((f"b{size}_conv{i}", size) for size in sizes for i in (0, 1))
    return {name: size for name, size in names if name != f"b{_FIRST}_conv0"}


def draw_noise(key: PRNGKey, batch: int, img_resolution: int) -> dict[str, Array]:
    """Draw the noise of mode "random": unit normal, [B, size, size] by layer.

    Args:
      key: random key.
      batch: B.
      img_resolution: of the image.
    """
    layers = noisy(img_resolution)
    keys = jax.random.split(key, len(layers))
    return {
        name: jax.random.normal(one, (batch, size, size), jnp.float32)
        for one, (name, size) in zip(keys, layers.items(), strict=True)
    }
