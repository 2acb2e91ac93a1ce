"""Students of a few steps: a denoiser that is asked again, with noise on its own sample.

    y₁ = σ₁ z;  x_k = D_θ(y_k; σ_k);  y_{k+1} = x_k + σ_{k+1} n_k;  the sample is x_K

with noise levels σ₁ = σ_init > σ₂ > … > σ_K, as SiD's branch `sida` and SiD-LSG run theirs (Zhou et
al. 2025, arXiv:2410.14919; Zhou et al. 2024, arXiv:2406.01561). One step is `DenoiserGenerator`.

In training a sample's loss may be of the last step's output, or of a step's drawn for each sample,
so that the mixture of all steps' outputs is matched (few-step SiD, Zhou et al. 2025,
arXiv:2505.12674). Its gradient flows through that step alone, what comes before being as in
sampling (the backward simulation of DMD2, Yin et al. 2024, arXiv:2405.14867), or through all. In
place of the student's own samples, real data may get the noise of the later steps.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffjax.diffusion.process import Process
from diffjax.interfaces import Array, Params, PRNGKey

OUTPUTS = ("mixture", "last")
BACKWARD = ("one_step", "all_steps")


def spaced(process: Any, init_sigma: float, steps: int) -> tuple[float, ...]:
    """Noise levels of the steps, evenly spaced in the time of a process.

    The time of EDM's is σ, σ_k = σ_init (K − k)/K for k = 0, …, K − 1, as the branch `sida` has it.
    On a table a time is rounded towards the data, as SiD-LSG has it.

    Args:
      process: a `Process`; anything else is taken for EDM's.
      init_sigma: σ_init, the first level.
      steps: K.

    Returns:
      K levels, in the units of the data.
    """
    shares = [(steps - k) / steps for k in range(steps)]
    if not isinstance(process, Process):
        return tuple(init_sigma * share for share in shares)
    assert process.t_of_sigma is not None
    ends = [float(process.sigma(jnp.asarray(t))) for t in (process.t_min, process.t_max)]
    data = float(process.t_min if ends[0] < ends[1] else process.t_max)
    length = float(process.t_of_sigma(jnp.float32(init_sigma))) - data
    lengths = [length * share for share in shares]
    if process.table is not None:
        times = [jnp.asarray(round(data) + math.trunc(each + 1e-9), jnp.int32) for each in lengths]
    else:
        times = [jnp.float32(data + each) for each in lengths]
    return (init_sigma, *(float(process.sigma(t)) for t in times[1:]))


def check_sigmas(sigmas: Sequence[float], sigma_min: float) -> None:
    """Check that noise levels of steps fall, within what a denoiser knows.

    Args:
      sigmas: of the steps, in order.
      sigma_min: the least that the denoiser knows.

    Raises:
      ValueError: naming the levels.
    """
    shown = ", ".join(f"{sigma:.4g}" for sigma in sigmas)
    if any(after >= before for before, after in itertools.pairwise(sigmas)):
        raise ValueError(f"noise levels of the steps must fall, and {shown} don't")
    if sigmas[-1] < sigma_min or sigmas[-1] <= 0:
        raise ValueError(
            f"noise levels of the steps ({shown}) go below {sigma_min:.4g}, the least that the "
            "denoiser knows"
        )


@dataclasses.dataclass(frozen=True)
class StepLatents:
    """Law of the latents of a student of K steps: its first noise, and that of the later steps.

    The first is what a student of one step has from the same key.

    Attributes:
      shape: of an example.
      steps: K.
      draws_step: whether the step whose output is trained is drawn too, uniformly.
    """

    unit_normal: ClassVar[bool] = True
    shape: tuple[int, ...]
    steps: int
    draws_step: bool = False

    def __call__(self, key: PRNGKey, batch: int) -> dict[str, Array]:
        """Draw {"first": [batch, *shape], "later": [batch, K − 1, *shape]}, and "step" [batch].

        Args:
          key: of all of them.
          batch: number of samples.
        """
        later_key, step_key = (jax.random.fold_in(key, i) for i in (1, 2))
        later = (batch, self.steps - 1, *self.shape)
        drawn = {
            "first": jax.random.normal(key, (batch, *self.shape), jnp.float32),
            "later": jax.random.normal(later_key, later, jnp.float32),
        }
        if self.draws_step:
            drawn["step"] = jax.random.randint(step_key, (batch,), 0, self.steps, jnp.int32)
        return drawn


@dataclasses.dataclass(frozen=True)
class StepGenerator:
    """Student of K steps, an `interfaces.Generator` whose latents are those of `StepLatents`.

    Attributes:
      denoiser: D, whose parameters the generator has.
      sigmas: K falling noise levels, in the units of the data.
      outputs: "mixture", a step's output drawn for each sample is what is trained; or "last".
      backward: "one_step", its gradient flows through that step alone; or "all_steps".
    """

    denoiser: Any
    sigmas: tuple[float, ...]
    outputs: str = OUTPUTS[0]
    backward: str = BACKWARD[0]

    @property
    def init_sigma(self) -> float:
        """Noise level of the first step, σ_init."""
        return self.sigmas[0]

    @property
    def latent(self) -> StepLatents:
        """Law of the latents of samples."""
        return StepLatents(tuple(self.denoiser.shape), len(self.sigmas))

    @property
    def training_latent(self) -> StepLatents:
        """Law of the latents in training, which draws a step too if outputs are a mixture."""
        return dataclasses.replace(self.latent, draws_step=self.outputs == "mixture")

    def __call__(
        self,
        params: Params,
        z: dict[str, Array],
        *,
        labels: Any = None,
        train: bool = False,
        rng: PRNGKey | None = None,
    ) -> Array:
        """Generate, as `interfaces.Generator` says.

        Args:
          params: of the denoiser.
          z: as `StepLatents` draws them; without "step" the last step's output is asked for. With
            "real", [B, ...] data, later steps begin from these, with noise on them.
          labels: conditions, a pytree of [B, ...], or None.
          train: whether dropout is on in what the gradient flows through; it then needs `rng`.
          rng: key of the dropout masks, which differ from step to step.

        Returns:
          [B, ...] float32 data: the last step's output, or that of "step".
        """
        later, step = z["later"], z.get("step")
        in_all = self.backward == "all_steps"

        def ask(params: Params, y: Array, sigma: Array, index: int, *, train: bool) -> Array:
            key = None if rng is None else jax.random.fold_in(rng, index)
            x: Array = self.denoiser(params, y, sigma, labels=labels, train=train, rng=key)
            return x

        def level(index: int) -> Array:
            return jnp.full((later.shape[0],), self.sigmas[index], jnp.float32)

        held = params if in_all else jax.lax.stop_gradient(params)
        inputs, outputs = [self.sigmas[0] * z["first"]], []
        last = len(self.sigmas) - 1
        for index in range(last):
            if "real" in z:
                inputs.append(z["real"] + self.sigmas[index + 1] * later[:, index])
                continue
            x = ask(held, inputs[-1], level(index), index, train=train and in_all)
            outputs.append(x)
            inputs.append(x + self.sigmas[index + 1] * later[:, index])
        if step is None:
            return ask(params, inputs[-1], level(last), last, train=train)
        if in_all and "real" not in z:
            outputs.append(ask(params, inputs[-1], level(last), last, train=train))
            return _of_step(outputs, step)
        sigma = jnp.asarray(self.sigmas, jnp.float32)[step]
        return ask(params, _of_step(inputs, step), sigma, last, train=train)


def _of_step(each: list[Array], step: Array) -> Array:
    """Choose for each sample that of its step, [B, ...]."""
    chosen = each[0]
    for index, x in enumerate(each[1:], start=1):
        is_it = (step == index).reshape(-1, *[1] * (x.ndim - 1))
        chosen = jnp.where(is_it, x, chosen)
    return chosen
