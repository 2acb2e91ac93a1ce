"""The algorithm that Diff-Instruct and SiD share, for whatever loss of the generator.

A fake score follows the generator, and the generator follows the teacher:

    repeat:
      ψ: x = G_θ(z), in evaluation mode;  follow  −∇_ψ λ(σ) ‖D_ψ(x + σn; σ) − x‖²
      θ: x = G_θ(z), in training mode;    follow  −∇_θ L(x, D_φ, D_ψ)

with new z, σ and n for each; a method says what L is, and how σ is distributed in it.
"""

import dataclasses
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from diffjax.diffusion import noise
from diffjax.diffusion.noise import SigmaDistribution
from diffjax.interfaces import Array, PRNGKey
from diffjax.methods.base import AllParams, Learner, Method, Turn, Values
from diffjax.methods.denoising import denoising_losses
from diffjax.methods.draws import Dataset, Draws, once
from diffjax.methods.settings import COUNT, FLAG, POSITIVE, SHARE, setting


def mean_difference(d_teacher: Array, d_fake: Array) -> Array:
    """Mean |D_φ − D_ψ| of each example, [B].

    Args:
      d_teacher: [B, ...].
      d_fake: [B, ...].
    """
    return jnp.abs(d_teacher - d_fake).reshape(d_teacher.shape[0], -1).mean(axis=1)


