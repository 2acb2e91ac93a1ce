"""Denoisers from networks that predict x₀, ε, v, a velocity or the score along a process.

A process is x_t = a(t) x₀ + s(t) ε. With y = x_t/a and σ = s/a it is EDM's y = x₀ + σε, so that any
prediction of a network is one of x₀, and D(y; σ) is that prediction at x_t = a(t) y, t = t(σ).
"""

import dataclasses
import difflib
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array, Params

Function = Callable[[Array], Array]
Net = Callable[[Params, Array, Array, Any], Array]


class HasProcess(Protocol):
    """Process as far as a denoiser needs it: functions of t, and whether they are a table."""

    @property
    def a(self) -> Function:
        """Factor of x₀ at t."""
        ...

    @property
    def s(self) -> Function:
        """Factor of ε at t."""
        ...

    @property
    def t_of_sigma(self) -> Any:
        """Inverse of σ = s/a."""
        ...

    @property
    def table(self) -> np.ndarray | None:
        """σ of each integer t, where there is no other t."""
        ...


class Conversion(NamedTuple):
    """Factors of x₀ = (noisy x_t − output F) / divisor, F being the network's output.

    Attributes:
      noisy: [B], factor of x_t.
      output: [B], factor of F.
      divisor: [B].
    """

    noisy: Array
    output: Array
    divisor: Array


# Names that other libraries have for the same.
_ALIASES = {
    "noise": "eps",
    "epsilon": "eps",
    "sample": "x0",
    "data": "x0",
    "denoised": "x0",
    "x_start": "x0",
    "xstart": "x0",
    "v_prediction": "v",
    "flow": "velocity",
    "flow_prediction": "velocity",
    "u": "velocity",
}


def value_at(function: Callable[[Any], Any], t: Array, dtype: Any) -> Array:
    """Call a function of t, which may return a constant.

    Args:
      function: of t, elementwise.
      t: of any shape.
      dtype: of the result.

    Returns:
      Its values, of the shape of t.
    """
    return jnp.broadcast_to(jnp.asarray(function(t)).astype(dtype), jnp.shape(t))


def _x0(process: HasProcess, t: Array, dtype: Any) -> Conversion:
    zero, one = jnp.zeros(t.shape, dtype), jnp.ones(t.shape, dtype)
    return Conversion(zero, -one, one)


def _eps(process: HasProcess, t: Array, dtype: Any) -> Conversion:
    # (x_t − s ε)/a and not y − σε: the rounding of x_t = a y, which the network saw, cancels.
    a, s = value_at(process.a, t, dtype), value_at(process.s, t, dtype)
    return Conversion(jnp.ones_like(a), s, a)


def _v(process: HasProcess, t: Array, dtype: Any) -> Conversion:
    a, s = value_at(process.a, t, dtype), value_at(process.s, t, dtype)
    return Conversion(a, s, a * a + s * s)


def _velocity(process: HasProcess, t: Array, dtype: Any) -> Conversion:
    (a, da), (s, ds) = with_derivative(process.a, t), with_derivative(process.s, t)
    return Conversion(ds, s, ds * a - s * da)


def _score(process: HasProcess, t: Array, dtype: Any) -> Conversion:
    a, s = value_at(process.a, t, dtype), value_at(process.s, t, dtype)
    return Conversion(jnp.ones_like(a), -s * s, a)


_CONVERSIONS: dict[str, Callable[[HasProcess, Array, Any], Conversion]] = {
    "x0": _x0,
    "eps": _eps,
    "v": _v,
    "velocity": _velocity,
    "score": _score,
}


def conversion(process: HasProcess, predicts: str, t: Array, dtype: Any) -> Conversion:
    """Factors by which a network's output becomes an estimate of x₀.

    Args:
      process: that the network was trained on.
      predicts: as `ProcessDenoiser` has it.
      t: [B] times, integer on a table.
      dtype: of the factors.
    """
    return _CONVERSIONS[predicts](process, t, dtype)


def gain(process: HasProcess, predicts: str, sigma: float) -> float:
    """Size of what a unit of a network's output changes in D at σ, other than one of x₀.

    Args:
      process: that the network was trained on.
      predicts: as `ProcessDenoiser` has it; the score counts as ε, since networks of it divide
        their last layer by s.
      sigma: σ.
    """
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        t = time_of(process, jnp.asarray([float(sigma)], jnp.float64), jnp.float64)
        at = conversion(process, "eps" if predicts == "score" else predicts, t, jnp.float64)
        return abs(float(at.output[0] / at.divisor[0]))


def time_of(process: HasProcess, sigma: Array, dtype: Any) -> Array:
    """Time of σ, integer where σ snaps to a table.

    All else is taken at this time, as it is rounded for the network.

    Args:
      process: whose time it is.
      sigma: [B].
      dtype: of the time, where it is no integer.
    """
    t = jnp.asarray(process.t_of_sigma(sigma))
    return t if jnp.issubdtype(t.dtype, jnp.integer) else t.astype(dtype)


