"""Samplers of EDM (Karras et al. 2022, arXiv:2206.00364, Algorithms 1 and 2)."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array, PRNGKey

_Denoise = Callable[[Array, Array], Array]
_Carry = tuple[Array, Array, Array]  # x, where the step began, its first slope
_LOOPS = ("auto", "scan", "unroll")


class _Evaluation(NamedTuple):
    """Where the network is asked, and what follows; or arrays of these, [2N − 1] each."""

    step: Any
    corrects: Any  # whether it is a step's second
    sigma: Any
    added: Any  # standard deviation of the noise that comes first
    length: Any  # of the step, negative


def edm_heun(
    denoise: _Denoise,
    latents: Array,
    sigmas: Array | np.ndarray,
    *,
    guide: _Denoise | None = None,
    guidance: float = 1.0,
    guidance_interval: tuple[int, int] | None = None,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    rng: PRNGKey | None = None,
    noise: Array | None = None,
    loop: Literal["auto", "scan", "unroll"] = "auto",
) -> Array:
    """Sample by Heun's second-order method, with optional stochasticity ("churn").

    Works inside `jit`, `grad` and `vmap`, where it is one compiled loop, and outside them, where
    the loop is Python's and `denoise` should be jitted. Either way one evaluation of the network is
    compiled, not 2N − 1. On a GPU or TPU both run at one speed. On a CPU call it outside of `jit`:
    in a compiled loop XLA runs convolutions on one thread.

    Args:
      denoise: (x [B, ...], σ [B]) -> D(x; σ) [B, ...].
      latents: [B, ...] ~ N(0, I); the first step scales them by sigmas[0].
      sigmas: [N + 1], decreasing, the last of them 0; `noise.heun_sigmas` is EDM's grid.
      guide: denoiser of a guiding network, called as `denoise` is, by which samples follow
        D_guide + g (D − D_guide): an unconditional network for classifier-free guidance, a smaller
        or less trained one for autoguidance (Karras et al. 2024, arXiv:2406.02507).
      guidance: g; at 1 the guide isn't asked.
      guidance_interval: (first, last) step with guidance, counted from 0, both included
        (Kynkäänniemi et al. 2024, arXiv:2404.07724); None for all steps.
      s_churn: S_churn, the amount of fresh noise over all steps; 0 is the deterministic sampler.
      s_min: S_min; no noise is added below this σ.
      s_max: S_max; no noise is added above this σ.
      s_noise: S_noise, the standard deviation of the noise.
      rng: key of the noise, or [B] keys, one an example, by which an example's noise does not
        depend on the batch that it is in.
      noise: [N, B, ...] ~ N(0, I), given instead of `rng` to replay a run.
      loop: "scan" for one compiled loop, which outside of `jit` is compiled anew by each call;
        "unroll" for Python's, which inside `jit` compiles 2N − 1 evaluations: N = 18 of a network
        of 14M parameters are minutes, against seconds. It keeps all threads of a CPU. "auto" is
        "scan" where the samples are traced, else "unroll". The results are equal up to rounding.

    Returns:
      [B, ...] samples, after 2N − 1 evaluations of the denoiser, and of its guide where that is on.
      They are in the type of the latents, or float32 if that has fewer bits, and all of the sampler
      is computed in that type.

    Raises:
      ValueError: s_churn below 0, or without rng or noise; both of them given, or keys for another
        batch; latents of integers; guidance without a guide, or an interval without a step; fewer
        than two sigmas, or such as rise or are 0 before the last, unless they are traced; or a loop
        of another name.
    """
    sigmas = np.asarray(sigmas) if isinstance(sigmas, list | tuple) else sigmas
    chex.assert_rank(sigmas, 1)
    if s_churn < 0:
        raise ValueError(f"edm_heun: s_churn={s_churn:g} must be at least 0.")
    if rng is not None and noise is not None:
        raise ValueError("edm_heun takes rng or noise, not both.")
    if s_churn > 0 and rng is None and noise is None:
        raise ValueError("edm_heun: s_churn > 0 needs rng or noise.")
    if len(sigmas) < 2:
        raise ValueError(f"edm_heun: sigmas has {len(sigmas)} entries; a step takes two.")
    if not isinstance(sigmas, jax.core.Tracer):
        levels = np.asarray(sigmas)
        rises = levels[1:] > levels[:-1] * (1 + 1e-6)  # more than by rounding
        if rises.any() or not (levels[:-1] > 0).all():
            raise ValueError(
                f"edm_heun: sigmas, from {levels[0]:g} to {levels[-1]:g}, must fall, and only the "
                "last may be 0; noise.heun_sigmas gives such a grid."
            )
    if loop not in _LOOPS:
        raise ValueError(f"edm_heun: loop={loop!r}; known are: {', '.join(_LOOPS)}.")
    guided = _guided(denoise, guide, guidance, guidance_interval)
    batch, steps = latents.shape[0], len(sigmas) - 1
    if noise is not None:
        chex.assert_shape(noise, (steps, *latents.shape))
    latents = jnp.asarray(latents)
    if not jnp.issubdtype(latents.dtype, jnp.floating):
        raise ValueError(f"edm_heun: latents are {latents.dtype}; they must be floats of N(0, I).")
    dtype = latents.dtype if jnp.finfo(latents.dtype).bits > 32 else jnp.dtype(jnp.float32)
    gamma = min(s_churn / steps, math.sqrt(2) - 1)
    plan = _plan(sigmas, gamma, s_min=s_min, s_max=s_max, s_noise=s_noise, dtype=dtype)

    def evaluate(carry: _Carry, now: _Evaluation) -> tuple[_Carry, None]:
        x, start, first_slope = carry
        # A correction adds none; where that is known beforehand none is drawn.
        if s_churn > 0 and now.corrects is not np.True_:
            x = x + now.added * _noise(rng, noise, now.step, x)
        denoised = guided(x, jnp.full((batch,), now.sigma, dtype), now.step)
        slope = (x - denoised) / now.sigma
        # A step is Euler's, and then done again from its start with the mean of both slopes.
        start = jnp.where(now.corrects, start, x)
        mean = jnp.where(now.corrects, (first_slope + slope) / 2, slope)
        return (start + now.length * mean, start, slope), None

    x = latents.astype(dtype) * jnp.asarray(sigmas[0], dtype)
    carry = x, x, x
    if loop == "scan" or (loop == "auto" and isinstance(x, jax.core.Tracer)):
        return jax.lax.scan(evaluate, carry, plan)[0][0]
    for i in range(2 * steps - 1):
        carry, _ = evaluate(carry, _Evaluation(*(values[i] for values in plan)))
    return carry[0]


def _guided(
    denoise: _Denoise, guide: _Denoise | None, guidance: float, interval: tuple[int, int] | None
) -> Callable[[Array, Array, Any], Array]:
    """Denoiser of x, σ and the step's number, in the type of x, with its guide in some steps."""
    if guidance != 1 and guide is None:
        raise ValueError(f"edm_heun: guidance={guidance:g} needs a guide.")
    if interval is not None and not 0 <= interval[0] <= interval[1]:
        raise ValueError(f"edm_heun: guidance_interval={interval} holds no step.")

    def plain(x: Array, sigma: Array) -> Array:
        return jnp.asarray(denoise(x, sigma), x.dtype)

    def both(x: Array, sigma: Array) -> Array:
        assert guide is not None
        own, other = plain(x, sigma), jnp.asarray(guide(x, sigma), x.dtype)
        return other + guidance * (own - other)

    def guided(x: Array, sigma: Array, step: Any) -> Array:
        if guidance == 1:
            return plain(x, sigma)
        if interval is None:
            return both(x, sigma)
        is_guided = (interval[0] <= step) & (step <= interval[1])
        if isinstance(is_guided, jax.Array):  # traced, as in a compiled loop
            return jax.lax.cond(is_guided, both, plain, x, sigma)
        return (both if is_guided else plain)(x, sigma)

    return guided