def asked_in(learner: str) -> str:
    """Name among a method's networks of the fake score as it is asked in a learner's turn."""
    return f"fake_score in {learner}'s turn"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreDistillation(Method):
    """Distillation with a fake score, without data.

    Attributes:
      augment_probability: of each of EDM's augmentations in the fake score's turn; 0 for none.
      fake_score_loss_scale: factor on the fake score's loss.
      generator_loss_scale: factor on the generator's loss; SiD's is 100.
      fake_score_updates: updates of the fake score an update of the generator.
      fake_score_every: the fake score learns in every n-th update alone, the first included;
        published is 1.
      share_samples: whether the fake score's last update learns from the samples that the
        generator's turn makes, latents and labels included. The generator then runs forward once
        for both, in training mode. The published loops draw new samples. With several rounds the
        activations of all of them are kept, which accumulation otherwise avoids.
      p_mean: mean of ln σ in the fake score's turn, σ for data of standard deviation 0.5.
      p_std: standard deviation of ln σ there.
      uncertainty_weighting: whether the fake score's log-variance weighs the losses, where a method
        `weighs_by_uncertainty`. `networks` then have "log_variance", of the fake score.
      label_dropout: how often a sample of the fake score's turn has no condition, so that the fake
        score learns to do without: the generator isn't told it either, as in SiD-LSG, which takes
        0.1 (Zhou et al. 2024, arXiv:2406.01561).
      null: condition of one example that stands for none, where `label_dropout` isn't 0.
    """

    augment_probability: float = setting(0.0, SHARE)
    fake_score_loss_scale: float = setting(1.0, POSITIVE, field="fake_score.loss_scale")
    generator_loss_scale: float = setting(1.0, POSITIVE, field="generator.loss_scale")
    fake_score_updates: int = setting(1, COUNT, field="fake_score.updates")
    fake_score_every: int = setting(1, COUNT, field="fake_score.every")
    share_samples: bool = setting(False, FLAG)
    p_mean: float = noise.LogNormal.mean
    p_std: float = noise.LogNormal.std
    uncertainty_weighting: bool = False
    label_dropout: float = setting(0.0, SHARE, field="fake_score.label_dropout")
    null: Any = None

    learners: ClassVar[tuple[Learner, ...]] = (
        Learner("fake_score"),
        Learner("generator", averaged=True),
    )
    reads: ClassVar[tuple[str, ...]] = ("teacher",)
    samples_from: ClassVar = "generator"
    sampled_by: ClassVar = "one_step"
    shown: ClassVar = {"fake_loss": "fake", "generator_loss": "generator", "delta": "|Δ|"}
    suspects: ClassVar[tuple[str, ...]] = (
        "generator.learning_rate",
        "fake_score.learning_rate",
        "init_sigma",
        "generator.max_grad_norm",
    )
    # Names of the other figures that the losses of the two turns give.
    fake_reports: ClassVar[tuple[str, ...]] = ()
    generator_reports: ClassVar[tuple[str, ...]] = ("delta",)
    # Whether the generator's turn draws labels of its own, or takes those of the fake score's last.
    new_labels: ClassVar[bool]

    def turns(self) -> tuple[Turn, ...]:
        """List the fake score's turn, then the generator's."""
        return (
            Turn(
                "fake_score",
                self.evaluation_samples,
                self.in_turn_of("fake_score").fake_score_loss,
                prefix="fake_",
                reports=self.fake_reports,
                scale=self.fake_score_loss_scale,
                times=self.fake_score_updates,
                every=self.fake_score_every,
                borrows="generator" if self.share_samples else "",
            ),
            Turn(
                "generator",
                self.training_samples,
                self.in_turn_of("generator").generator_loss,
                through_samples=True,
                prefix="generator_",
                reports=self.generator_reports,
                scale=self.generator_loss_scale,
            ),
        )

    def in_turn_of(self, learner: str) -> Self:
        """Give the method as it asks the fake score in a learner's turn, which may be guided.

        `networks` then have the guided one too, by the name that `asked_in` gives.
        """
        guided = self.networks.get(asked_in(learner))
        if guided is None:
            return self
        return dataclasses.replace(self, networks={**self.networks, "fake_score": guided})

    def evaluation_samples(self, params: AllParams, draws: Draws) -> Array:
        """Samples of the generator without dropout, [B, ...]."""
        return self._generate(params, draws, train=False)

    def training_samples(self, params: AllParams, draws: Draws) -> Array:
        """Samples of the generator with its dropout, [B, ...]."""
        return self._generate(params, draws, train=True)

    def fake_score_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Denoising loss of the fake score on each generated example, [B]."""
        u = self.networks["log_variance"] if self.uncertainty_weighting else None
        fake_score, own = self.networks["fake_score"], params["fake_score"]
        weight = self.fake_score_weight(draws.sigma)
        return denoising_losses(fake_score, own, x, draws, self.sigma_data, weight, u), {}

    def fake_score_weight(self, sigma: Array) -> Array | None:
        """Weight of the fake score's loss at noise levels [B]; None for EDM's λ(σ)."""
        del sigma
        return None

    def generator_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Loss of the generator for each of its samples, and mean |D_φ − D_ψ|, [B] each."""
        raise NotImplementedError

    def generator_sigma(self) -> SigmaDistribution:
        """Distribution of the noise levels in the generator's turn."""
        raise NotImplementedError

    def fake_score_sigma(self) -> SigmaDistribution:
        """Distribution of the noise levels in the fake score's turn, EDM's log-normal one."""
        return self.lognormal()

    def certainty(self, params: AllParams, sigma: Array) -> Array | float:
        """Factor exp(−u(σ)) on the generator's losses, [B]; 1 without uncertainty weighting.

        Args:
          params: of all networks; u is the fake score's.
          sigma: [B].
        """
        if not self.uncertainty_weighting:
            return 1.0
        u = self.networks["log_variance"](params["fake_score"], sigma)
        return jax.lax.stop_gradient(jnp.exp(-u))

    def scores(
        self, params: AllParams, y: Array, draws: Draws, *, train: bool
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Ask teacher and fake score about noisy samples.

        Args:
          params: of both.
          y: [B, ...] noisy samples.
          draws: of a round.
          train: whether both have dropout on, with one mask for both.

        Returns:
          (D_φ, D_ψ, {"delta": mean |D_φ − D_ψ| of each example, [B]}).
        """
        rng = jax.random.split(draws.dropout)[1] if train else None
        d_teacher, d_fake = (
            self.networks[name](
                params[name], y, draws.sigma, labels=draws.labels, train=train, rng=rng
            )
            for name in ("teacher", "fake_score")
        )
        return d_teacher, d_fake, {"delta": mean_difference(d_teacher, d_fake)}

    def draw(self, key: PRNGKey, data: Dataset | None = None) -> dict[str, Draws]:
        """Draw the randomness of an update; no data is read."""
        del data
        fake_key, generator_key = jax.random.split(key)
        fake_keys = jax.random.split(fake_key, self.fake_score_updates)
        fake_score = jax.vmap(self._draw_fake_score)(fake_keys)
        labels = None
        if fake_score.labels is not None and not self.new_labels:
            rounds = self.batch.rounds
            labels = jax.tree.map(
                lambda x: jnp.broadcast_to(x[-1, -1], (rounds, *x.shape[2:])), fake_score.labels
            )
        generator = self.batch.latents(generator_key, self.generator_sigma(), labels)
        if self.label_dropout:
            fake_score = self.with_dropped_labels(jax.random.fold_in(key, 4), fake_score)
        return self.aligned({"fake_score": fake_score, "generator": once(generator)})

    def with_dropped_labels(self, key: PRNGKey, draws: Draws) -> Draws:
        """Take the condition off some of a turn's examples."""
        rate = jnp.float32(self.label_dropout)  # whose type decides the draws
        dropped = jax.random.bernoulli(key, rate, draws.sigma.shape)

        def drop(leaf: Array, null: Array) -> Array:
            is_dropped = dropped.reshape(*dropped.shape, *[1] * (leaf.ndim - dropped.ndim))
            return jnp.where(is_dropped, jnp.asarray(null, leaf.dtype), leaf)

        return dataclasses.replace(draws, labels=jax.tree.map(drop, draws.labels, self.null))

    def aligned(self, draws: dict[str, Draws]) -> dict[str, Draws]:
        """Give the generator's turn the latents and labels whose samples the fake score shares."""
        if not self.share_samples:
            return draws
        last = jax.tree.map(lambda x: x[-1:], draws["fake_score"])
        return {
            **draws,
            "generator": dataclasses.replace(draws["generator"], z=last.z, labels=last.labels),
        }

    def lognormal(self) -> SigmaDistribution:
        """EDM's log-normal noise levels, within the networks' range."""
        published = noise.LogNormal(self.p_mean, self.p_std, self.sigma_min, self.sigma_max)
        return published.scaled(self.scale)

    def _generate(self, params: AllParams, draws: Draws, *, train: bool) -> Array:
        rng = jax.random.split(draws.dropout)[0] if train else None
        generator = self.networks["generator"]
        return generator(params["generator"], draws.z, labels=draws.labels, train=train, rng=rng)

    def _draw_fake_score(self, key: PRNGKey) -> Draws:
        draws = self.batch.latents(key, self.fake_score_sigma())
        if not self.augment_probability:
            return draws
        augmentation = self.batch.augmentation(jax.random.fold_in(key, 1), self.augment_probability)
        return dataclasses.replace(draws, augmentation=augmentation)
