"""Preconditioning of EDM, VP, VE, iDDPM, EDM2, SiT, DiT: from a raw network F to a denoiser D.

D(x; σ) = c_skip(σ) x + c_out(σ) F(c_in(σ) x; c_noise(σ)), Karras et al. 2022 (arXiv:2206.00364),
equation 7 and Table 1. Each preconditioning also knows the range of σ that its network was trained
on; distillation clips its noise levels to it.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion import ddpm, interpolants, predictions
from diffjax.diffusion.interpolants import PATHS, PREDICTIONS
from diffjax.diffusion.process import Process
from diffjax.interfaces import Array, PRNGKey

# Of ImageNet's latents in Stable Diffusion's autoencoder, times 0.18215: by the moments that EDM2
# gives of them, over all channels at once.
_OF_LATENTS = 0.9


class Scalings(NamedTuple):
    """Scalings at σ [B], each [B] float32; D(x; σ) = c_skip x + c_out F(c_in x; c_noise).

    Attributes:
      c_skip: factor of the noisy input in the output.
      c_out: factor of the network's output.
      c_in: factor of the network's input.
      c_noise: what the network is told of σ.
    """

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


class Preconditioning(Protocol):
    """Preconditioning: σ -> scalings, with the range of σ that the network knows."""

    @property
    def sigma_min(self) -> float:
        """Least noise level of the network's training."""
        ...

    @property
    def sigma_max(self) -> float:
        """Greatest noise level of the network's training."""
        ...

    def buffers(self) -> dict[str, Array]:
        """Arrays that are kept with the parameters and never trained."""
        ...

    def round_sigma(self, sigma: np.ndarray) -> np.ndarray:
        """Round noise levels to the nearest that the network knows."""
        ...

    def __call__(self, sigma: Array, buffers: dict[str, Array]) -> Scalings:
        """Compute the scalings at σ [B]."""
        ...


class _Continuous:
    """Preconditioning that knows every σ and keeps no arrays."""

    def buffers(self) -> dict[str, Array]:
        """Empty dictionary: there are no such arrays."""
        return {}

    def round_sigma(self, sigma: np.ndarray) -> np.ndarray:
        """Keep the noise levels as they are."""
        return sigma


@dataclasses.dataclass(frozen=True)
class EDM(_Continuous):
    """EDM's own preconditioning (Table 1, last column).

    Attributes:
      sigma_min: least σ.
      sigma_max: greatest σ.
      sigma_data: standard deviation of the data.
    """

    sigma_min: float = 0.0
    sigma_max: float = math.inf
    sigma_data: float = 0.5

    def __call__(self, sigma: Array, buffers: dict[str, Array]) -> Scalings:
        """Compute the scalings at σ [B]."""
        chex.assert_rank(sigma, 1)
        total = jnp.square(sigma) + self.sigma_data**2
        return Scalings(
            c_skip=self.sigma_data**2 / total,
            c_out=sigma * self.sigma_data * jax.lax.rsqrt(total),
            c_in=jax.lax.rsqrt(total),
            c_noise=jnp.log(sigma) / 4,
        )


@dataclasses.dataclass(frozen=True)
class VP(_Continuous):
    """Variance preserving diffusion (Song et al. 2021, arXiv:2011.13456), β linear in time.

    Attributes:
      beta_d: slope of β(t).
      beta_min: β(0).
      M: number of noise labels.
      epsilon_t: the least time.
    """

    beta_d: float = 19.9
    beta_min: float = 0.1
    M: int = 1000
    epsilon_t: float = 1e-5

    @property
    def sigma_min(self) -> float:
        """Least noise level, σ(ε_t)."""
        return self._sigma(self.epsilon_t)

    @property
    def sigma_max(self) -> float:
        """Greatest noise level, σ(1)."""
        return self._sigma(1.0)

    def _sigma(self, t: float) -> float:
        # exp is rounded to float32, as the released code has it, and as networks were trained:
        # there σ(ε_t) is 2 % under its exact value.
        exponential = np.float32(math.exp(0.5 * self.beta_d * t**2 + self.beta_min * t))
        return math.sqrt(float(exponential) - 1)

    def __call__(self, sigma: Array, buffers: dict[str, Array]) -> Scalings:
        """Compute the scalings at σ [B]."""
        chex.assert_rank(sigma, 1)
        log_variance = jnp.log(1 + jnp.square(sigma))
        t = (
            jnp.sqrt(self.beta_min**2 + 2 * self.beta_d * log_variance) - self.beta_min
        ) / self.beta_d
        return Scalings(
            c_skip=jnp.ones_like(sigma),
            c_out=-sigma,
            c_in=jax.lax.rsqrt(jnp.square(sigma) + 1),
            c_noise=(self.M - 1) * t,
        )


