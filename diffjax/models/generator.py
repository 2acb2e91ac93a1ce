"""Generators: one-step maps from noise to data."""

import dataclasses

import chex
import jax.numpy as jnp

from diffjax.interfaces import Array, Denoiser, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class DenoiserGenerator:
    """One-step generator G(z) = D_θ(σ_init z; σ_init) (Zhou et al. 2024, section 4).

    Attributes:
      denoiser: D, whose parameters the generator has.
      init_sigma: σ_init; 2.5 in SiD, 1.0 in Diff-Instruct's released code.
    """

    denoiser: Denoiser
    init_sigma: float

    def __call__(
        self,
        params: Params,
        z: Array,
        *,
        labels: Array | None = None,
        train: bool = False,
        rng: PRNGKey | None = None,
    ) -> Array:
        """Generate, as `interfaces.Generator` says.

        Args:
          params: of the denoiser.
          z: [B, ...] latents ~ N(0, I), of rank 2 to 4.
          labels: [B, K] one-hot classes, or None.
          train: whether dropout is on; it then needs `rng`.
          rng: key of the dropout masks.

        Returns:
          [B, ...] float32 data, images being [B, H, W, C] in [-1, 1].
        """
        chex.assert_rank(z, {2, 3, 4})
        sigma = jnp.full((z.shape[0],), self.init_sigma, jnp.float32)
        return self.denoiser(
            params, self.init_sigma * z, sigma, labels=labels, train=train, rng=rng
        )
