"""Diffusion processes as data: x_t = a(t) x₀ + s(t) ε, of which all else is derived.

y = x_t/a has the noise level σ = s/a, so that a network trained on any process is a denoiser
D(y; σ), as `Process.denoiser` makes it. Functions of times and of noise levels are elementwise, in
the type of what is given; tables of them are made once, in float64.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from diffjax.diffusion import inversion, predictions
from diffjax.interfaces import Array

Function = Callable[[Any], Any]

# Times that named processes keep from the ends, where σ is 0 or infinite.
_T_MIN = 1e-3
_T_MAX = 0.995


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
    """Diffusion process x_t = a(t) x₀ + s(t) ε, ε ~ N(0, I), whose σ = s/a rises or falls with t.

    Attributes:
      a: factor of the data; function of t, elementwise in jax.numpy, > 0.
      s: factor of the noise, likewise, > 0.
      t_min: least time that the network knows.
      t_max: greatest such time.
      t_of_sigma: inverse of σ = s/a. None: found by bisection, once, at 4096 points in log σ, and
        refined between them; σ outside of the range is clipped to it.
      table: [N] σ at t = 0, 1, …, N − 1, if the network knows those times only. t_of_sigma is then
        by default the integer whose log σ is nearest.
      sigma_min: least σ for t in [t_min, t_max]; 0 if s is 0 at an end.
      sigma_max: greatest such σ; infinite if a is 0 at an end.

    Raises:
      ValueError: for an empty range of t, an a or s that is no function of t in jax.numpy, a σ
        that isn't positive or not monotone, or a t_of_sigma that isn't its inverse.
    """

    a: Function
    s: Function
    t_min: float = dataclasses.field(kw_only=True)
    t_max: float = dataclasses.field(kw_only=True)
    t_of_sigma: Function | None = dataclasses.field(kw_only=True, default=None)
    table: np.ndarray | None = dataclasses.field(kw_only=True, default=None, repr=False)
    sigma_min: float = dataclasses.field(init=False)
    sigma_max: float = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        for name in ("t_min", "t_max"):
            _number(getattr(self, name), f"Process: {name}")
        if not (math.isfinite(self.t_min) and self.t_min < self.t_max < math.inf):
            raise ValueError(
                f"Process: t_min={self.t_min} must be less than t_max={self.t_max}, both finite"
            )
        inverse: Function
        if self.table is not None:
            table = np.asarray(self.table, np.float64)
            object.__setattr__(self, "table", table)
            inverse, ends = inversion.OfTable(table), (table[0], table[-1])
        else:
            for name, function in (("a", self.a), ("s", self.s)):
                inversion.check_function(function, f"Process: {name}")
            log_sigma = inversion.LogSigma(self.a, self.s)
            ends = inversion.checked_ends(log_sigma, self.t_min, self.t_max)
            if self.t_of_sigma is None:
                inverse = inversion.tabulate(log_sigma, self.t_min, self.t_max)
            else:
                _check_inverse(self.t_of_sigma, log_sigma, ends)
        if self.t_of_sigma is None:
            object.__setattr__(self, "t_of_sigma", inverse)
        object.__setattr__(self, "sigma_min", float(min(ends)))
        object.__setattr__(self, "sigma_max", float(max(ends)))

    def sigma(self, t: Array) -> Array:
        """Noise level s/a of y = x_t/a at t, elementwise."""
        return self.s(t) / self.a(t)

    def denoiser(
        self,
        net: predictions.Net,
        predicts: Literal["x0", "eps", "v", "velocity", "score"],
        *,
        time_scale: float = 1.0,
        sigma_data: float | None = None,
    ) -> predictions.ProcessDenoiser:
        """Make a denoiser D(y; σ) of a network that was trained on this process.

        Args:
          net: (params, x_t [B, ...], t [B], cond) -> [B, ...]. t is an integer where σ snaps to a
            table and time_scale is 1.
          predicts: "x0"; "eps", the noise ε; "v", a ε − s x₀ (Salimans & Ho 2022); "velocity",
            a' x₀ + s' ε, the derivative of x_t in t, whose sign depends on where the data are;
            "score", ∇ log p(x_t).
          time_scale: factor of t for the network, such as 1000 for one that was told t in [0, 1000]
            while the process has t in [0, 1].
          sigma_data: standard deviation of the data, the gain of a network that predicts x₀; None
            is 1. D doesn't depend on it: `models.scaled` is for networks of other units.

        Returns:
          denoise(params, y [B, ...], sigma [B], cond), which also has `gain(sigma)`.

        Raises:
          ValueError: for another prediction, or a velocity on a table.
        """
        _number(time_scale, "Process.denoiser: time_scale")
        if sigma_data is not None:
            _number(sigma_data, "Process.denoiser: sigma_data")
        return predictions.ProcessDenoiser(self, net, predicts, time_scale, sigma_data)

    @classmethod
    def edm(cls) -> "Process":
        """EDM's process: a = 1, s = t = σ, t in [0.002, 80] (Karras et al. 2022)."""
        return cls(
            jnp.ones_like, lambda t: t, t_min=0.002, t_max=80.0, t_of_sigma=lambda sigma: sigma
        )

    @classmethod
    def ve(cls, sigma_min: float, sigma_max: float) -> "Process":
        """Variance exploding process: a = 1, s = σ_min (σ_max/σ_min)^t, t in [0, 1].

        Args:
          sigma_min: σ at t = 0.
          sigma_max: σ at t = 1.

        Raises:
          ValueError: unless 0 < sigma_min < sigma_max.
        """
        sigma_min = _number(sigma_min, "Process.ve: sigma_min")
        sigma_max = _number(sigma_max, "Process.ve: sigma_max")
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(
                f"Process.ve: 0 < sigma_min < sigma_max is needed, not {sigma_min} and {sigma_max}"
            )
        growth = math.log(sigma_max / sigma_min)
        return cls(
            jnp.ones_like,
            lambda t: sigma_min * jnp.exp(growth * t),
            t_min=0.0,
            t_max=1.0,
            t_of_sigma=lambda sigma: jnp.log(sigma / sigma_min) / growth,
        )

    @classmethod
    def vp(cls, beta: float | Function = 1.0, t_max: float = 10.0) -> "Process":
        """Variance preserving process: a = e^(−B/2), s = √(1 − e^(−B)), B(t) = ∫₀ᵗ β.

        The least time is t_max/100,000 (Song et al. 2021, arXiv:2011.13456).

        Args:
          beta: β > 0: a number, or a function of t, elementwise, which is called once.
          t_max: greatest time.

        Raises:
          ValueError: for a β that isn't positive, or neither a number nor such a function.
        """
        if not 0 < _number(t_max, "Process.vp: t_max") < math.inf:
            raise ValueError(f"Process.vp: t_max={t_max} must be positive and finite")
        t_of_sigma: Function | None = None
        if callable(beta):
            integral: Function = inversion.integral(beta, t_max)
        else:
            rate = _number(
                beta, "Process.vp: beta", " or a function of t; a table of them is Process.ddpm's"
            )
            if not 0 < rate < math.inf:
                raise ValueError(f"Process.vp: beta={rate} must be positive and finite")

            def integral(t: Array) -> Array:
                return rate * t

            def t_of_sigma(sigma: Array) -> Array:
                return jnp.log1p(jnp.square(sigma)) / rate

        return cls(
            lambda t: jnp.exp(-integral(t) / 2),
            lambda t: jnp.sqrt(-jnp.expm1(-integral(t))),
            t_min=1e-5 * t_max,
            t_max=t_max,
            t_of_sigma=t_of_sigma,
        )

    @classmethod
    def rectified_flow(cls, data_at: int = 0, t_max: float = _T_MAX) -> "Process":
        """Straight lines between data and noise: x_t = (1 − t) x₀ + t ε, t in [0.001, t_max].

        Args:
          data_at: the time of the data. 0: as above, the velocity being ε − x₀. 1: t is one minus
            that, x_t = t x₀ + (1 − t) ε, and the velocity x₀ − ε; t in [1 − t_max, 0.999].
          t_max: in (0.001, 1), the end of the range that the network knows, counted from the data.

        Raises:
          ValueError: if data_at is neither 0 nor 1, or for another t_max.
        """
        if data_at not in (0, 1):
            raise ValueError(
                f"Process.rectified_flow: data_at={data_at!r} must be 0, x_t = (1 - t) x0 + t eps, "
                "or 1, x_t = t x0 + (1 - t) eps"
            )
        if not _T_MIN < _number(t_max, "Process.rectified_flow: t_max") < 1:
            raise ValueError(
                f"Process.rectified_flow: t_max={t_max} must lie in ({_T_MIN}, 1); at 1 sigma is "
                "infinite"
            )
        if data_at == 0:
            return cls(
                lambda t: 1 - t,
                lambda t: t,
                t_min=_T_MIN,
                t_max=t_max,
                t_of_sigma=lambda sigma: sigma / (1 + sigma),
            )
        return cls(
            lambda t: t,
            lambda t: 1 - t,
            t_min=1 - t_max,
            t_max=1 - _T_MIN,
            t_of_sigma=lambda sigma: 1 / (1 + sigma),
        )

    @classmethod
    def cosine(cls) -> "Process":
        """Cosine process: a = cos(πt/2), s = sin(πt/2), t in [0.001, 0.995], data at 0."""
        return cls(
            # The sine of the complement keeps its digits near t = 1, where the cosine is small.
            lambda t: jnp.sin(math.pi / 2 * (1 - t)),
            lambda t: jnp.sin(math.pi / 2 * t),
            t_min=_T_MIN,
            t_max=_T_MAX,
            t_of_sigma=lambda sigma: 2 / math.pi * jnp.arctan(sigma),
        )

    @classmethod
    def ddpm(
        cls, betas: Any = None, alphas_cumprod: Any = None, *, interpolate: bool = False
    ) -> "Process":
        """Discrete process of a table: a = √ᾱ_t, s = √(1 − ᾱ_t), t = 0, 1, …, N − 1.

        Args:
          betas: [N] β in (0, 1), ᾱ being the cumulative product of 1 − β (Ho et al. 2020).
          alphas_cumprod: [N] ᾱ, falling from about 1. Either this or betas.
          interpolate: False: σ snaps to the table, to the level whose log is nearest, and t is an
            integer. True: log σ is linear between the levels, and t is real.

        Raises:
          ValueError: for both or neither of the tables, or one that isn't such a table.
        """
        if (betas is None) == (alphas_cumprod is None):
            said = "neither" if betas is None else "both"
            raise ValueError(
                f"Process.ddpm: {said} of betas and alphas_cumprod are given; give one of them"
            )
        if betas is not None:
            alphas_cumprod = inversion.alphas_of_betas(betas)
        table = inversion.sigmas_of_alphas(alphas_cumprod)
        levels = inversion.OfTable(table, interpolate)
        return cls(
            levels.a,
            levels.s,
            t_min=0,
            t_max=len(table) - 1,
            t_of_sigma=levels,
            table=table,
        )


