"""Denoising score matching on real data: how a teacher is trained.

Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022
(arXiv:2206.00364), Table 1 and appendix F.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion import augmentation as augment
from diffjax.diffusion import noise
from diffjax.interfaces import Array, Params, PRNGKey
from diffjax.methods.base import AllParams, Learner, Method, Turn, Values, register
from diffjax.methods.draws import Dataset, Draws, once, real_batch
from diffjax.methods.settings import FLAG, SHARE, setting

# (params, sigma [B], train=) -> u(σ) [B], as `NetworkDenoiser.log_variance`.
LogVariance = Callable[..., Array]


def diffuse(x: Array, draws: Draws) -> Array:
    """Noisy data y = x + σ n, [B, ...].

    Args:
      x: [B, ...] clean data.
      draws: σ [B] and n [B, ...] of a round.
    """
    return x + draws.sigma.reshape(-1, *[1] * (x.ndim - 1)) * draws.noise


class Noisy(NamedTuple):
    """Data for a denoiser to learn from.

    Attributes:
      x: [B, ...] clean data, augmented if the draws say so; no gradient flows through it.
      y: [B, ...] the same with noise on it.
      augment_labels: [B, 9] what augmentation did; None for none.
    """

    x: Array
    y: Array
    augment_labels: Array | None


def noisy(x: Array, draws: Draws) -> Noisy:
    """Augment data and put noise on them, for a denoiser to learn from.

    Args:
      x: [B, ...] clean data, held constant.
      draws: of a round.
    """
    augment_labels = None
    if draws.augmentation is not None:
        x, augment_labels = augment.apply(x, draws.augmentation)
    x = jax.lax.stop_gradient(x)
    return Noisy(x, diffuse(x, draws), augment_labels)


def denoised(denoiser: Callable[..., Array], params: Params, data: Noisy, draws: Draws) -> Array:
    """Estimate of a denoiser in training mode, D(y; σ) [B, ...].

    Args:
      denoiser: D.
      params: its parameters.
      data: what it is to denoise.
      draws: of a round, which made `data`.
    """
    return denoiser(
        params,
        data.y,
        draws.sigma,
        labels=draws.labels,
        augment_labels=data.augment_labels,
        train=True,
        rng=draws.dropout,
    )


def denoising_losses(
    denoiser: Callable[..., Array],
    params: Params,
    x: Array,
    draws: Draws,
    sigma_data: float = noise.PUBLISHED_SIGMA_DATA,
    weight: Array | None = None,
    log_variance: LogVariance | None = None,
) -> Array:
    """EDM's loss λ(σ) ‖D(x + σn; σ) − x‖² of each example, [B], D in training mode.

    Args:
      denoiser: D.
      params: its parameters.
      x: [B, ...] clean data, held constant.
      draws: of a round; with augmentation, x is augmented and D is told.
      sigma_data: standard deviation of the data, for the weight.
      weight: [B], in place of EDM's λ(σ).
      log_variance: u of the loss, by which EDM2 weights it; None for none.
    """
    data = noisy(x, draws)
    if weight is None:
        weight = noise.edm_weight(draws.sigma, sigma_data)
    u = None if log_variance is None else log_variance(params, draws.sigma, train=True)
    d = denoised(denoiser, params, data, draws)
    return losses.denoising(data.x, d, weight=weight, log_variance=u)


@register("denoising")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(Method):
    """EDM's training of a denoiser on real images, or SiT's and DiT's of theirs.

    Attributes:
      augment_probability: of each of EDM's augmentations; 0 for none.
      x_flip: whether half of the images are mirrored left to right.
      in_order: whether data is a stream's batch, taken as it comes, mirrored already.
      p_mean: mean of ln σ, σ for data of standard deviation 0.5.
      p_std: standard deviation of ln σ.
      uncertainty_weighting: whether the network's own log-variance weighs its loss, as EDM2's does
        (Karras et al. 2024, arXiv:2312.02696, section 2.2). `networks` then have "log_variance".
      own_loss: whether the loss is that of what the network predicts along its own process, at
        times uniform over it: SiT's of the velocity (Ma et al. 2024, arXiv:2401.08740), DiT's of
        the noise. It is a sum over an example's numbers, of which theirs is the mean.
    """

    augment_probability: float = setting(0.0, SHARE)
    x_flip: bool = setting(False, FLAG)
    in_order: bool = False
    p_mean: float = noise.LogNormal.mean
    p_std: float = noise.LogNormal.std
    uncertainty_weighting: bool = False
    own_loss: bool = False

    weighs_by_uncertainty: ClassVar = True
    takes_own_loss: ClassVar = True
    learners: ClassVar = (
        Learner("denoiser", starts_as="fresh", averaged=True, optimizer="optimizer"),
    )
    reads: ClassVar = ("data",)
    samples_from: ClassVar = "denoiser"
    sampled_by: ClassVar = "heun"
    shown: ClassVar = {"loss": "loss"}
    suspects: ClassVar = ("optimizer.learning_rate", "optimizer.max_grad_norm")

    def idle(self) -> dict[str, str]:
        """List settings of noise levels that a network with a loss of its own doesn't draw."""
        if not self.own_loss:
            return {}
        why = "SiT and DiT learn at times of their own process"
        return dict.fromkeys(("edm2.p_mean", "edm2.p_std"), why)

    def turns(self) -> tuple[Turn, ...]:
        """List the one turn: real images, and how well noise is taken off them."""
        return (Turn("denoiser", self.real_images, self.loss),)

    def real_images(self, params: AllParams, draws: Draws) -> Array:
        """Real images of a round, [B, ...]."""
        del params
        assert draws.real is not None
        return draws.real

    def loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """EDM's loss of each image, or the network's own, [B]."""
        u = self.networks["log_variance"] if self.uncertainty_weighting else None
        denoiser: Any = self.networks["denoiser"]
        own = params["denoiser"]
        weight = denoiser.own_weight(own, draws.sigma) if self.own_loss else None
        return denoising_losses(denoiser, own, x, draws, self.sigma_data, weight, u), {}

    def draw(self, key: PRNGKey, data: Dataset | None = None) -> dict[str, Draws]:
        """Draw the images and the randomness of an update."""
        assert data is not None, "denoising reads data"
        batch = self.batch
        data_key, sigma_key, noise_key, dropout_key, augment_key = jax.random.split(key, 5)
        x, labels = real_batch(data_key, data, batch, x_flip=self.x_flip, in_order=self.in_order)
        drawn = None
        if self.augment_probability:
            drawn = augment.draw(augment_key, batch.size, p=self.augment_probability)
        levels: noise.SigmaDistribution = noise.LogNormal(self.p_mean, self.p_std).scaled(
            self.scale
        )
        if self.own_loss:
            levels = cast(Any, self.networks["denoiser"]).training_sigma
        sigma = levels(sigma_key, (batch.size,))
        rounds = batch.rounds
        keys = dropout_key[None] if rounds == 1 else jax.random.split(dropout_key, rounds)
        normals = jax.random.normal(noise_key, x.shape, jnp.float32)
        x, sigma, normals, labels, drawn = batch.in_rounds((x, sigma, normals, labels, drawn))
        draws = Draws(
            z=None,
            sigma=sigma,
            noise=normals,
            labels=labels,
            dropout=once(keys),
            augmentation=drawn,
            real=x,
        )
        return {"denoiser": draws}
