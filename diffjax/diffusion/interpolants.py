"""SiT's interpolants between noise and data, as processes, and its loss (Ma et al. 2024).

Times are SiT's (arXiv:2401.08740): noise at t = 0, data at t = 1. A network of SiT predicts the
velocity a' x₀ + s' ε of x_t = a x₀ + s ε, the noise ε, or the score −ε/s.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from diffjax.diffusion import predictions
from diffjax.diffusion.process import Process
from diffjax.interfaces import Array

Path = Literal["linear", "gvp", "vp"]
Prediction = Literal["velocity", "eps", "score"]
Form = Literal["constant", "SBDM", "sigma", "linear", "decreasing", "increasing-decreasing"]
PATHS: tuple[Path, ...] = ("linear", "gvp", "vp")
PREDICTIONS: tuple[Prediction, ...] = ("velocity", "eps", "score")
_BETA_MIN, _BETA_MAX = 0.1, 20.0  # of the variance preserving path
_VP_NOISE_END, _VP_DATA_END = 1e-3, 1e-5  # times that paths keep from their ends
_NOISE_END, _DATA_END = 5e-3, 1e-3


@functools.cache
def process(path: Path = "linear") -> Process:
    """Process of an interpolant, its data at t = 1.

    Args:
      path: "linear", x_t = t x₀ + (1 − t) ε; "gvp", with sin(πt/2) and cos(πt/2); "vp", the
        variance preserving diffusion whose β falls from 20 to 0.1.

    Raises:
      ValueError: for another path.
    """
    if path == "linear":
        return Process.rectified_flow(data_at=1)
    if path == "gvp":
        return Process(
            lambda t: jnp.sin(math.pi / 2 * t),
            # The sine of the complement keeps its digits near t = 1, where the cosine is small.
            lambda t: jnp.sin(math.pi / 2 * (1 - t)),
            t_min=_NOISE_END,
            t_max=1 - _DATA_END,
            t_of_sigma=lambda sigma: 2 / math.pi * jnp.arctan(1 / sigma),
        )
    if path != "vp":
        raise ValueError(f"path={path!r} is none of SiT's: {', '.join(PATHS)}")
    slope = _BETA_MAX - _BETA_MIN

    def log_a(t: Array) -> Array:
        return -(slope * jnp.square(1 - t) / 2 + _BETA_MIN * (1 - t)) / 2

    def t_of_sigma(sigma: Array) -> Array:
        from_data = jnp.sqrt(_BETA_MIN**2 + 2 * slope * jnp.log1p(jnp.square(sigma))) - _BETA_MIN
        return 1 - from_data / slope

    return Process(
        lambda t: jnp.exp(log_a(t)),
        lambda t: jnp.sqrt(-jnp.expm1(2 * log_a(t))),
        t_min=_VP_NOISE_END,
        t_max=1 - _VP_DATA_END,
        t_of_sigma=t_of_sigma,
    )


def drift_variance(path: Path, t: Array) -> Array:
    """Factor w of the score in the velocity, (a'/a) x_t + w ∇ log p: w = (a'/a) s² − s s'.

    Args:
      path: of the interpolant.
      t: times in (0, 1), of any shape.
    """
    (a, da), (s, ds) = _of_path(path, t)
    return da / a * s * s - s * ds


def velocity(path: Path, predicts: Prediction, output: Array, x_t: Array, t: Array) -> Array:
    """Velocity dx_t/dt of the probability flow, of what a network predicts.

    Args:
      path: of the interpolant.
      predicts: "velocity", "eps" or "score".
      output: [B, ...] of the network at x_t and t.
      x_t: [B, ...].
      t: [B] times; in (0, 1) unless the velocity is predicted.
    """
    if predicts == "velocity":
        return output
    t = _per_example(t, x_t)
    (a, da), (s, _) = _of_path(path, t)
    of_score = output if predicts == "score" else -output / s
    return da / a * x_t + drift_variance(path, t) * of_score


def score(path: Path, predicts: Prediction, output: Array, x_t: Array, t: Array) -> Array:
    """Score ∇ log p(x_t) of what a network predicts.

    Args:
      path: of the interpolant.
      predicts: "velocity", "eps" or "score".
      output: [B, ...] of the network at x_t and t.
      x_t: [B, ...].
      t: [B] times, less than 1.
    """
    if predicts == "score":
        return output
    t = _per_example(t, x_t)
    (a, da), (s, ds) = _of_path(path, t)
    if predicts == "eps":
        return -output / s
    # −ε/s with ε = (a v − a' x_t) / (a s' − a' s), which a = 0 at t = 0 leaves finite.
    return (a * output - da * x_t) / (s * (da * s - a * ds))


def diffusion(path: Path, form: Form, t: Array, norm: float = 1.0) -> Array:
    """Coefficient w(t) of the noise that a stochastic sampler adds, √(2w) dW (SiT, table 2).

    Args:
      path: of the interpolant.
      form: "constant"; "SBDM", that of the diffusion whose flow this is, infinite at t = 0 of
        "linear" and "gvp"; "sigma", s(t); "linear", 1 − t; "decreasing", (cos πt + 1)²/4 for a
        norm of 1; "increasing-decreasing", sin² πt.
      t: times in [0, 1], of any shape.
      norm: factor, which in "decreasing" is one of the cosine.

    Returns:
      Of the shape of t.

    Raises:
      ValueError: for another form.
    """
    t = jnp.asarray(t)
    forms: dict[str, Callable[[], Array]] = {
        "constant": lambda: jnp.full_like(t, norm),
        "SBDM": lambda: norm * drift_variance(path, t),
        "sigma": lambda: norm * _of_path(path, t)[1][0],
        "linear": lambda: norm * (1 - t),
        "decreasing": lambda: jnp.square(norm * jnp.cos(jnp.pi * t) + 1) / 4,
        "increasing-decreasing": lambda: norm * jnp.square(jnp.sin(jnp.pi * t)),
    }
    if form not in forms:
        raise ValueError(f"form={form!r} is none of SiT's: {', '.join(forms)}")
    return forms[form]()


def training_losses(
    net: Callable[[Array, Array], Array],
    x: Array,
    noise: Array,
    t: Array,
    *,
    path: Path = "linear",
    predicts: Prediction = "velocity",
    weight: Literal["none", "velocity", "likelihood"] = "none",
) -> Array:
    """SiT's loss of each example, the mean over its numbers.

    A network that predicts the velocity learns it; one of ε or of the score learns ε, by a weight:
    1, (w/s)² or w/s² with w of `drift_variance`.

    Args:
      net: (x_t [B, ...], t [B]) -> prediction [B, ...].
      x: [B, ...] data.
      noise: [B, ...] ~ N(0, 1).
      t: [B] times, uniform in [0, 1] for a velocity, within (0, 1) otherwise.
      path: of the interpolant.
      predicts: "velocity", "eps" or "score".
      weight: of the others' loss.

    Returns:
      [B].
    """
    at = _per_example(t, x)
    (a, da), (s, ds) = _of_path(path, at)
    output = net(a * x + s * noise, t)
    if predicts == "velocity":
        error = output - (da * x + ds * noise)
    else:
        error = output - noise if predicts == "eps" else output * s + noise
        w = drift_variance(path, at)
        if weight != "none":
            error = error * (w if weight == "velocity" else jnp.sqrt(w)) / s
    return jnp.mean(jnp.square(error), axis=tuple(range(1, x.ndim)))


def guided(net: Callable[..., Array], scale: float, *, channels: int = 3) -> Callable[..., Array]:
    """Classifier-free guidance as DiT's and SiT's code has it, of the first channels alone.

    Args:
      net: (x_t, t, labels) -> prediction [B, H, W, C], labels being None for no class.
      scale: 1 for no guidance.
      channels: that are guided; the published samples are of 3 out of 4.

    Returns:
      Function as `net`, whose other channels are those of the class.
    """

    def function(x_t: Array, t: Array, labels: Array) -> Array:
        own, other = net(x_t, t, labels), net(x_t, t, None)
        first = other[..., :channels] + scale * (own - other)[..., :channels]
        return jnp.concatenate([first, own[..., channels:]], axis=-1)

    return function


def _of_path(path: Path, t: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Factors a and s at t, each with its derivative."""
    of = process(path)
    return predictions.with_derivative(of.a, t), predictions.with_derivative(of.s, t)


def _per_example(t: Array, like: Array) -> Array:
    t = jnp.asarray(t, like.dtype)
    return jnp.expand_dims(t, tuple(range(t.ndim, like.ndim)))
