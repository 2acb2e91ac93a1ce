"""Guidance: a denoiser led away from a weaker one, D = D₋ + s (D₊ − D₋).

D₋ is the denoiser without its condition (Ho and Salimans 2022, arXiv:2207.12598), or a weaker
network (autoguidance, Karras et al. 2024, arXiv:2406.02507). As x₀ is linear in ε, in v and in a
velocity at a given point and noise level, it is the same to guide any of these.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array, Params

NEGATIVE = "negative"  # name of the weaker network's parameters, among what an update reads


class Pair(NamedTuple):
    """Parameters of a network that is guided by another.

    Attributes:
      network: of the network.
      negative: of the weaker one.
    """

    network: Params
    negative: Params


def paired(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Put the weaker network's parameters, if there are any, beside the teacher's.

    Args:
      inputs: what an update reads, by name.
    """
    if NEGATIVE not in inputs:
        return dict(inputs)
    rest = {name: each for name, each in inputs.items() if name != NEGATIVE}
    return {**rest, "teacher": Pair(inputs["teacher"], inputs[NEGATIVE])}


@dataclasses.dataclass(frozen=True, eq=False)
class Guided:
    """Guided denoiser, called as the one that it guides, all else being that one's.

    Attributes:
      denoiser: D₊.
      scale: s; 1 for no guidance.
      null: condition of one example that stands for none; None with `negative`.
      negative: the weaker denoiser; parameters are then a `Pair`.
      low: least noise level that is guided, in the units of the data (Kynkäänniemi et al. 2024,
        arXiv:2404.07724); at others D is D₊.
      high: greatest such level.
    """

    denoiser: Any
    scale: float
    null: Any = None
    negative: Any = None
    low: float = 0.0
    high: float = math.inf

    def __getattr__(self, name: str) -> Any:
        """Look up all else of the denoiser's."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.denoiser, name)

    @property
    def record(self) -> dict[str, Any]:
        """Description of the guidance, for files that hold samples or numbers of them."""
        way = "a weaker network" if self.negative is not None else "no condition"
        return {"scale": self.scale, "interval": [self.low, self.high], "from": way}

    def __call__(
        self, params: Params, x: Array, sigma: Array, labels: Any = None, **options: Any
    ) -> Array:
        """Denoise, as `interfaces.Denoiser` says.

        Args:
          params: of the denoiser, or a `Pair`.
          x: [B, ...] noisy data.
          sigma: [B].
          labels: conditions, a pytree of [B, ...], or None.
          **options: of the denoiser: `augment_labels`, `train`, `rng`, the same for both answers.

        Returns:
          [B, ...] float32.
        """
        own = params.network if self.negative is not None else params
        given = self.denoiser(own, x, sigma, labels=labels, **options)
        return self._away(params, given, x, sigma, labels, options)

    def features(
        self, params: Params, x: Array, sigma: Array, labels: Any = None, **options: Any
    ) -> tuple[Array, tuple[Array, ...]]:
        """Denoise, and give what the encoder of D₊ made of x; see `NetworkDenoiser.features`."""
        own = params.network if self.negative is not None else params
        given, levels = self.denoiser.features(own, x, sigma, labels=labels, **options)
        return self._away(params, given, x, sigma, labels, options), levels

    def _away(
        self, params: Params, given: Array, x: Array, sigma: Array, labels: Any, options: Any
    ) -> Array:
        if self.negative is not None:
            negative, weaker = self.negative, params.negative
            without = labels if negative.cond is not None else None
            if not negative.augment_dim:
                options = {name: each for name, each in options.items() if name != "augment_labels"}
        else:
            negative, weaker = self.denoiser, params
            without = jax.tree.map(
                lambda leaf, null: jnp.broadcast_to(jnp.asarray(null, leaf.dtype), leaf.shape),
                labels,
                self.null,
            )
        below = negative(weaker, x, sigma, labels=without, **options)
        guided = below + self.scale * (given - below)
        if self.low <= 0 and math.isinf(self.high):
            return guided
        is_in = (sigma >= self.low) & (sigma <= self.high)
        return jnp.where(is_in.reshape(-1, *[1] * (x.ndim - 1)), guided, given)