@dataclasses.dataclass(frozen=True)
class VE(_Continuous):
    """Variance exploding diffusion (Song et al. 2021, arXiv:2011.13456).

    Attributes:
      sigma_min: least σ.
      sigma_max: greatest σ.
    """

    sigma_min: float = 0.02
    sigma_max: float = 100.0

    def __call__(self, sigma: Array, buffers: dict[str, Array]) -> Scalings:
        """Compute the scalings at σ [B]."""
        chex.assert_rank(sigma, 1)
        ones = jnp.ones_like(sigma)
        return Scalings(c_skip=ones, c_out=sigma, c_in=ones, c_noise=jnp.log(0.5 * sigma))


@dataclasses.dataclass(frozen=True)
class IDDPM:
    """Improved DDPM (Nichol & Dhariwal 2021, arXiv:2102.09672), whose σ is one of a table `u`.

    Attributes:
      C_1: bound on the ratio of successive ᾱ.
      C_2: offset of the cosine schedule.
      M: number of noise levels.
    """

    C_1: float = 0.001
    C_2: float = 0.008
    M: int = 1000

    @property
    def sigma_min(self) -> float:
        """Least noise level, u[M − 1]."""
        return float(self._table()[self.M - 1])

    @property
    def sigma_max(self) -> float:
        """Greatest noise level, u[0]."""
        return float(self._table()[0])

    def _table(self) -> np.ndarray:
        """Table u [M + 1] float32 of levels, decreasing to u[M] = 0 (EDM, Table 1, footnote)."""
        # In float32 throughout: released networks were trained on the table as float32 gives it,
        # whose last levels differ from the exact ones in the fourth digit.
        j = np.arange(self.M + 1, dtype=np.float32)
        angle = np.float32(0.5 * math.pi) * j / np.float32(self.M) / np.float32(self.C_2 + 1)
        alpha_bar = np.sin(angle) ** 2
        u = np.zeros(self.M + 1, dtype=np.float32)
        one = np.float32(1)
        for i in range(self.M, 0, -1):
            ratio = max(alpha_bar[i - 1] / alpha_bar[i], np.float32(self.C_1))
            u[i - 1] = np.sqrt((u[i] ** 2 + one) / ratio - one)
        return u

    def buffers(self) -> dict[str, Array]:
        """Table `u` of noise levels, by that name."""
        return {"u": jnp.asarray(self._table())}

    def round_sigma(self, sigma: np.ndarray) -> np.ndarray:
        """Round noise levels to the nearest of the table."""
        u = self._table().astype(np.float64)
        return u[np.abs(np.asarray(sigma)[..., None] - u).argmin(axis=-1)]

    def __call__(self, sigma: Array, buffers: dict[str, Array]) -> Scalings:
        """Compute the scalings at σ [B], c_noise by the nearest level of the table."""
        chex.assert_rank(sigma, 1)
        u = jax.lax.stop_gradient(buffers["u"])
        nearest = jnp.argmin(jnp.abs(sigma[:, None] - u[None]), axis=1)
        return Scalings(
            c_skip=jnp.ones_like(sigma),
            c_out=-sigma,
            c_in=jax.lax.rsqrt(jnp.square(sigma) + 1),
            c_noise=(self.M - 1 - nearest).astype(jnp.float32),
        )


@dataclasses.dataclass(frozen=True)
class EDM2(_Continuous):
    """EDM2's preconditioning (Karras et al. 2024, arXiv:2312.02696): EDM's, of every σ.

    Attributes:
      sigma_data: standard deviation of the data.
    """

    sigma_data: float = 0.5

    @property
    def sigma_min(self) -> float:
        """Least noise level, 0."""
        return 0.0

    @property
    def sigma_max(self) -> float:
        """Greatest noise level, infinity."""
        return math.inf

    def __call__(self, sigma: Array, buffers: dict[str, Array]) -> Scalings:
        """Compute the scalings at σ [B]."""
        return EDM(sigma_data=self.sigma_data)(sigma, buffers)