def _check_inverse(
    t_of_sigma: Any, log_sigma: inversion.LogSigma, ends: tuple[float, float]
) -> None:
    """Check that t_of_sigma undoes σ = s/a; one that rounds to a grid of times does."""
    inversion.check_function(t_of_sigma, "Process: t_of_sigma")
    low, high = max(min(ends), 1e-3), min(max(ends), 1e3)
    if not low < high:
        return
    sigma = np.geomspace(low, high, 11)[1:-1]
    t = inversion.evaluate(lambda given: jnp.asarray(t_of_sigma(given), given.dtype), sigma)
    found = inversion.evaluate(log_sigma.ratio, t)
    with np.errstate(all="ignore"):
        off = np.nan_to_num(np.abs(np.log(found / sigma)), nan=np.inf)
    if (off > 0.2).sum() > 3:  # times on a grid are coarse at its ends
        at = int(np.argmax(off))
        raise ValueError(
            f"Process: t_of_sigma({sigma[at]:.4g}) is {t[at]:.4g}, and there s/a is "
            f"{found[at]:.4g}; it must be the inverse of s/a: leave it out, and it is found"
        )


def _number(value: Any, name: str, other: str = "") -> float:
    """Make a float of what is one number, or say what else `name` is."""
    try:
        if isinstance(value, str):  # of which float reads some
            raise TypeError
        return float(value)
    except (TypeError, ValueError) as error:
        shown = repr(value) if isinstance(value, str) else f"of type {type(value).__name__}"
        raise ValueError(f"{name} is {shown}; it must be a number{other}") from error
