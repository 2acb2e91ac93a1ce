"""Discriminators that judge by what a denoiser's encoder makes of noisy data."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffjax.interfaces import Array, Params, PRNGKey

# (params, x, sigma, labels=, augment_labels=, train=, rng=) -> (D, features of each level).
Features = Callable[..., tuple[Array, tuple[Array, ...]]]


def channel_mean(params: Params, features: tuple[Array, ...]) -> Array:
    """Logits without a head: the mean over channels of the last level (SiDA).

    Args:
      params: not looked at.
      features: each [B, h, w, c], the coarsest last.

    Returns:
      [B, h, w] float32, a logit for each position.
    """
    del params
    return jnp.mean(features[-1].astype(jnp.float32), axis=-1)


def features_of(model: Any, name: str) -> Features:
    """Get the function of a denoiser that gives features too.

    Args:
      model: the denoiser.
      name: of it, for the error.

    Raises:
      ValueError: if it has none.
    """
    function: Features | None = getattr(model, "features", None)
    if function is None:
        raise ValueError(
            f"{name} offers no features for a discriminator to judge by: a denoiser has a method "
            "`features`, which gives (D, one array [B, h, w, c] a level of its encoder), or the "
            "method is one without a discriminator."
        )
    return function


@dataclasses.dataclass(frozen=True)
class Headed:
    """Denoiser with a discriminator's head, whose parameters are {"network": ..., "head": ...}.

    Attributes:
      denoiser: called with "network".
      module: (features) -> logits, such as `networks.discriminator_head.DiscriminatorHeads`.
      judged: the denoiser whose features the head takes.
    """

    denoiser: Any
    module: nn.Module
    judged: Any

    def __call__(self, params: Params, *arguments: Any, **options: Any) -> Array:
        """Denoise, as `interfaces.Denoiser` says."""
        denoised: Array = self.denoiser(params["network"], *arguments, **options)
        return denoised

    def features(
        self, params: Params, *arguments: Any, **options: Any
    ) -> tuple[Array, tuple[Array, ...]]:
        """Denoise, and give features of each level, the coarsest last."""
        return features_of(self.denoiser, "the fake score")(
            params["network"], *arguments, **options
        )

    def logits(self, params: Params, features: tuple[Array, ...]) -> Array:
        """Judge features, each [B, h, w, c], by logits [B, ...]."""
        logits: Any = self.module.apply({"params": params["head"]}, features)
        return jnp.asarray(logits)

    @property
    def overwrites_weights(self) -> bool:
        """Whether a training pass overwrites the denoiser's weights; see `NetworkDenoiser`."""
        return bool(getattr(self.denoiser, "overwrites_weights", False))

    def normalized(self, params: Params) -> Params:
        """Parameters as a training pass leaves them, those of the head as they are."""
        return {**params, "network": self.denoiser.normalized(params["network"])}

    @property
    def prepares_weights(self) -> bool:
        """Whether the denoiser's weights are computed from parameters; see `NetworkDenoiser`."""
        return bool(getattr(self.denoiser, "prepares_weights", False))

    def prepared(self, params: Params) -> Params:
        """Parameters with what a training pass would compute of the denoiser's alone."""
        return {**params, "network": self.denoiser.prepared(params["network"])}

    @property
    def levels(self) -> int:
        """Number of levels of the judged encoder."""
        return len(jax.eval_shape(self._features, self.judged.abstract_params()))

    def init_head(self, rng: PRNGKey) -> Params:
        """Draw fresh parameters of the head, float32."""
        shapes = jax.eval_shape(self._features, self.judged.abstract_params())
        features = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        params: Params = self.module.init(rng, features)["params"]
        return params

    def start(self, params: Params, rng: PRNGKey) -> Params:
        """Give a denoiser's parameters a fresh head."""
        return {"network": params, "head": self.init_head(rng)}

    def _features(self, params: Params) -> tuple[Array, ...]:
        x = jnp.zeros((1, *self.judged.shape), jnp.float32)
        labels = None
        if self.judged.label_dim:
            labels = jnp.zeros((1, self.judged.label_dim), jnp.float32)
        features: tuple[Array, ...] = self.judged.features(params, x, jnp.ones(1), labels)[1]
        return features
