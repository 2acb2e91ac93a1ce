"""Times of noise levels: tables of processes made once in float64, and read in any type."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion import predictions
from diffjax.interfaces import Array

Function = Callable[[Any], Any]

POINTS = 4096
# Cells of the integral of β, and Gauss-Legendre points in each.
_CELLS, _NODES = 1024, 5
_AT_INFINITY = "; leave it out, sigma is infinite there"


def evaluate(function: Callable[..., Any], *arguments: np.ndarray) -> Any:
    """Call a JAX function in float64, now, whatever is being traced and whatever the types are.

    Args:
      function: of arrays.
      *arguments: float64.

    Returns:
      Its results as NumPy arrays.
    """
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        given = [jnp.asarray(each, jnp.float64) for each in arguments]
        return jax.tree.map(np.asarray, function(*given))


def check_function(function: Any, name: str) -> None:
    """Check that a function of t can be traced: elementwise, and in jax.numpy.

    Args:
      function: of t, elementwise; it may give a constant.
      name: of it, for the message.

    Raises:
      ValueError: in one line, if it fails for an array of times.
    """
    try:
        jax.eval_shape(
            lambda t: predictions.value_at(function, t, t.dtype),
            jax.ShapeDtypeStruct((2,), jnp.float32),
        )
    except Exception as error:  # a user's function: anything
        raise _no_function(name, error) from error


def _no_function(name: str, error: Exception) -> ValueError:
    text = (str(error).strip().splitlines() or [""])[0]
    return ValueError(
        f"{name} must be a function of t in jax.numpy, elementwise ({type(error).__name__}: {text})"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class LogSigma:
    """Log of σ = s/a as a function of t.

    Attributes:
      a: factor of the data.
      s: factor of the noise.
    """

    a: Function
    s: Function

    def __call__(self, t: Array) -> Array:
        """Compute log σ at t, elementwise."""
        return jnp.log(self.ratio(t))

    def ratio(self, t: Array) -> Array:
        """Compute σ at t, elementwise."""
        return predictions.value_at(self.s, t, t.dtype) / predictions.value_at(self.a, t, t.dtype)

    def and_slope(self, t: Array, sigma: Array) -> tuple[Array, Array]:
        """Compute log(σ(t)/sigma), and its derivative in t."""
        return predictions.with_derivative(lambda at: jnp.log(self.ratio(at) / sigma), t)


def checked_ends(log_sigma: LogSigma, t_min: float, t_max: float) -> tuple[float, float]:
    """Check that σ is positive and monotone, and find it at both ends.

    Args:
      log_sigma: of the process.
      t_min: least time.
      t_max: greatest time.

    Returns:
      σ at t_min and at t_max; 0 and infinity are allowed there.

    Raises:
      ValueError: naming the time at which σ isn't positive, or turns.
    """
    t = np.linspace(t_min, t_max, POINTS)
    sigma = evaluate(jax.jit(log_sigma.ratio), t)
    wrong = np.isnan(sigma) | (sigma < 0)
    wrong[1:-1] |= (sigma[1:-1] == 0) | np.isinf(sigma[1:-1])
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"Process: sigma = s/a is {sigma[at]:.4g} at t={t[at]:.4g}; a and s must be positive "
            "from t_min to t_max"
        )
    rises = sigma[1:] > sigma[:-1]
    falls = sigma[1:] < sigma[:-1]
    if not rises.all() and not falls.all():
        forward = rises if rises.sum() >= falls.sum() else falls
        at = int(np.argmin(forward))
        raise ValueError(
            f"Process: sigma = s/a isn't monotone: it is {sigma[at]:.4g} at t={t[at]:.4g} and "
            f"{sigma[at + 1]:.4g} at t={t[at + 1]:.4g}; set t_min and t_max to where it rises or "
            "falls"
        )
    return float(sigma[0]), float(sigma[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class Tabulated:
    """Inverse of log σ(t) by cubic Hermite interpolation and one step of Newton's method.

    Attributes:
      log_sigma: what is inverted.
      levels: [POINTS] log σ, increasing evenly.
      times: [POINTS] t there.
      slopes: [POINTS] change of t per interval of `levels`.
    """

    log_sigma: LogSigma
    levels: np.ndarray
    times: np.ndarray
    slopes: np.ndarray

    def __call__(self, sigma: Array) -> Array:
        """Find t of σ, elementwise, σ being clipped to the range of the table."""
        sigma = _floating(sigma)
        levels, times, slopes = (
            jnp.asarray(each, sigma.dtype) for each in (self.levels, self.times, self.slopes)
        )
        log = jnp.clip(jnp.log(sigma), levels[0], levels[-1])
        interval = (self.levels[-1] - self.levels[0]) / (POINTS - 1)
        k = jnp.clip(jnp.floor((log - levels[0]) / interval).astype(int), 0, POINTS - 2)
        u = jnp.clip((log - levels[k]) / interval, 0, 1)
        rise = times[k + 1] - times[k]
        first, last = slopes[k], slopes[k + 1]
        t = times[k] + u * (
            first + u * (3 * rise - 2 * first - last + u * (first + last - 2 * rise))
        )
        # The ratio of two σ keeps more digits than the difference of their logs.
        clipped = jnp.clip(sigma, np.exp(self.levels[0]), np.exp(self.levels[-1]))
        error, slope = self.log_sigma.and_slope(t, clipped)
        better = t - error / slope
        low, high = min(self.times[0], self.times[-1]), max(self.times[0], self.times[-1])
        return jnp.clip(jnp.where(jnp.isfinite(better), better, t), low, high)


def tabulate(log_sigma: LogSigma, t_min: float, t_max: float) -> Tabulated:
    """Tabulate the inverse of a monotone log σ.

    Args:
      log_sigma: of the process, once `checked_ends` has passed it.
      t_min: least time.
      t_max: greatest time.
    """
    grid = np.linspace(t_min, t_max, POINTS)
    logs = _logs(log_sigma, grid)
    little = np.spacing(1.0) ** 0.5 * (t_max - t_min)  # σ is 0 or infinite at an end: just inside
    for end, at in ((0, t_min + little), (-1, t_max - little)):
        if not np.isfinite(logs[end]):
            grid[end] = at
            logs[end] = _logs(log_sigma, grid[[end]])[0]
    if logs[0] > logs[-1]:
        grid, logs = grid[::-1], logs[::-1]
    levels = np.linspace(logs[0], logs[-1], POINTS)
    log, log_and_slope = jax.jit(log_sigma), jax.jit(log_sigma.and_slope)
    k = np.clip(np.searchsorted(logs, levels, side="right") - 1, 0, POINTS - 2)
    low, high = grid[k], grid[k + 1]
    for _ in range(20):
        middle = (low + high) / 2
        below = evaluate(log, middle) < levels
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    times = (low + high) / 2
    for _ in range(2):  # Newton's method, which doubles the digits
        error, slope = evaluate(log_and_slope, times, np.exp(levels))
        with np.errstate(divide="ignore", invalid="ignore"):
            better = times - error / slope
        inside = (better >= np.minimum(low, high)) & (better <= np.maximum(low, high))
        times = np.where(inside, better, times)
    times[[0, -1]] = grid[[0, -1]]
    _, slope = evaluate(log_and_slope, times, np.exp(levels))
    interval = levels[1] - levels[0]
    with np.errstate(divide="ignore"):
        slopes = interval / slope
    return Tabulated(log_sigma, levels, times, np.where(np.isfinite(slopes), slopes, 0.0))


def _logs(log_sigma: LogSigma, t: np.ndarray) -> np.ndarray:
    return np.array(evaluate(jax.jit(log_sigma), t))


def integral(beta: Function, t_max: float) -> Function:
    """Integrate β from 0 to t, as a polynomial of fifth degree in each of 1024 cells.

    Args:
      beta: function of t, elementwise, ≥ 0, called once.
      t_max: greatest time.

    Returns:
      B(t), elementwise, exact to rounding for a smooth β.

    Raises:
      ValueError: for a β that fails, is negative or not finite.
    """
    nodes, _ = np.polynomial.legendre.leggauss(_NODES)
    nodes = (nodes + 1) / 2
    width = t_max / _CELLS
    at = (np.arange(_CELLS)[:, None] + nodes) * width
    try:  # untraced, so that NumPy's functions do
        values = evaluate(lambda t: predictions.value_at(beta, t, t.dtype), at)
    except Exception as error:  # a user's function: anything
        raise _no_function("Process.vp: beta", error) from error
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        first = np.unravel_index(np.argmax(wrong), wrong.shape)
        raise ValueError(
            f"Process.vp: beta is {values[first]:.4g} at t={at[first]:.4g}; it must be positive "
            f"from 0 to t_max={t_max:g}"
        )
    powers = np.vander(nodes, increasing=True)
    polynomials = np.linalg.solve(powers, values.T) / np.arange(1, _NODES + 1)[:, None] * width
    starts = np.concatenate([[0.0], np.cumsum(polynomials.sum(axis=0))[:-1]])

    def integrated(t: Any) -> Array:
        t = _floating(t)
        cell = jnp.clip(jnp.floor(t / width).astype(int), 0, _CELLS - 1)
        z = t / width - cell
        total = jnp.zeros_like(z)
        for coefficients in polynomials[::-1]:
            total = (total + jnp.asarray(coefficients, t.dtype)[cell]) * z
        return jnp.asarray(starts, t.dtype)[cell] + total

    return integrated


@dataclasses.dataclass(frozen=True, eq=False)
class OfTable:
    """Process of a table of σ: the time of a noise level, and a and s at a time.

    Attributes:
      table: [N] σ at t = 0, 1, …, increasing, N ≥ 2.
      interpolate: whether there are times between, log σ being linear there.
    """

    table: np.ndarray
    interpolate: bool = False

    def __post_init__(self) -> None:
        table = self.table
        if table.ndim != 1 or len(table) < 2:
            raise ValueError(
                f"Process: table has shape {list(table.shape)}; it must be [N], N at least 2"
            )
        if not (np.isfinite(table).all() and table[0] > 0 and (np.diff(table) > 0).all()):
            raise ValueError("Process: table must be sigma > 0 that increases with t, and finite")

    def __call__(self, sigma: Array) -> Array:
        """Find t of σ, elementwise, σ being clipped to the table; integer if it snaps."""
        sigma = _floating(sigma)
        logs = jnp.asarray(np.log(self.table), sigma.dtype)
        last = len(self.table) - 2
        # Counted and not searched: a table is short, and jax2onnx knows no `jnp.searchsorted`.
        below = jnp.sum(logs <= jnp.log(sigma)[..., None], axis=-1)
        k = jnp.clip(below - 1, 0, last)
        level, step = self._level_and_step(k, sigma.dtype)
        between = jnp.clip(jnp.log(sigma / level) / step, 0, 1)
        if self.interpolate:
            return k + between
        return (k + (between > 0.5)).astype(jnp.int32)

    def a(self, t: Array) -> Array:
        """Compute a = 1/√(1 + σ²) at t."""
        return jax.lax.rsqrt(1 + jnp.square(self._sigma(t)))

    def s(self, t: Array) -> Array:
        """Compute s = σ/√(1 + σ²) at t."""
        sigma = self._sigma(t)
        return sigma * jax.lax.rsqrt(1 + jnp.square(sigma))

    def _sigma(self, t: Array) -> Array:
        t = jnp.asarray(t)
        if jnp.issubdtype(t.dtype, jnp.integer) or not self.interpolate:
            dtype = jnp.promote_types(t.dtype, jnp.result_type(float))
            return jnp.asarray(self.table, dtype)[jnp.round(t).astype(int)]
        k = jnp.clip(jnp.floor(t).astype(int), 0, len(self.table) - 2)
        level, step = self._level_and_step(k, t.dtype)
        return level * jnp.exp((t - k) * step)

    def _level_and_step(self, k: Array, dtype: Any) -> tuple[Array, Array]:
        steps = np.diff(np.log(self.table))
        return jnp.asarray(self.table, dtype)[k], jnp.asarray(steps, dtype)[k]


def alphas_of_betas(betas: Any) -> np.ndarray:
    """Multiply 1 − β up to ᾱ.

    Args:
      betas: [N], each in (0, 1), rising from about 0.

    Returns:
      [N] float64.

    Raises:
      ValueError: naming the first β that can't be.
    """
    values = _one_dimensional(betas, "betas")
    wrong = ~((values > 0) & (values < 1))
    if wrong.any():
        at = int(np.argmax(wrong))
        remedy = _AT_INFINITY if values[at] == 1 else ""
        raise ValueError(f"Process.ddpm: betas[{at}]={values[at]:.4g} is outside (0, 1){remedy}")
    if values[0] > 0.5 and values[-1] < values[0]:
        raise ValueError(
            f"Process.ddpm: betas fall from {values[0]:.4g} to {values[-1]:.4g}; they must be "
            "small (are these alphas_cumprod?)"
        )
    return np.cumprod(1 - values)


def sigmas_of_alphas(alphas_cumprod: Any) -> np.ndarray:
    """Find σ = √((1 − ᾱ)/ᾱ) of a table of ᾱ.

    Args:
      alphas_cumprod: [N], each in (0, 1), falling from about 1.

    Returns:
      [N] float64, increasing.

    Raises:
      ValueError: naming the first ᾱ that can't be.
    """
    name, must = "Process.ddpm: alphas_cumprod", "it must fall from about 1"
    values = _one_dimensional(alphas_cumprod, "alphas_cumprod")
    rises = np.diff(values) > 0
    if rises.any():
        at = int(np.argmax(rises)) + 1
        raise ValueError(f"{name} increases at {at}; {must} (are these betas?)")
    wrong = ~((values > 0) & (values < 1))
    if wrong.any():
        at = int(np.argmax(wrong))
        remedy = _AT_INFINITY if values[at] == 0 else f"; {must}"
        raise ValueError(f"{name}[{at}]={values[at]:.4g} is outside (0, 1){remedy}")
    if (np.diff(values) == 0).any():
        at = int(np.argmax(np.diff(values) == 0)) + 1
        raise ValueError(f"{name} stays the same at {at}; {must}")
    if values[0] < 0.5:
        raise ValueError(f"{name} begins at {values[0]:.4g}; {must} (are these betas?)")
    return np.sqrt((1 - values) / values)


def _one_dimensional(values: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Process.ddpm: {name} must be a list of numbers, not {values!r}"
        ) from error
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(
            f"Process.ddpm: {name} has shape {list(array.shape)}; it must be [N], N at least 2"
        )
    return array


def _floating(values: Any) -> Array:
    """Array of a floating type: integers become the default one."""
    array = jnp.asarray(values)
    return (
        array.astype(jnp.promote_types(array.dtype, jnp.result_type(float)))
        if (jnp.issubdtype(array.dtype, jnp.integer))
        else array
    )
