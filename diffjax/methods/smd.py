"""SMD, score of mixture distillation (Jayashankar et al., ICML 2025, arXiv:2502.09609).

    repeat:
      θ: x = G_θ(z), α ∈ {0.5, ..., 1};  follow
         −∇_θ [ mean ½ (x − sg(x − w D_α/α (D_ψ − D_φ)))² + 3e-3 softplus(−ℓ_α(y)) ]
      ψ: five times, the first with the x above, then with new ones, and real x_r, α ∈ {0, ..., 1}:
         follow  −∇_ψ [ mean λ(σ) (D_ψ(x + σn; σ) − x)² + critic(ℓ; y, y_r, α) ]

where ℓ is a head on the encoder of D_ψ, ℓ_α = ℓ + log(α/(1 − α)) and D_α = sigmoid(ℓ_α); the critic
is `losses.smd_critic`, a regression by which ℓ becomes the logarithm of the density ratio.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion import noise
from diffjax.interfaces import Array, PRNGKey
from diffjax.methods.base import AllParams, Learner, Turn, Values, register
from diffjax.methods.denoising import denoising_losses, diffuse
from diffjax.methods.draws import Draws
from diffjax.methods.generator_first import ADAMW, GeneratorFirst
from diffjax.methods.score_distillation import ScoreDistillation, mean_difference
from diffjax.methods.settings import COUNT, FLAG, WIDTH, setting
from diffjax.networks.discriminator_head import DiscriminatorHeads

_SKEWS = 1000  # skews are shares of it
_POINT_MASS = 0.25  # how often the critic's skew is 0
_FIELDS = {**ADAMW, "max_grad_norm": 10.0}


@register("smd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SMD(GeneratorFirst):
    """SMD as its released code is meant to run; as released it stops before the first update.

    All networks have dropout on, and real examples get the noise of the generated ones.

    Attributes:
      gan_scale: factor on the generator's adversarial term; 3e-3 is published.
      fake_score_updates: updates of the fake score an update of the generator; 5 is published.
      share_samples: whether the first of them learns from the generator's samples, as published.
      joint_training: whether the head's losses reach the encoder: the critic trains it then, and
        the adversarial term the generator. The released code reads this and sets it nowhere.
      head_channels: of the head's hidden layers; 0 for those of the encoder, as on CIFAR-10.
    """

    fake_score_updates: int = setting(5, COUNT, field="fake_score.updates")
    share_samples: bool = setting(True, FLAG)
    joint_training: bool = setting(True, FLAG)
    head_channels: int = setting(0, WIDTH)

    learners: ClassVar = (
        Learner("generator", averaged=True, fields=_FIELDS),
        Learner("fake_score", fields=_FIELDS, has_head=True),
    )
    shown: ClassVar = {**ScoreDistillation.shown, "gan": "gan", "critic": "critic"}
    fake_reports: ClassVar = ("critic",)
    generator_reports: ClassVar = ("delta", "gan")
    generator_indices: ClassVar = (20, 980)
    fake_score_indices: ClassVar = (0, 999)

    def idle(self) -> dict[str, str]:
        """List the factor of a gradient that ends at the head."""
        why = "joint_training=False keeps the adversarial term from the generator"
        return {} if self.joint_training else {"generator.gan_scale": why}

    @classmethod
    def head(cls, settings: Mapping[str, Any]) -> nn.Module:
        """Make a head on the encoder's last level."""
        return DiscriminatorHeads(channels=settings["head_channels"])

    def turns(self) -> tuple[Turn, ...]:
        """List the generator's turn, then the fake score's, with dropout in the generator."""
        generator, fake_score = super().turns()
        return generator, dataclasses.replace(fake_score, samples=self.training_samples)

    def generator_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Matching of each sample, and passing for a real one, [B]."""
        y, skew, options = diffuse(x, draws), draws.more["skew"], self._in_training(draws, 0)
        d_fake, logits = self._asked(params, y, draws.sigma, draws.labels, options)
        d_teacher = self.networks["teacher"](
            params["teacher"], jax.lax.stop_gradient(y), draws.sigma, labels=draws.labels, **options
        )
        matching = losses.smd(x, d_teacher, d_fake, logits, skew=skew) / x[0].size
        adversarial = losses.gan_generator(losses.skewed_logits(logits, skew))
        figures = {"delta": mean_difference(d_teacher, d_fake), "gan": adversarial}
        return matching + self.gan_scale * adversarial, figures

    def fake_score_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Denoising of each generated example, and the critic's regression, [B]."""
        assert draws.real is not None, "SMD's critic sees real examples"
        fake_score, x = self.networks["fake_score"], jax.lax.stop_gradient(x)
        of_score = denoising_losses(fake_score, params["fake_score"], x, draws, self.sigma_data)
        critic = self._critic(params, x, draws, draws.labels, real=False)
        critic += self._critic(params, draws.real, draws, draws.real_labels, real=True)
        return (of_score + critic) / x[0].size, {"critic": critic / x[0].size}

    def with_more(self, key: PRNGKey, draws: dict[str, Draws]) -> dict[str, Draws]:
        """Draw skews, and the critic's noise."""
        generator, fake_score = draws["generator"], draws["fake_score"]
        fake_score = self.with_noise(key, fake_score, "critic", self.fake_score_sigma())
        half_key, all_key, zero_key = jax.random.split(jax.random.fold_in(key, 1), 3)

        def skews(key: PRNGKey, like: Draws, least: int) -> Array:
            index = jax.random.randint(key, like.sigma.shape, least, _SKEWS + 1, jnp.int32)
            return index.astype(jnp.float32) / _SKEWS

        upper = skews(half_key, generator, _SKEWS // 2)
        fair = jnp.float32(_POINT_MASS)  # whose type decides the draws
        is_zero = jax.random.bernoulli(zero_key, fair, fake_score.sigma.shape)
        every = jnp.where(is_zero, 0.0, skews(all_key, fake_score, 0))
        return {
            "generator": dataclasses.replace(generator, more={**generator.more, "skew": upper}),
            "fake_score": dataclasses.replace(fake_score, more={**fake_score.more, "skew": every}),
        }

    def _critic(
        self, params: AllParams, x: Array, draws: Draws, labels: Any, *, real: bool
    ) -> Array:
        """The critic's regression on real or generated examples, [B], summed over elements."""
        sigma, options = draws.more["critic_sigma"], self._in_training(draws, 1 + real)
        y = diffuse(x, dataclasses.replace(draws, sigma=sigma, noise=draws.more["critic_noise"]))
        d_fake, logits = self._asked(params, y, sigma, labels, options)
        d_teacher = self.networks["teacher"](params["teacher"], y, sigma, labels=labels, **options)
        weight = noise.edm_weight(sigma, self.sigma_data)
        skew = draws.more["skew"]
        return losses.smd_critic(d_teacher, d_fake, logits, skew=skew, real=real, weight=weight)

    def _asked(
        self, params: AllParams, y: Array, sigma: Array, labels: Any, options: Mapping[str, Any]
    ) -> tuple[Array, Array]:
        """Fake score and logits at noisy data."""
        network = params["fake_score"]
        d_fake, features = self.networks["features"](network, y, sigma, labels=labels, **options)
        if not self.joint_training:
            features = jax.lax.stop_gradient(features)
        return d_fake, self.networks["head"](network, features)

    def _in_training(self, draws: Draws, index: int) -> dict[str, Any]:
        """Dropout on, with another mask for each index."""
        return {"train": True, "rng": jax.random.fold_in(draws.dropout, 1 + index)}
