"""Generators of StyleGAN2 and StyleGAN2-ADA: latents and a class -> styles -> an image.

Sources: Karras et al. 2020 (StyleGAN2, arXiv:1912.04958; StyleGAN2-ADA, arXiv:2006.06676). The
released networks compute their upper resolutions in float16; here all is float32 unless `dtype`
says otherwise.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from diffjax.interfaces import Array
from diffjax.networks.stylegan2_layers import BUFFERS, EqualizedDense, normalize_second_moment
from diffjax.networks.stylegan2_synthesis import Noise, SynthesisNetwork, noisy


class MappingNetwork(nn.Module):
    """Mapping network: z [B, z_dim] and classes c [B, c_dim] -> ws [B, num_ws, w_dim].

    The average of w is a buffer: kept with the parameters, never trained.

    Attributes:
      w_dim: length of w.
      num_ws: how often w is repeated.
      c_dim: number of classes, 0 for an unconditional network.
      num_layers: dense layers.
      embed_features: length of the class's embedding; None for w_dim.
      layer_features: outputs of the layers but the last; None for w_dim.
      activation: of the layers, a key of `stylegan2_layers.ACTIVATIONS`.
      lr_multiplier: learning rate of the layers, relative to the rest of the network.
      w_avg_beta: decay of the average of w; None for no average.
    """

    w_dim: int
    num_ws: int
    c_dim: int = 0
    num_layers: int = 8
    embed_features: int | None = None
    layer_features: int | None = None
    activation: str = "lrelu"
    lr_multiplier: float = 0.01
    w_avg_beta: float | None = 0.995

    @nn.compact
    def __call__(
        self,
        z: Array,
        c: Array | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_w_avg: bool = False,
    ) -> Array:
        """Map latents and classes to styles.

        Args:
          z: [B, z_dim] ~ N(0, I).
          c: [B, c_dim] one-hot classes; None where c_dim is 0.
          truncation_psi: ψ; w becomes w_avg + ψ (w − w_avg).
          truncation_cutoff: how many of the ws ψ applies to, from the first; None for all.
          update_w_avg: whether this batch goes into the average of w, which must be mutable.

        Returns:
          ws [B, num_ws, w_dim].

        Raises:
          ValueError: if classes are missing or not expected, or there is no average where
            truncation needs one.
        """
        x = normalize_second_moment(z)
        if self.c_dim:
            embed = EqualizedDense(self.embed_features or self.w_dim, name="embed")
            x = jnp.concatenate([x, normalize_second_moment(embed(self._checked(c)))], axis=1)
        else:
            self._checked(c)
        for i in range(self.num_layers):
            is_last = i == self.num_layers - 1
            features = self.w_dim if is_last else self.layer_features or self.w_dim
            dense = EqualizedDense(features, self.activation, self.lr_multiplier, name=f"fc{i}")
            x = dense(x)
        ws = jnp.broadcast_to(x[:, None], (x.shape[0], self.num_ws, x.shape[1]))
        if self.w_avg_beta is None:
            if truncation_psi != 1:
                raise ValueError(f"truncation_psi={truncation_psi}: there is no average of w")
            return ws
        w_avg = self.variable(BUFFERS, "w_avg", jnp.zeros, (self.w_dim,), jnp.float32)
        if update_w_avg and not self.is_initializing():
            mean = jax.lax.stop_gradient(jnp.mean(x, axis=0))
            w_avg.value = mean + self.w_avg_beta * (w_avg.value - mean)
        if truncation_psi == 1:
            return ws
        center = jax.lax.stop_gradient(w_avg.value)
        truncated = center + truncation_psi * (ws - center)
        if truncation_cutoff is None:
            return truncated
        is_cut = jnp.arange(self.num_ws)[None, :, None] < truncation_cutoff
        return jnp.where(is_cut, truncated, ws)

    def _checked(self, c: Any) -> Any:
        shape = None if c is None else getattr(c, "shape", ())
        if (shape is None and not self.c_dim) or (shape and shape[1:] == (self.c_dim,)):
            return c
        found = "none" if c is None else list(shape or ()) or f"a {type(c).__name__}"
        wanted = f"takes one-hot classes [B, {self.c_dim}]" if self.c_dim else "is unconditional"
        raise ValueError(f"this generator {wanted}, and is given the condition {found}")


class StyleGAN2(nn.Module):
    """Generator of StyleGAN2 and StyleGAN2-ADA: z [B, z_dim], c [B, c_dim] -> [B, H, W, C].

    The defaults are the released code's. Variables are "params", all of them trained, and
    "buffers", none of them: the average of w, the layers' constant noise.

    Attributes:
      img_resolution: H = W of the images, a power of 2, 4 or more.
      img_channels: C of the images.
      z_dim: length of a latent.
      c_dim: number of classes; 0 for an unconditional network.
      w_dim: length of a style.
      mapping_kwargs: further attributes of the `MappingNetwork`.
      synthesis_kwargs: further attributes of the `SynthesisNetwork`.
    """

    img_resolution: int
    img_channels: int = 3
    z_dim: int = 512
    c_dim: int = 0
    w_dim: int = 512
    mapping_kwargs: Mapping[str, Any] = FrozenDict()
    synthesis_kwargs: Mapping[str, Any] = FrozenDict()

    def setup(self) -> None:
        """Make the two networks; Linen calls this."""
        size = self.img_resolution
        num_ws = len(noisy(size)) + 1
        self.mapping = MappingNetwork(self.w_dim, num_ws, self.c_dim, **self.mapping_kwargs)
        self.synthesis = SynthesisNetwork(size, self.img_channels, **self.synthesis_kwargs)

    def __call__(
        self,
        z: Array,
        c: Array | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        noise: Noise | None = None,
    ) -> Array:
        """Generate images [B, H, W, C] of latents.

        `mapping` and `synthesis` can be asked alone:
        `net.apply(variables, ws, method=lambda net, ws: net.synthesis(ws, noise_mode="const"))`.

        Args:
          z: [B, z_dim] ~ N(0, I).
          c: [B, c_dim] one-hot classes; None where c_dim is 0.
          truncation_psi: as `MappingNetwork` takes it.
          truncation_cutoff: as `MappingNetwork` takes it.
          noise_mode: as `SynthesisNetwork` takes it.
          noise: as `SynthesisNetwork` takes it.
        """
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, noise_mode=noise_mode, noise=noise)

    def abstract_variables(self) -> Any:
        """Shapes and types of the variables, without computing any."""
        z = jax.ShapeDtypeStruct((1, self.z_dim), jnp.float32)
        c = jax.ShapeDtypeStruct((1, self.c_dim), jnp.float32) if self.c_dim else None
        return jax.eval_shape(self.init, jax.random.key(0), z, c)


def cifar10(c_dim: int = 0) -> StyleGAN2:
    """StyleGAN2-ADA's generator of CIFAR-10, its configuration "cifar": 32×32, 2 mapping layers.

    Args:
      c_dim: 10 for the conditional one, 0 for the unconditional one.
    """
    synthesis: FrozenDict[str, Any] = FrozenDict(
        channel_base=32768, channel_max=512, conv_clamp=256.0
    )
    mapping: FrozenDict[str, Any] = FrozenDict(num_layers=2)
    return StyleGAN2(32, c_dim=c_dim, mapping_kwargs=mapping, synthesis_kwargs=synthesis)
