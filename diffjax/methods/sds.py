"""SDS, score distillation sampling (Poole et al., "DreamFusion", ICLR 2023, arXiv:2209.14988)."""

import dataclasses
from typing import ClassVar

import jax

from diffjax import losses
from diffjax.diffusion import noise
from diffjax.diffusion.noise import SigmaDistribution
from diffjax.interfaces import Array, PRNGKey
from diffjax.methods.base import AllParams, Learner, Method, Turn, Values, register
from diffjax.methods.denoising import diffuse
from diffjax.methods.draws import Dataset, Draws, once
from diffjax.methods.score_distillation import mean_difference
from diffjax.methods.settings import FINITE, NOT_NEGATIVE, POSITIVE, named, setting

# Factor on the difference of denoisers, x - D, of which DreamFusion's difference of noises is
# eps_hat - eps = (x - D) / sigma.
WEIGHTS = {
    "denoisers": lambda sigma: 1.0,  # Diff-Instruct's
    "noises": lambda sigma: 1 / sigma,
    "dreamfusion": lambda sigma: sigma / (1 + sigma**2),  # s(t)^2 / sigma where a^2 + s^2 = 1
}


@register("sds")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SDS(Method):
    """Diff-Instruct of a generator that gives one point per latent.

    The marginal of one point x at a noise level is N(x, σ² I), whose denoiser is x itself, so that
    no fake score is learnt. The teacher has dropout off.

    Attributes:
      generator_loss_scale: factor on the loss.
      p_mean: mean of ln σ, for data of standard deviation 0.5.
      p_std: standard deviation of ln σ; 0 for one noise level.
      weight: "denoisers" for Σ (x − D_φ), as Diff-Instruct; "noises" for DreamFusion's difference
        of noises unweighted, w(t) = 1; "dreamfusion" for its w(t) = s(t)².
    """

    generator_loss_scale: float = setting(1.0, POSITIVE, field="generator.loss_scale")
    p_mean: float = setting(-1.2, FINITE)
    p_std: float = setting(1.2, NOT_NEGATIVE)
    weight: str = setting("denoisers", named(*WEIGHTS))

    learners: ClassVar = (Learner("generator", averaged=True),)
    reads: ClassVar = ("teacher",)
    samples_from: ClassVar = "generator"
    sampled_by: ClassVar = "one_step"
    shown: ClassVar = {"generator_loss": "generator", "delta": "|Δ|"}
    suspects: ClassVar = ("generator.learning_rate", "p_mean", "p_std")

    def idle(self) -> dict[str, str]:
        """List settings of all distillation methods that are of networks in training, or of two."""
        return {
            "dropout": "SDS has it off in teacher and generator",
            "generator.frozen_kimg": "SDS trains no other network in the meantime",
        }

    def turns(self) -> tuple[Turn, ...]:
        """List the one turn: points, and where the teacher would have them."""
        return (
            Turn(
                "generator",
                self.points,
                self.generator_loss,
                through_samples=True,
                prefix="generator_",
                reports=("delta",),
                scale=self.generator_loss_scale,
            ),
        )

    def points(self, params: AllParams, draws: Draws) -> Array:
        """Points of the generator, [B, ...]."""
        return self.networks["generator"](params["generator"], draws.z, labels=draws.labels)

    def generator_loss(self, params: AllParams, x: Array, draws: Draws) -> Values:
        """Diff-Instruct's loss of each point, [B], its fake score being the point."""
        y = diffuse(jax.lax.stop_gradient(x), draws)
        teacher = self.networks["teacher"]
        d_teacher = teacher(params["teacher"], y, draws.sigma, labels=draws.labels)
        weight = WEIGHTS[self.weight](draws.sigma / self.scale)
        loss = losses.diff_instruct(x, d_teacher, d_fake=x, weight=weight)
        return loss, {"delta": mean_difference(d_teacher, x)}

    def generator_sigma(self) -> SigmaDistribution:
        """Log-normal noise levels, within the teacher's range."""
        published = noise.LogNormal(self.p_mean, self.p_std, self.sigma_min, self.sigma_max)
        return published.scaled(self.scale)

    def draw(self, key: PRNGKey, data: Dataset | None = None) -> dict[str, Draws]:
        """Draw the randomness of an update; no data is read."""
        del data
        return {"generator": once(self.batch.latents(key, self.generator_sigma()))}