def _plan(
    sigmas: Array | np.ndarray,
    gamma: float,
    *,
    s_min: float,
    s_max: float,
    s_noise: float,
    dtype: jnp.dtype,
) -> _Evaluation:
    """Plan all evaluations: two a step, but one in the last."""
    xp: Any = jnp if isinstance(sigmas, jax.Array) else np
    sigma, following = sigmas[:-1], sigmas[1:]
    gammas = xp.where((sigma >= s_min) & (sigma <= s_max), gamma, 0.0)
    raised = sigma * (1 + gammas)
    # √(raised² − σ²), in the form that rounding can't make negative where γ is 0.
    added = sigma * xp.sqrt(gammas * (2 + gammas)) * s_noise
    length = following - raised

    def alternate(first: Any, second: Any) -> Any:
        return xp.stack([first, second], axis=1).ravel()[:-1].astype(dtype)

    index = np.arange(2 * len(sigma) - 1)
    return _Evaluation(
        step=index // 2,
        corrects=index % 2 == 1,
        sigma=alternate(raised, following),
        added=alternate(added, xp.zeros_like(added)),
        length=alternate(length, length),
    )


def _noise(rng: PRNGKey | None, noise: Array | None, step: Any, like: Array) -> Array:
    """Pick a step's standard normals, or draw them from one key or from a key an example."""
    if noise is not None:
        return jnp.asarray(noise, like.dtype)[step]
    assert rng is not None

    def draw(key: PRNGKey, shape: tuple[int, ...]) -> Array:
        return jax.random.normal(jax.random.fold_in(key, step), shape, like.dtype)

    is_batch_of_keys = rng.ndim == (1 if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) else 2)
    if is_batch_of_keys:
        if len(rng) != len(like):
            raise ValueError(f"edm_heun: rng holds {len(rng)} keys for {len(like)} latents.")
        return jax.vmap(lambda key: draw(key, like.shape[1:]))(rng)
    return draw(rng, like.shape)