class _OfProcess:
    """Preconditioning of a network of a diffusion process, from which all of it follows.

    Subclasses are frozen dataclasses, equal if their settings are.
    """

    sigma_data: float

    @property
    def process(self) -> Process:
        """Process that the network was trained on."""
        raise NotImplementedError

    @property
    def predicts(self) -> str:
        """Prediction of the network, as `Process.denoiser` names it."""
        raise NotImplementedError

    @property
    def sigma_min(self) -> float:
        """Least noise level of the process."""
        return self.process.sigma_min

    @property
    def sigma_max(self) -> float:
        """Greatest noise level of the process."""
        return self.process.sigma_max

    def buffers(self) -> dict[str, Array]:
        """Empty dictionary: there are no such arrays."""
        return {}

    def round_sigma(self, sigma: np.ndarray) -> np.ndarray:
        """Keep the noise levels as they are."""
        return sigma

    def gain(self, sigma: float) -> float:
        """Output per unit of the network's output at σ; see `predictions.gain`."""
        return predictions.gain(self.process, self.predicts, sigma)

    def training_sigma(self, key: PRNGKey, shape: Sequence[int]) -> Array:
        """Draw noise levels at times that are uniform over the process, float32.

        Those of a table are its own.
        """
        process = self.process
        if process.table is not None:
            return jax.random.choice(key, jnp.asarray(process.table, jnp.float32), shape)
        t = jax.random.uniform(key, shape, jnp.float32, process.t_min, process.t_max)
        return process.sigma(t)

    def __call__(self, sigma: Array, buffers: dict[str, Array]) -> Scalings:
        """Compute the scalings at σ [B], c_noise being the process's time."""
        chex.assert_rank(sigma, 1)
        t = predictions.time_of(self.process, sigma, sigma.dtype)
        a = predictions.value_at(self.process.a, t, sigma.dtype)
        factors = predictions.conversion(self.process, self.predicts, t, sigma.dtype)
        return Scalings(
            c_skip=factors.noisy * a / factors.divisor,
            c_out=-factors.output / factors.divisor,
            c_in=a,
            c_noise=t.astype(sigma.dtype),
        )


@dataclasses.dataclass(frozen=True)
class SiT(_OfProcess):
    """Preconditioning of SiT's networks (Ma et al. 2024, arXiv:2401.08740).

    Attributes:
      path: "linear", "gvp" or "vp"; see `interpolants.process`.
      predicts: "velocity", "eps" or "score".
      sigma_data: standard deviation of the data; the default is that of SiT's latents.
    """

    path: interpolants.Path = "linear"
    predicts: interpolants.Prediction = "velocity"
    sigma_data: float = _OF_LATENTS

    def __post_init__(self) -> None:
        for name, known in (("path", PATHS), ("predicts", PREDICTIONS)):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise ValueError(f"{name}={value!r} is none of SiT's: {', '.join(known)}")

    @property
    def process(self) -> Process:
        """Interpolant of the path."""
        return interpolants.process(self.path)


@dataclasses.dataclass(frozen=True)
class DiT(_OfProcess):
    """Preconditioning of DiT's networks (Peebles & Xie 2023, arXiv:2212.09748), which predict ε.

    Attributes:
      schedule: "linear" or "cosine"; see `ddpm.betas`.
      interpolate: whether a noise level between two of the table is told as a time between theirs,
        else as the nearer one.
      sigma_data: standard deviation of the data; the default is that of DiT's latents.
    """

    schedule: ddpm.Schedule = "linear"
    interpolate: bool = True
    sigma_data: float = _OF_LATENTS

    predicts = "eps"

    def __post_init__(self) -> None:
        ddpm.betas(self.schedule)  # which refuses what is none

    @property
    def process(self) -> Process:
        """Process of the table of 1000 noise levels."""
        return ddpm.process(self.schedule, self.interpolate)

    def round_sigma(self, sigma: np.ndarray) -> np.ndarray:
        """Round noise levels to the table's, unless those between are told too."""
        table = self.process.table
        if self.interpolate or table is None:
            return sigma
        distance = np.abs(np.log(np.maximum(sigma, 1e-30))[..., None] - np.log(table))
        return table[distance.argmin(axis=-1)]


BY_EDM_NAME: dict[str, Any] = {
    "EDMPrecond": EDM,
    "VPPrecond": VP,
    "VEPrecond": VE,
    "iDDPMPrecond": IDDPM,
    "Precond": EDM2,
    "SiT": SiT,
    "DiT": DiT,
}
