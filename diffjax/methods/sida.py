"""SiDA, adversarial score identity distillation (Zhou et al., ICLR 2025, arXiv:2410.14919)."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion import augmentation as augment
from diffjax.diffusion import noise
from diffjax.diffusion.noise import SigmaDistribution
from diffjax.interfaces import Array, PRNGKey
from diffjax.methods.adversarial import Adversarial
from diffjax.methods.base import AllParams, Learner, Values, register
from diffjax.methods.denoising import diffuse
from diffjax.methods.draws import Draws
from diffjax.methods.score_distillation import ScoreDistillation, mean_difference
from diffjax.methods.settings import FINITE, NOT_NEGATIVE, POSITIVE, T_MAX, setting


class Asked(NamedTuple):
    """Numbers that a generator's loss is made of.

    Attributes:
      x: [B, ...] samples.
      d_teacher: [B, ...] D_φ(x + σn; σ).
      d_fake: [B, ...] D_ψ(x + σn; σ).
      logits: [B, ...] of x + σn being real.
      sigma: [B] the noise levels.
      weight: [B] SiD's normalising weight; with uncertainty weighting, over exp(u).
    """

    x: Array
    d_teacher: Array
    d_fake: Array
    logits: Array
    sigma: Array
    weight: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiDALoop(Adversarial):
    """SiDA's released training loop, for whatever losses of the generator.

    The fake score tells real images from generated ones by the mean over the channels of its own
    encoder's output, with the same noise on both and the labels of the real ones. In three phases
    the fake score learns alone (`generator.frozen_kimg`), then the generator without the
    discriminator, then with it.

    Means over the batch are over a round's examples, as the released code takes them over those of
    one GPU. With uncertainty weighting all terms are divided by exp(u), u the fake score's
    log-variance, which learns from the fake score's.

    Attributes:
      t_max: as in SiD.
      generator_loss_scale: factor on the generator's loss; 100 is published.
      gan_scale: factor on the generator's adversarial term over that scale; published is 0.01 of
        100, 1e-4.
      discriminator_scale: factor on the fake score's adversarial term, over its loss scale.
      gan_from_kimg: thousands of images after which the adversarial term joins the generator's.
    """

    t_max: float = setting(800.0, T_MAX)
    generator_loss_scale: float = setting(100.0, POSITIVE, field="generator.loss_scale")
    gan_scale: float = setting(1e-4, NOT_NEGATIVE, field="generator.gan_scale")
    discriminator_scale: float = setting(1.0, NOT_NEGATIVE, field="fake_score.gan_scale")
    gan_from_kimg: float = setting(200.0, NOT_NEGATIVE)

    learners: ClassVar = (
        Learner("fake_score", fields={"max_grad_value": 1.0}),
        Learner("generator", averaged=True, fields={"frozen_kimg": 100.0}),
    )
    suspects: ClassVar = ("generator.gan_scale", *ScoreDistillation.suspects)
    new_labels: ClassVar = True
    has_phases: ClassVar = True
    couples_examples: ClassVar = True
    shown: ClassVar = {**ScoreDistillation.shown, "gan": "gan", "discriminator": "judge"}
    fake_reports: ClassVar = ("discriminator",)
    generator_reports: ClassVar = ("delta", "gan")

    def generator_sigma(self) -> SigmaDistribution:
        """SiD's."""
        published = noise.KarrasUniform(
            t_max=self.t_max, sigma_min=self.sigma_min, sigma_max=self.sigma_max
        )
        return published.scaled(self.scale)

    def fake_score_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Denoising of each generated example, and telling it from a real one, [B]."""
        assert draws.real is not None, "SiDA's fake score sees real examples"
        given = ((x, draws.augmentation), (draws.real, draws.more.get("augmentation")))
        weight = noise.edm_weight(draws.sigma, self.sigma_data)
        keys = jax.random.split(draws.dropout)
        clean, denoised, logits = [], [], []
        for (examples, augmentation), key in zip(given, keys, strict=True):
            augment_labels = None
            if augmentation is not None:
                examples, augment_labels = augment.apply(examples, augmentation)
            examples = jax.lax.stop_gradient(examples)
            d_fake, judged = self.judged(
                params,
                diffuse(examples, draws),
                draws.sigma,
                draws.real_labels,
                augment_labels=augment_labels,
                train=True,
                rng=key,
            )
            clean.append(examples)
            denoised.append(d_fake)
            logits.append(judged)
        u = None
        if self.uncertainty_weighting:
            u = self.networks["log_variance"](params["fake_score"], draws.sigma, train=True)
        of_score = losses.denoising(clean[0], denoised[0], weight=weight, log_variance=u)
        of_fake, of_real = logits
        told = losses.sida_gan_discriminator(of_real, of_fake, weight=weight)
        if u is not None:
            told = jnp.exp(-u) * told
        return of_score + self.discriminator_scale * told, {"discriminator": told}

    def generator_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Loss of each sample without the discriminator, and from some images on with it, [B]."""
        y = diffuse(x, draws)
        teacher = self.networks["teacher"]
        d_teacher = teacher(params["teacher"], y, draws.sigma, labels=draws.labels)
        d_fake, logits = self.judged(params, y, draws.sigma, draws.labels)
        weight = losses.normalizing_weight(x, d_teacher) * self.certainty(params, draws.sigma)
        begins = min(round(1000 * self.gan_from_kimg), 2**32 - 1)  # images are counted in 32 bits
        has_joined = draws.more["images"] > jnp.uint32(begins)
        # One example's logits count for all: before they do, none has a gradient, not even 0 times.
        heard = jnp.where(has_joined, logits, 0)
        asked = Asked(x, d_teacher, d_fake, heard, draws.sigma, weight)
        adversarial = x[0].size * losses.sida_gan_generator(heard, weight=weight)
        loss = jnp.where(has_joined, self.joined(asked, adversarial), self.alone(asked))
        shown = x[0].size * losses.sida_gan_generator(jax.lax.stop_gradient(logits), weight=weight)
        return loss, {"delta": mean_difference(d_teacher, d_fake), "gan": shown}

    def alone(self, asked: Asked) -> Array:
        """Loss of each sample before the discriminator counts, [B]."""
        raise NotImplementedError

    def joined(self, asked: Asked, adversarial: Array) -> Array:
        """Loss of each sample from then on, [B].

        Args:
          asked: what the networks say of the samples.
          adversarial: [B] the adversarial term.
        """
        raise NotImplementedError

    def with_more(self, key: PRNGKey, draws: dict[str, Draws]) -> dict[str, Draws]:
        """Give generated examples the real ones' labels, and real ones an augmentation."""
        fake_score = draws["fake_score"]
        more = {}
        if self.augment_probability:
            keys = jax.random.split(key, self.fake_score_updates)
            more["augmentation"] = jax.vmap(
                lambda k: self.batch.augmentation(k, self.augment_probability)
            )(keys)
        fake_score = dataclasses.replace(
            fake_score, labels=fake_score.real_labels, more={**fake_score.more, **more}
        )
        return self.aligned({**draws, "fake_score": fake_score})


@register("sida")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SiDA(SiDALoop):
    """SiDA as its released training loop runs it.

    Once the discriminator counts, the loss is half of SiD's and half of the adversarial one.

    Attributes:
      alpha: as in SiD; 1 is published.
    """

    alpha: float = setting(1.0, FINITE)

    suspects: ClassVar = ("alpha", *SiDALoop.suspects)
    weighs_by_uncertainty: ClassVar = True

    def alone(self, asked: Asked) -> Array:
        """SiD's loss of each sample, [B]."""
        x, d_teacher, d_fake, *_ = asked
        return losses.sid(x, d_teacher, d_fake, alpha=self.alpha, weight=asked.weight)

    def joined(self, asked: Asked, adversarial: Array) -> Array:
        """Half of both, [B]."""
        return (self.alone(asked) + self.gan_scale * adversarial) / 2
