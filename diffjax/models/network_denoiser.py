"""Denoisers of our own networks: a network and its preconditioning, bound as a `Denoiser`."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion import preconditioning
from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA
from diffjax.diffusion.process import Process
from diffjax.interfaces import Array, Params, PRNGKey
from diffjax.models import conditions
from diffjax.models.teacher import CondLaw, Teacher
from diffjax.networks import edm2_layers, layers
from diffjax.networks.edm2 import EDM2UNet


@dataclasses.dataclass(frozen=True)
class NetworkDenoiser:
    """Denoiser D(x; σ) = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, equation 7).

    Parameters are `{"params": …, "buffers": …}`. Buffers (Fourier frequencies, iDDPM's table) are
    held constant by the networks, so their gradient is zero and Adam leaves them as they are.

    Attributes:
      network: F, called as `SongUNet` is.
      preconditioning: σ -> scalings.
      image_shape: (H, W, C) of the data.
      label_dim: number of classes; 0 for an unconditional denoiser.
      is_latent: whether examples are an autoencoder's latents, not images.
    """

    network: nn.Module
    preconditioning: preconditioning.Preconditioning
    image_shape: tuple[int, int, int]
    label_dim: int = 0
    is_latent: bool = False

    @property
    def augment_dim(self) -> int:
        """Number of augmentation labels; 0 for none."""
        return self.network.augment_dim

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example, (H, W, C)."""
        return self.image_shape

    @property
    def cond(self) -> CondLaw | None:
        """Law of the conditions, all classes uniformly; None: unconditional."""
        return conditions.one_hot(self.label_dim) if self.label_dim else None

    @property
    def null(self) -> np.ndarray | None:
        """Condition that stands for none: zeros, if the network has learnt it; else None."""
        # A transformer says so by its table of embeddings, others by the labels that were dropped.
        has_learnt = getattr(self.network, "null_class", bool(self.network.label_dropout))
        return np.zeros(self.label_dim, np.float32) if self.label_dim and has_learnt else None

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data, as the preconditioning has it; 0.5 where it has none."""
        return getattr(self.preconditioning, "sigma_data", PUBLISHED_SIGMA_DATA)

    @property
    def process(self) -> Process | None:
        """Diffusion process that the network was trained on: SiT's or DiT's; None for EDM's."""
        return getattr(self.preconditioning, "process", None)

    @property
    def dtype(self) -> Any:
        """Type of the network's computation."""
        return self.network.dtype

    @property
    def holds_images(self) -> bool:
        """Whether examples are images in [-1, 1], as they are unless they are latents."""
        return not self.is_latent

    @property
    def preview(self) -> None:
        """Function that draws examples: None, images are drawn as they are."""
        return None

    def gain(self, sigma: float) -> float:
        """Output per unit of the network's output, which for EDM's saturates at sigma_data."""
        own = getattr(self.preconditioning, "gain", None)
        return self.sigma_data if own is None else own(sigma)

    @property
    def sigma_min(self) -> float:
        """Least noise level of the preconditioning."""
        return self.preconditioning.sigma_min

    @property
    def sigma_max(self) -> float:
        """Greatest noise level of the preconditioning."""
        return self.preconditioning.sigma_max

    def as_teacher(self, params: Params, *, classes: Sequence[int] = ()) -> Teacher:
        """Give this denoiser as the record that anyone's teacher is.

        Noise levels are those of EDM's sampler, 0.002 to 80, within the preconditioning's range.

        Args:
          params: of this denoiser; its buffers are not trained.
          classes: those that are drawn; () for all.
        """

        def denoise(params: Params, y: Array, sigma: Array, cond: Any) -> Array:
            return self(params, y, sigma, labels=cond)

        return Teacher(
            denoise=denoise,
            params=params,
            shape=self.image_shape,
            sigma_data=self.sigma_data,
            sigma_min=max(self.sigma_min, 0.002),
            sigma_max=min(self.sigma_max, 80.0),
            cond=conditions.one_hot(self.label_dim, classes) if self.label_dim else None,
            process=self.process,
            gain=self.gain,
            trainable=lambda path, leaf: path[0] != "buffers",
            null=self.null,
        )

    def round_sigma(self, sigma: np.ndarray) -> np.ndarray:
        """Round noise levels to the nearest that the network knows: iDDPM's table, else any."""
        return self.preconditioning.round_sigma(sigma)

    def init(self, rng: PRNGKey) -> Params:
        """Draw fresh parameters, float32, as `{"params": …, "buffers": …}`."""
        image = jnp.zeros((1, *self.image_shape), jnp.float32)
        labels = jnp.zeros((1, self.label_dim), jnp.float32) if self.label_dim else None
        variables = self.network.init(rng, image, jnp.zeros(1, jnp.float32), labels)
        buffers = {**variables.get("buffers", {}), **self.preconditioning.buffers()}
        return {"params": variables["params"], "buffers": buffers}

    def abstract_params(self) -> Params:
        """Tree of parameters as `jax.ShapeDtypeStruct`s, without computing any."""
        # Of the function alone, so that a run traces a network for them once.
        abstract = _abstract_params(self.function())
        return jax.tree.map(lambda leaf: leaf, abstract)  # a tree of the caller's own

    def function(self) -> "NetworkDenoiser":
        """Denoiser without what decides only how it is computed or trained.

        Two that give equal values, up to rounding, for equal parameters have equal ones of these.
        """
        is_edm2 = isinstance(self.network, EDM2UNet)
        trained: dict[str, Any] = {"force_normalization": True} if is_edm2 else {}
        network = self.network.clone(
            dtype=jnp.float32,
            dropout=0.0,
            label_dropout=0.0,
            attention="xla",
            rematerialize=False,
            **trained,
        )
        return dataclasses.replace(self, network=network)

    def differences(self, other: "NetworkDenoiser") -> list[str]:
        """List the settings by which another denoiser is another function, `name: own -> other`."""
        own, theirs = (_settings(each.function()) for each in (self, other))
        return [
            f"{name}: {own.get(name)} -> {theirs.get(name)}"
            for name in sorted(own.keys() | theirs.keys())
            if own.get(name) != theirs.get(name)
        ]

    def __call__(
        self,
        params: Params,
        x: Array,
        sigma: Array,
        labels: Array | None = None,
        augment_labels: Array | None = None,
        *,
        train: bool = False,
        rng: PRNGKey | None = None,
    ) -> Array:
        """Denoise, as `interfaces.Denoiser` says.

        Args:
          params: of this denoiser, as `init` gives them.
          x: [B, H, W, C], images in [-1, 1] plus noise.
          sigma: [B] noise levels, in the units of x.
          labels: [B, label_dim] one-hot classes; None asks for the unconditional answer.
          augment_labels: [B, augment_dim]; None means unaugmented.
          train: whether dropout is on, which then needs `rng`, and EDM2's weights are overwritten.
          rng: key of the dropout masks.

        Returns:
          [B, H, W, C] float32.

        Raises:
          ValueError: integers, or other channels, or labels or augmentation labels that the network
            doesn't take.
        """
        return self._denoise(params, x, sigma, labels, augment_labels, train, rng)[0]

    def features(
        self,
        params: Params,
        x: Array,
        sigma: Array,
        labels: Array | None = None,
        augment_labels: Array | None = None,
        *,
        train: bool = False,
        rng: PRNGKey | None = None,
    ) -> tuple[Array, tuple[Array, ...]]:
        """Denoise, and give what the encoder made of x, for a discriminator to judge.

        Args:
          params: as of a call, like all others.
          x: [B, H, W, C].
          sigma: [B].
          labels: [B, label_dim] or None.
          augment_labels: [B, augment_dim] or None.
          train: whether dropout is on.
          rng: key of the dropout masks.

        Returns:
          (D, one [B, h, w, c] a level of the encoder, its last output, the coarsest level last).
        """
        return self._denoise(params, x, sigma, labels, augment_labels, train, rng, True)

    def _denoise(
        self,
        params: Params,
        x: Array,
        sigma: Array,
        labels: Array | None,
        augment_labels: Array | None,
        train: bool,
        rng: PRNGKey | None,
        with_features: bool = False,
    ) -> tuple[Array, tuple[Array, ...]]:
        chex.assert_rank([x, sigma], [4, 1])
        chex.assert_equal_shape_prefix([x, sigma], 1)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"x is {x.dtype}, not floats: images of bytes are x / 127.5 - 1 first."
            )
        if x.shape[-1] != self.image_shape[-1]:
            raise ValueError(f"x is {[*x.shape]}, not [B, H, W, {self.image_shape[-1]}].")
        labels = self._labels(labels, x.shape[0])
        if augment_labels is not None:
            if not self.augment_dim:
                raise ValueError("augment_labels given to a denoiser with augment_dim 0.")
            chex.assert_shape(augment_labels, (x.shape[0], self.augment_dim))
        x, sigma = x.astype(jnp.float32), sigma.astype(jnp.float32)
        scalings = self.preconditioning(sigma, params["buffers"])
        c_skip, c_out, c_in = (c[:, None, None, None] for c in scalings[:3])
        network_buffers = {k: v for k, v in params["buffers"].items() if k != "u"}
        out: Any = self.network.apply(
            {"params": params["params"], "buffers": network_buffers},
            c_in * x,
            scalings.c_noise,
            labels,
            augment_labels,
            train=train,
            rngs=None if rng is None else {"dropout": rng},
            mutable=[layers.FEATURES] if with_features else False,
        )
        levels: tuple[Array, ...] = ()
        if with_features:
            out, kept = out
            sown = kept[layers.FEATURES]
            levels = tuple(sown[f"level{i}"][0] for i in range(len(sown)))
        # ADM under iDDPM also predicts a variance, in the channels after the image's.
        out = out[..., : x.shape[-1]].astype(jnp.float32)
        return c_skip * x + c_out * out, levels

    @property
    def has_log_variance(self) -> bool:
        """Whether the network predicts the log-variance of its loss, as EDM2's do."""
        return isinstance(self.network, EDM2UNet)

    def log_variance(self, params: Params, sigma: Array, *, train: bool = False) -> Array:
        """Log-variance u(σ) of the denoising loss, by which EDM2's loss is weighted.

        Args:
          params: of this denoiser.
          sigma: [B] noise levels.
          train: whether weights are overwritten, as in `__call__`.

        Returns:
          [B] float32.

        Raises:
          ValueError: the network predicts none.
        """
        if not isinstance(self.network, EDM2UNet):
            raise ValueError(f"{type(self.network).__name__} predicts no log-variance of its loss.")
        chex.assert_rank(sigma, 1)
        c_noise = self.preconditioning(sigma.astype(jnp.float32), params["buffers"]).c_noise
        return self.network.log_variance(params, c_noise, train=train)

    @property
    def has_own_loss(self) -> bool:
        """Whether the network is trained by the loss of its diffusion process, as SiT and DiT."""
        return hasattr(self.preconditioning, "training_sigma")

    def training_sigma(self, key: PRNGKey, shape: Sequence[int]) -> Array:
        """Noise levels of the network's own loss, where it has one; uniform in its time.

        Args:
          key: of the draw.
          shape: of the levels.
        """
        levels: Array = self.preconditioning.training_sigma(key, shape)  # type: ignore[attr-defined]
        return levels

    def own_weight(self, params: Params, sigma: Array) -> Array:
        """Weight 1/c_out² by which the loss of D is that of the network's prediction, [B].

        Args:
          params: of this denoiser.
          sigma: [B].
        """
        return 1 / jnp.square(self.preconditioning(sigma, params["buffers"]).c_out)

    @property
    def overwrites_weights(self) -> bool:
        """Whether a training pass overwrites weights, so that `normalized` changes something."""
        return bool(getattr(self.network, "force_normalization", False))

    def normalized(self, params: Params) -> Params:
        """Parameters as a training forward pass leaves them, a pure function.

        EDM2's weights are overwritten by their normalised selves, from which its optimiser steps;
        other networks' parameters stay as they are.

        Args:
          params: of this denoiser.
        """
        if not self.overwrites_weights:
            return params
        return {**params, "params": edm2_layers.normalized_weights(params["params"])}

    @property
    def prepares_weights(self) -> bool:
        """Whether weights are computed from parameters alone, so that `prepared` adds something."""
        return isinstance(self.network, EDM2UNet)

    def prepared(self, params: Params) -> Params:
        """Parameters with what a training pass would compute of them alone, a pure function.

        Training passes take either. EDM2's normalised weights are added; other networks'
        parameters stay as they are.

        Args:
          params: of this denoiser.
        """
        if not isinstance(self.network, EDM2UNet):
            return params
        return {**params, "params": self.network.prepared(params["params"])}

    def _labels(self, labels: Array | None, batch: int) -> Array | None:
        if labels is None:
            if self.label_dim and not getattr(self.network, "null_class", True):
                raise ValueError(
                    "labels are needed: the network has no embedding of no class (null_class)."
                )
            return jnp.zeros((batch, self.label_dim), jnp.float32) if self.label_dim else None
        if not self.label_dim:
            raise ValueError("labels given to an unconditional denoiser (label_dim 0).")
        chex.assert_shape(labels, (batch, self.label_dim))
        return labels.astype(jnp.float32)


def _settings(denoiser: NetworkDenoiser) -> dict[str, Any]:
    """All that a denoiser was made of, by name."""
    network, preconditioning = denoiser.network, denoiser.preconditioning
    names = [field.name for field in dataclasses.fields(network)]
    return {
        "network": type(network).__name__,
        "preconditioning": type(preconditioning).__name__,
        "image_shape": denoiser.image_shape,
        "label_dim": denoiser.label_dim,
        **{name: getattr(network, name) for name in names if name not in ("parent", "name")},
        **vars(preconditioning),
    }


@functools.cache
def _abstract_params(denoiser: NetworkDenoiser) -> Params:
    return jax.eval_shape(denoiser.init, jax.random.key(0))
