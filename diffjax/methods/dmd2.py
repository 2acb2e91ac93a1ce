"""DMD2, improved distribution matching distillation (Yin et al., NeurIPS 2024, arXiv:2405.14867).

    repeat:
      x = G_θ(z)
      θ: follow the gradient of  mean ½ (x − sg(x − w (D_ψ − D_φ)))² + 3e-3 softplus(−ℓ(x + σ'n'))
      ψ: five times, the first with that x, then with new ones, and each with new real x_r:
         follow the gradient of  mean λ(σ) (D_ψ(x + σn; σ) − x)²
                                 + 1e-2 (softplus(ℓ(x + σ'n')) + softplus(−ℓ(x_r + σ"n")))

where ℓ is a head on the encoder of D_ψ, and ψ holds that head.
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
from diffjax.methods.denoising import diffuse
from diffjax.methods.draws import Draws
from diffjax.methods.generator_first import ADAMW, GeneratorFirst
from diffjax.methods.score_distillation import ScoreDistillation
from diffjax.methods.settings import COUNT, FLAG, NOT_NEGATIVE, WIDTH, setting
from diffjax.networks.discriminator_head import DiscriminatorHeads

# AdamW as published, gradients clipped by their norm.
FIELDS = {**ADAMW, "max_grad_norm": 10.0, "rampup_kimg": 0.0}


@register("dmd2")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DMD2(GeneratorFirst):
    """DMD2 as its released training loop for EDM's networks runs it.

    Losses are means over the elements of an example, so that published weights, rates and greatest
    norms hold as they are. All networks have dropout on.

    Attributes:
      gan_scale: factor on the generator's adversarial term; 3e-3 is published.
      discriminator_scale: factor on the fake score's; 1e-2 is published.
      fake_score_updates: updates of the fake score an update of the generator; 5 is published.
      share_samples: whether the first of them learns from the generator's samples, as published.
      noised_gan: whether the discriminator sees noisy data, of any noise level, as published;
        otherwise clean data, at the least level.
      head_channels: of the head's hidden layers; 0 for those of the encoder. 768 is published.
    """

    discriminator_scale: float = setting(1e-2, NOT_NEGATIVE, field="fake_score.gan_scale")
    fake_score_updates: int = setting(5, COUNT, field="fake_score.updates")
    share_samples: bool = setting(True, FLAG)
    noised_gan: bool = setting(True, FLAG)
    head_channels: int = setting(0, WIDTH)

    learners: ClassVar = (
        Learner("generator", averaged=True, fields=FIELDS),
        Learner("fake_score", fields=FIELDS, has_head=True),
    )
    shown: ClassVar = {**ScoreDistillation.shown, "gan": "gan", "discriminator": "judge"}
    fake_reports: ClassVar = ("discriminator",)
    generator_reports: ClassVar = ("delta", "gan")
    generator_indices: ClassVar = (20, 980)
    fake_score_indices: ClassVar = (0, 999)

    def idle(self) -> dict[str, str]:
        """List augmentation, which isn't published for it."""
        return {"augment_probability": "DMD2's fake score learns from samples as they are"}

    @classmethod
    def head(cls, settings: Mapping[str, Any]) -> nn.Module:
        """Make a head on the encoder's last level."""
        return DiscriminatorHeads(channels=settings["head_channels"])

    def turns(self) -> tuple[Turn, ...]:
        """List the generator's turn, then the fake score's, with dropout in the generator."""
        generator, fake_score = super().turns()
        return generator, dataclasses.replace(fake_score, samples=self.training_samples)

    def generator_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Distribution matching of each sample, and passing for a real one, [B]."""
        y = diffuse(jax.lax.stop_gradient(x), draws)
        d_teacher, d_fake, delta = self.scores(params, y, draws, train=True)
        matching = losses.dmd(x, d_teacher, d_fake) / x[0].size
        logits = self._logits(params, x, draws, "gan", draws.labels)
        adversarial = losses.gan_generator(logits)
        return matching + self.gan_scale * adversarial, {**delta, "gan": adversarial}

    def fake_score_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Denoising of each generated example, and telling it from a real one, [B]."""
        assert draws.real is not None, "DMD2's fake score sees real examples"
        denoised = self.networks["fake_score"](
            params["fake_score"],
            diffuse(jax.lax.stop_gradient(x), draws),
            draws.sigma,
            labels=draws.labels,
            train=True,
            rng=draws.dropout,
        )
        weight = noise.edm_weight(draws.sigma, self.sigma_data)
        of_score = losses.denoising(x, denoised, weight=weight) / x[0].size
        real = self._logits(params, draws.real, draws, "real", draws.real_labels)
        fake = self._logits(params, jax.lax.stop_gradient(x), draws, "gan", draws.labels)
        told = losses.gan_discriminator(real, fake)
        return of_score + self.discriminator_scale * told, {"discriminator": told}

    def with_more(self, key: PRNGKey, draws: dict[str, Draws]) -> dict[str, Draws]:
        """Draw noise for what the discriminator sees."""
        found = dict(draws)
        for index, (name, of) in enumerate(
            (("generator", "gan"), ("fake_score", "gan"), ("fake_score", "real"))
        ):
            own_key = jax.random.fold_in(key, index)
            found[name] = self.with_noise(own_key, found[name], of, self.fake_score_sigma())
        return found

    def _logits(self, params: AllParams, x: Array, draws: Draws, of: str, labels: Any) -> Array:
        sigma = draws.more[f"{of}_sigma"]
        y = x
        if self.noised_gan:
            y = x + sigma.reshape(-1, *[1] * (x.ndim - 1)) * draws.more[f"{of}_noise"]
        else:
            sigma = jnp.full_like(sigma, self._grid(0, 0).at(jnp.zeros((), jnp.int32)))
        rng = jax.random.fold_in(draws.dropout, 1 + ("gan", "real").index(of))
        return self.judged(params, y, sigma, labels, train=True, rng=rng)[1]