def with_derivative(function: Callable[[Any], Any], t: Array) -> tuple[Array, Array]:
    """Call a function of t and its derivative, by automatic differentiation.

    Args:
      function: of t, elementwise.
      t: of any shape, floating.

    Returns:
      Values and derivatives, each of the shape and type of t.
    """
    return jax.jvp(lambda at: value_at(function, at, t.dtype), (t,), (jnp.ones_like(t),))


@dataclasses.dataclass(frozen=True, eq=False)
class ProcessDenoiser:
    """Denoiser D(y; σ) of a network along a process, made by `Process.denoiser`.

    Attributes:
      process: the process that the network was trained on.
      net: (params, x_t [B, ...], t [B], cond) -> [B, ...].
      predicts: the network's output: "x0"; "eps"; "v" = a ε − s x₀; "velocity" = a' x₀ + s' ε, the
        derivative of x_t in t; "score" = ∇ log p(x_t) = −ε/s.
      time_scale: t is multiplied by it for the network.
      sigma_data: standard deviation of the data, for `gain` alone; None is 1.
    """

    process: HasProcess
    net: Net
    predicts: str
    time_scale: float = 1.0
    sigma_data: float | None = None

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, params: Params, y: Array, sigma: Array, cond: Any = None) -> Array:
        """Denoise.

        Args:
          params: of the network.
          y: [B, ...] data plus σ times standard normal noise, in the data's units.
          sigma: [B] noise levels in the same units; one number stands for all.
          cond: handed to the network.

        Returns:
          [B, ...], estimate of x₀, in the type of y, though at least float32.

        Raises:
          ValueError: if sigma isn't [B], or the network's output hasn't the shape of y.
        """
        y = jnp.asarray(y)
        dtype = jnp.promote_types(y.dtype, jnp.float32)
        t = time_of(self.process, _levels(sigma, y, dtype), dtype)

        def per_example(values: Array) -> Array:
            return jnp.expand_dims(values, tuple(range(1, y.ndim)))

        x_t = per_example(value_at(self.process.a, t, dtype)) * y.astype(dtype)
        output = self.net(params, x_t, t if self.time_scale == 1 else t * self.time_scale, cond)
        if jnp.shape(output) != y.shape:
            raise ValueError(
                f"the network returned {list(jnp.shape(output))} for x_t {list(y.shape)}; it must "
                "keep that shape (vmap missing? Equinox is unbatched: from_equinox(batched=False))"
            )
        factors = map(per_example, conversion(self.process, self.predicts, t, dtype))
        noisy, factor, divisor = factors
        return (noisy * x_t - factor * jnp.asarray(output).astype(dtype)) / divisor

    def gain(self, sigma: float) -> float:
        """Size of what a unit of the network's output changes in D at σ.

        Learning rates that suit one parametrisation suit another when divided by it. A network of
        x₀ is taken to have outputs of the data's size, and one of the score to divide its last
        layer by s, as they do, so that its gain is that of ε.
        """
        if self.predicts == "x0":
            return 1.0 if self.sigma_data is None else self.sigma_data
        return gain(self.process, self.predicts, sigma)


def _levels(sigma: Array, y: Array, dtype: Any) -> Array:
    sigma = jnp.asarray(sigma).astype(dtype)
    if sigma.shape not in ((), y.shape[:1]):
        raise ValueError(
            f"sigma has shape {list(sigma.shape)} for y {list(y.shape)}; it must be [{y.shape[0]}]"
        )
    return jnp.broadcast_to(sigma, y.shape[:1])


def _check(denoiser: ProcessDenoiser) -> None:
    predicts, known = denoiser.predicts, list(_CONVERSIONS)
    if predicts not in known:
        name = str(predicts).lower()
        nearest = _ALIASES.get(name) or difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise ValueError(
            f"Process.denoiser: predicts={predicts!r} is none of {', '.join(known)}; "
            f"did you mean {nearest!r}?"
        )
    if predicts == "velocity" and denoiser.process.table is not None:
        raise ValueError(
            "Process.denoiser: predicts='velocity' needs derivatives in t, which a table hasn't; "
            "take a continuous process, such as Process.vp or Process.rectified_flow"
        )
    if not callable(denoiser.net):
        raise ValueError(
            f"Process.denoiser: net is {type(denoiser.net).__name__}; it must be a function "
            "(params, x_t, t, cond) -> array"
        )
    if not (math.isfinite(denoiser.time_scale) and denoiser.time_scale != 0):
        raise ValueError(
            f"Process.denoiser: time_scale={denoiser.time_scale} must be a finite number, not 0"
        )
    scale = denoiser.sigma_data
    if scale is not None and not 0 < scale < math.inf:
        raise ValueError(f"Process.denoiser: sigma_data={scale} must be positive and finite")
