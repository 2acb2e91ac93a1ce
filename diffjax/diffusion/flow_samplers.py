"""SiT's samplers along an interpolant: the probability flow, and a diffusion of any noise.

Source: Ma et al. 2024 (arXiv:2401.08740), sections 2.4 and 3.4. Times run from 0, noise, to 1.
"""

from collections.abc import Callable
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion import interpolants
from diffjax.interfaces import Array

Function = Callable[[Array, Array], Array]  # (x_t [B, ...], t [B]) -> [B, ...]


def flow(
    velocity: Function,
    x: Array,
    times: Array | np.ndarray,
    *,
    method: Literal["euler", "heun"] = "heun",
) -> Array:
    """Follow dx/dt = velocity(x, t) over given times; one compiled loop.

    Args:
      velocity: of the probability flow, such as a network's prediction; `interpolants.velocity`
        makes one of other predictions.
      x: [B, ...] at the first time: N(0, 1) at 0, or data at 1.
      times: [N + 1], `np.linspace(0, 1, N + 1)` for N equal steps, falling to go from data to
        noise.
      method: "euler", one evaluation a step; "heun", two.

    Returns:
      [B, ...] at the last time.
    """

    def step(x: Array, now: tuple[Array, Array]) -> tuple[Array, None]:
        t, length = now
        return _step(velocity, x, t, length, method), None

    return jax.lax.scan(step, jnp.asarray(x), _steps(times))[0]


def diffusion(
    predict: Function,
    x: Array,
    times: Array | np.ndarray,
    noise: Array,
    *,
    path: interpolants.Path = "linear",
    predicts: interpolants.Prediction = "velocity",
    form: interpolants.Form = "sigma",
    norm: float = 1.0,
    method: Literal["euler", "heun"] = "euler",
    last: Literal["", "mean", "tweedie", "euler"] = "mean",
    last_step: float = 0.04,
) -> Array:
    """Sample by a diffusion of the interpolant's marginals; one compiled loop.

    dx = (velocity + w score) dt + √(2w) dW, w(t) being free (SiT, equation 10).

    Args:
      predict: a network's prediction.
      x: [B, ...] ~ N(0, 1).
      times: [N + 1], rising; published is `np.linspace(0, 1 - last_step, N + 1)`.
      noise: [N, B, ...] ~ N(0, 1).
      path: of the interpolant.
      predicts: "velocity", "eps" or "score".
      form: of w; see `interpolants.diffusion`.
      norm: factor of w.
      method: "euler", Euler and Maruyama's; "heun", of the drift after the step's noise.
      last: step without noise from the last time to the data: "mean", of the drift; "tweedie",
        the estimate of the data; "euler", of the velocity; "" for none.
      last_step: its length.

    Returns:
      [B, ...].
    """
    times = np.asarray(times, np.float64)
    chex.assert_shape(noise, (len(times) - 1, *jnp.shape(x)))

    def both(x: Array, t: Array) -> tuple[Array, Array]:
        output = predict(x, t)
        velocity = interpolants.velocity(path, predicts, output, x, t)
        return velocity, interpolants.score(path, predicts, output, x, t)

    def drift(x: Array, t: Array) -> Array:
        velocity, score = both(x, t)
        weight = interpolants.diffusion(path, form, t, norm)
        return velocity + jnp.expand_dims(weight, tuple(range(1, x.ndim))) * score

    def step(x: Array, now: tuple[tuple[Array, Array], Array]) -> tuple[Array, None]:
        (t, length), fresh = now
        added = jnp.sqrt(2 * interpolants.diffusion(path, form, t, norm) * length) * fresh
        if method == "heun":
            return _step(drift, x + added, t, length, method), None
        return _step(drift, x, t, length, method) + added, None

    x = jax.lax.scan(step, jnp.asarray(x), (_steps(times), jnp.asarray(noise)))[0]
    t = jnp.full(x.shape[:1], times[-1], x.dtype)
    if last == "mean":
        return x + drift(x, t) * last_step
    if last == "euler":
        return x + both(x, t)[0] * last_step
    if last == "tweedie":
        process, end = interpolants.process(path), t[0]
        return (x + jnp.square(process.s(end)) * both(x, t)[1]) / process.a(end)
    return x


def _steps(times: Array | np.ndarray) -> tuple[Array, Array]:
    """Where steps begin, and their lengths, [N] float32 each."""
    times = np.asarray(times, np.float64)
    return jnp.asarray(times[:-1], jnp.float32), jnp.asarray(np.diff(times), jnp.float32)


def _step(function: Function, x: Array, t: Array, length: Array, method: str) -> Array:
    def slope(x: Array, t: Array) -> Array:
        return function(x, jnp.broadcast_to(t, x.shape[:1]))

    first = slope(x, t)
    if method == "euler":
        return x + length * first
    return x + length * (first + slope(x + length * first, t + length)) / 2
