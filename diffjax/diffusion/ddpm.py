"""DiT's discrete diffusion: its table, samplers that take a part of it, and its loss.

Sources: Ho et al. 2020 (DDPM, arXiv:2006.11239), Song et al. 2021 (DDIM, arXiv:2010.02502) and
Nichol & Dhariwal 2021 (arXiv:2102.09672), as Peebles & Xie 2023 (DiT, arXiv:2212.09748) use them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion.process import Process
from diffjax.interfaces import Array

Schedule = Literal["linear", "cosine"]
# (x_t [B, ..., C], t [B] int32 of the whole table) -> ε, or ε and v of the variance: [B, ..., 2C].
Net = Callable[[Array, Array], Array]
STEPS = 1000
_LEVEL = 1 / 255  # half of the distance between two of 256 levels in [-1, 1]


def betas(schedule: Schedule = "linear") -> np.ndarray:
    """β of DiT's table, [1000] float64.

    Args:
      schedule: "linear", from 0.0001 to 0.02; "cosine", cut at 0.999.

    Raises:
      ValueError: for another schedule.
    """
    if schedule == "linear":
        return np.linspace(1e-4, 0.02, STEPS)
    if schedule == "cosine":
        at = np.arange(STEPS + 1) / STEPS
        alphas = np.cos((at + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - alphas[1:] / alphas[:-1], 0.999)
    raise ValueError(f"schedule={schedule!r} is none of linear and cosine")


@functools.cache
def process(schedule: Schedule = "linear", interpolate: bool = True) -> Process:
    """Process of DiT's table; see `Process.ddpm`.

    Args:
      schedule: as `betas` has it.
      interpolate: whether there are times between the table's.
    """
    return Process.ddpm(betas(schedule), interpolate=interpolate)


def kept_steps(count: int, *, even: bool = False) -> np.ndarray:
    """Places in the table that a sampler of fewer steps keeps, [count] increasing.

    Args:
      count: in [1, 1000].
      even: whether they lie evenly from 0 on, as DDIM's, which not every count allows; otherwise
        the first and the last are kept, and the others are rounded.

    Raises:
      ValueError: for a count out of range, or that can't lie evenly.
    """
    if not 1 <= count <= STEPS:
        raise ValueError(f"count={count} steps are not between 1 and {STEPS}")
    if even:
        for every in range(1, STEPS + 1):
            if len(found := np.arange(0, STEPS, every)) == count:
                return found
        raise ValueError(f"count={count} steps can't lie evenly among {STEPS}")
    stride = (STEPS - 1) / (count - 1) if count > 1 else 1.0
    places: list[int] = []
    at = 0.0
    for _ in range(count):  # summed up, as published, by which some are rounded the other way
        places.append(round(at))
        at += stride
    return np.asarray(places)


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """Table of a sampler that keeps a part of the steps, made by `spaced`; each [N] float64.

    Attributes:
      t: their places in the whole table, integers.
      alphas_cumprod: ᾱ there.
      previous: ᾱ of the step before, 1 for the first.
      betas: β of a step from the one before.
      log_variance: ln of the posterior's variance, the first's being the second's.
      of_x0: factor of x₀ in the posterior's mean.
      of_x_t: factor of x_t in it.
    """

    t: np.ndarray
    alphas_cumprod: np.ndarray
    previous: np.ndarray
    betas: np.ndarray
    log_variance: np.ndarray
    of_x0: np.ndarray
    of_x_t: np.ndarray


def spaced(kept: Sequence[int] | np.ndarray, schedule: Schedule = "linear") -> Steps:
    """Give the table of a part of the steps.

    Args:
      kept: their places, increasing, as `kept_steps` gives them; at least two.
      schedule: of the whole table.
    """
    t = np.asarray(kept)
    # β again of ᾱ, and ᾱ again of those, as published.
    of_all = np.cumprod(1 - betas(schedule))[t]
    steps = 1 - of_all / np.append(1.0, of_all[:-1])
    alphas = np.cumprod(1 - steps)
    previous = np.append(1.0, alphas[:-1])
    variance = steps * (1 - previous) / (1 - alphas)
    return Steps(
        t,
        alphas,
        previous,
        steps,
        np.log(np.append(variance[1], variance[1:])),
        steps * np.sqrt(previous) / (1 - alphas),
        (1 - previous) * np.sqrt(1 - steps) / (1 - alphas),
    )


def sample(
    net: Net,
    latents: Array,
    steps: Steps,
    noise: Array,
    *,
    method: Literal["ddpm", "ddim"] = "ddpm",
    eta: float = 0.0,
    clip: bool = False,
) -> Array:
    """Sample by DDPM's ancestral steps or DDIM's, as DiT does; one compiled loop.

    Args:
      net: predicts ε, or ε and what the variance is made of, in which DDPM's then lies between the
        posterior's and β. Otherwise it is β, the posterior's in the last step.
      latents: [B, ..., C] ~ N(0, 1).
      steps: N of the table.
      noise: [N, B, ..., C] ~ N(0, 1), in the order of the loop; the last isn't used.
      method: "ddpm" or "ddim".
      eta: of DDIM, 0 for no noise and 1 for as much as DDPM adds.
      clip: whether estimates of the data are clipped to [-1, 1].

    Returns:
      [B, ..., C] after N evaluations of the network.
    """
    chex.assert_shape(noise, (len(steps.t), *latents.shape))
    fixed_large = np.log(np.append(np.exp(steps.log_variance[:1]), steps.betas[1:]))
    order = slice(None, None, -1)
    table = {
        "t": steps.t.astype(np.int32),
        "sigma": np.sqrt(1 / steps.alphas_cumprod - 1),
        "scale": np.sqrt(1 / steps.alphas_cumprod),
        "alpha": steps.alphas_cumprod,
        "previous": steps.previous,
        "of_x0": steps.of_x0,
        "of_x_t": steps.of_x_t,
        "least": steps.log_variance,
        "greatest": np.log(steps.betas),
        "fixed": fixed_large,
        "is_noisy": np.arange(len(steps.t)) > 0,
    }
    plan = {
        name: values[order].astype(np.float32 if values.dtype == np.float64 else values.dtype)
        for name, values in table.items()
    }

    def step(x: Array, now: tuple[dict[str, Any], Array]) -> tuple[Array, None]:
        at, fresh = now
        eps, v = _parts(net(x, jnp.broadcast_to(at["t"], x.shape[:1])), x)
        x0 = at["scale"] * x - at["sigma"] * eps
        x0 = jnp.clip(x0, -1, 1) if clip else x0
        if method == "ddpm":
            mean = at["of_x0"] * x0 + at["of_x_t"] * x
            log_variance = at["fixed"]
            if v is not None:
                share = (v + 1) / 2
                log_variance = share * at["greatest"] + (1 - share) * at["least"]
            return mean + at["is_noisy"] * jnp.exp(log_variance / 2) * fresh, None
        eps = (at["scale"] * x - x0) / at["sigma"]
        alpha, previous = at["alpha"], at["previous"]
        std = eta * jnp.sqrt((1 - previous) / (1 - alpha) * (1 - alpha / previous))
        mean = jnp.sqrt(previous) * x0 + jnp.sqrt(1 - previous - std**2) * eps
        return mean + at["is_noisy"] * std * fresh, None

    return jax.lax.scan(step, jnp.asarray(latents), (plan, jnp.asarray(noise)))[0]


def training_losses(
    net: Net, x: Array, noise: Array, t: Array, *, schedule: Schedule = "linear"
) -> tuple[Array, Array]:
    """DiT's loss of each example: of ε, and of the variance where that is learnt.

    Args:
      net: predicts ε, or ε and what the variance is made of.
      x: [B, ..., C] data in [-1, 1]; latents may lie outside.
      noise: [B, ..., C] ~ N(0, 1).
      t: [B] integers in [0, 999].
      schedule: of the table.

    Returns:
      (mean squared error of ε [B], variational bound in bits a number [B]); DiT's loss is their
      sum. The second trains the variance alone, and is 0 where none is learnt.
    """
    steps = spaced(np.arange(STEPS), schedule)

    def at(values: np.ndarray) -> Array:
        return jnp.expand_dims(jnp.asarray(values, x.dtype)[t], tuple(range(1, x.ndim)))

    axes = tuple(range(1, x.ndim))
    x_t = at(np.sqrt(steps.alphas_cumprod)) * x + at(np.sqrt(1 - steps.alphas_cumprod)) * noise
    eps, v = _parts(net(x_t, t), x)
    error = jnp.mean(jnp.square(eps - noise), axis=axes)
    if v is None:
        return error, jnp.zeros_like(error)
    eps, share = jax.lax.stop_gradient(eps), (v + 1) / 2
    x0 = at(np.sqrt(1 / steps.alphas_cumprod)) * x_t
    x0 = x0 - at(np.sqrt(1 / steps.alphas_cumprod - 1)) * eps
    mean, wanted = (at(steps.of_x0) * each + at(steps.of_x_t) * x_t for each in (x0, x))
    least = at(steps.log_variance)
    log_variance = share * at(np.log(steps.betas)) + (1 - share) * least
    divergence = log_variance - least + jnp.exp(least - log_variance) - 1
    divergence = (divergence + jnp.square(wanted - mean) * jnp.exp(-log_variance)) / 2
    nats = jnp.where(at(steps.t) == 0, -_log_likelihood(x, mean, log_variance / 2), divergence)
    return error, jnp.mean(nats, axis=axes) / math.log(2)


def _parts(output: Array, x: Array) -> tuple[Array, Array | None]:
    """ε, and what the variance is made of, if anything follows."""
    channels = x.shape[-1]
    if output.shape[-1] not in (channels, 2 * channels):
        raise ValueError(
            f"the network returned {list(output.shape)} for x_t {list(x.shape)}; as many channels "
            "are needed, or twice as many with a learnt variance"
        )
    v = output[..., channels:]
    return output[..., :channels], v if v.shape[-1] else None


def _log_likelihood(x: Array, mean: Array, log_std: Array) -> Array:
    """Log-probability of 8-bit levels in [-1, 1] under a normal distribution, elementwise."""

    def below(bound: Array) -> Array:  # the cumulative distribution, as published approximated
        z = (bound - mean) * jnp.exp(-log_std)
        return (1 + jnp.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2

    low, high = below(x - _LEVEL), below(x + _LEVEL)
    inside = jnp.where(x < -0.999, high, jnp.where(x > 0.999, 1 - low, high - low))
    return jnp.log(jnp.maximum(inside, 1e-12))
