"""Other readings of a teacher's network: signs, predictions, times and processes to try."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion import predictions
from diffjax.diffusion.predictions import ProcessDenoiser
from diffjax.diffusion.process import Process
from diffjax.interfaces import Array, Params
from diffjax.models import slopes
from diffjax.models.slopes import Denoise
from diffjax.models.teacher import Cond, Teacher

_PREDICTIONS = ("eps", "score", "v", "velocity", "x0")
_TIME_FACTORS = (
    *(1000.0, 0.001, 999.0, 1 / 999, 100.0, 0.01, 10.0, 0.1, 20.0, 0.05),
    *(2.0, 0.5, 4.0, 0.25, 3.0, 1 / 3, 1.5, 1 / 1.5, 5.0, 0.2),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Alternative:
    """Another reading of the same network.

    Attributes:
      change: what would have to be written, such as "predicts='score'".
      denoiser: the network read so.
      is_sign: whether it is the sign of ε or of the score that changes.
      sigma_min: least noise level that it can be asked about.
      sigma_max: greatest such level.
    """

    change: str
    denoiser: ProcessDenoiser
    is_sign: bool = False
    sigma_min: float = 0.0
    sigma_max: float = np.inf

    def bound(self, params: Params) -> Denoise:
        """Make a function of (y, sigma, cond)."""
        return lambda y, sigma, cond: self.denoiser(params, y, sigma, cond)


def readings(teacher: Teacher) -> Iterator[list[Alternative]]:
    """List readings of a teacher's network, the likeliest first, in groups.

    Each is evaluated through one compiled network, so that trying many costs evaluations only.

    Args:
      teacher: whose `denoise` is a `Process.denoiser`, or a plain function, which is then taken
        for a network that was to be converted.

    Yields:
      Groups of alternatives that are equally simple.
    """
    given = teacher.denoise
    if isinstance(given, ProcessDenoiser):
        own = dataclasses.replace(given, net=slopes.compiled(given.net, teacher.params))
    else:
        own = Process.edm().denoiser(slopes.compiled(given, teacher.params), "x0")
        yield list(_of_eps(own))
    ends = list(_ends(own))
    own = dataclasses.replace(own, process=_compiled(own.process))
    if own.predicts in ("eps", "score"):
        yield [Alternative("eps or score", _negated(own), is_sign=True)]
    else:
        yield [Alternative(f"of {own.predicts}'s signs and ends, the other sign", _negated(own))]
    yield list(_predictions(own, ""))
    yield ends
    yield list(_time_factors(own))
    yield list(_scales(own, teacher.sigma_data))
    others = list(_processes(teacher))
    yield [each for process, name in others for each in _over(own, process, name, (own.predicts,))]
    rest = tuple(each for each in _PREDICTIONS if each != own.predicts)
    yield [each for process, name in others for each in _over(own, process, name, rest)]


def once() -> Callable[[Alternative], Alternative]:
    """Let alternatives share a network's answer, for one batch at one noise level.

    Returns:
      Function that gives an alternative whose network is called only if its process and its
      time's scale weren't asked before.
    """
    memory: dict[Any, Array] = {}

    def shared(alternative: Alternative) -> Alternative:
        asked = alternative.denoiser
        net, sign = (asked.net.net, -1) if isinstance(asked.net, _Negated) else (asked.net, 1)
        place = (id(asked.process), asked.time_scale, asked.sigma_data, id(net))

        def remembered(params: Params, x: Array, t: Array, cond: Cond) -> Array:
            if place not in memory:
                memory[place] = net(params, x, t, cond)
            return sign * memory[place]

        return dataclasses.replace(alternative, denoiser=dataclasses.replace(asked, net=remembered))

    return shared


@dataclasses.dataclass(frozen=True, eq=False)
class _Compiled:
    """Process whose functions are compiled, for many calls outside of jit."""

    a: Callable[[Array], Array]
    s: Callable[[Array], Array]
    t_of_sigma: Callable[[Array], Array]
    table: np.ndarray | None


def _compiled(process: predictions.HasProcess) -> _Compiled:
    a, s, t_of_sigma = (jax.jit(each) for each in (process.a, process.s, process.t_of_sigma))
    return _Compiled(a, s, t_of_sigma, process.table)


@dataclasses.dataclass(frozen=True)
class _Negated:
    net: predictions.Net

    def __call__(self, params: Params, x: Array, t: Array, cond: Cond) -> Array:
        return -self.net(params, x, t, cond)


def _negated(denoiser: ProcessDenoiser) -> ProcessDenoiser:
    return dataclasses.replace(denoiser, net=_Negated(denoiser.net))


def _of_eps(own: ProcessDenoiser) -> Iterator[Alternative]:
    """Mistakes in a conversion of the user's own: D = y − σ ε̂ with another ε̂."""

    def with_eps(factor: Callable[[Array], Array]) -> ProcessDenoiser:
        def net(params: Params, y: Array, t: Array, cond: Cond) -> Array:
            factors = jnp.expand_dims(factor(t), tuple(range(1, y.ndim)))
            return y - factors * (y - own.net(params, y, t, cond))

        return dataclasses.replace(own, net=net)

    yield Alternative("eps or score", with_eps(lambda t: -jnp.ones_like(t)), is_sign=True)
    score = "the network predicts the score, D = y + sigma^2 score, which"
    yield Alternative(score, with_eps(lambda t: t))
    yield Alternative(score, with_eps(lambda t: -t))
    eps = "the network predicts eps, D = y - sigma eps, which"
    yield Alternative(eps, with_eps(lambda t: 1 / t))
    yield Alternative(eps, with_eps(lambda t: -1 / t))


def _predictions(
    own: ProcessDenoiser, prefix: str, among: tuple[str, ...] = _PREDICTIONS
) -> Iterator[Alternative]:
    """Other predictions of the network, then those with the other sign."""
    for negate in (False, True):
        for each in among:
            if each == own.predicts and not prefix:
                continue
            if each == "velocity" and own.process.table is not None:
                continue
            read = dataclasses.replace(own, predicts=each)
            sign = f" of minus the network's output ({_minus(each)})" if negate else ""
            yield Alternative(
                f"{prefix}predicts={each!r}{sign}", _negated(read) if negate else read
            )


def _minus(predicts: str) -> str:
    return "x0 - eps" if predicts == "velocity" else f"-{predicts}"


def _ends(own: ProcessDenoiser) -> Iterator[Alternative]:
    """The other end for the data, with either sign; of any process whose times are an interval."""
    process = own.process
    if not isinstance(process, Process):
        return
    half = jnp.asarray(0.25, jnp.float32)
    is_flow = process.t_max <= 1 and abs(float(process.a(half) + process.s(half)) - 1) < 1e-6
    if is_flow and process.table is None:
        at = 1 if float(process.a(half)) > 0.5 else 0
        other = Process.rectified_flow(data_at=at)
        read = dataclasses.replace(own, process=other)
        change = f"of {own.predicts}'s signs and ends, data_at={at}"
        yield Alternative(change, read)
        yield Alternative(f"{change} with net -> -net", _negated(read))
        return
    low, high = process.t_min, process.t_max
    reversed_ = _with_time(own, lambda t: low + high - t)
    yield Alternative("time that runs from noise to data (t -> t_max - t)", reversed_)


def _with_time(own: ProcessDenoiser, change: Callable[[Array], Array]) -> ProcessDenoiser:
    def net(params: Params, x: Array, t: Array, cond: Cond) -> Array:
        return own.net(params, x, change(t), cond)

    return dataclasses.replace(own, net=net)


def _time_factors(own: ProcessDenoiser) -> Iterator[Alternative]:
    levels = own.process.table
    counts = () if levels is None else (1 / len(levels), 1 / (len(levels) - 1))
    for factor in (*_TIME_FACTORS, *counts):
        scale = own.time_scale * factor
        beta = f" (in Process.vp: beta / {factor:.3g})" if 0.1 < factor < 10 else ""
        change = f"time_scale={scale:.4g}{beta}"
        yield Alternative(change, dataclasses.replace(own, time_scale=scale))


def _scales(own: ProcessDenoiser, sigma_data: float) -> Iterator[Alternative]:
    if own.sigma_data is None:
        change = f"a network of data that were divided by {sigma_data:g}, sigma_data={sigma_data:g}"
        yield Alternative(change, dataclasses.replace(own, sigma_data=sigma_data))
    else:
        change = "a network of the data as they are, sigma_data=None,"
        yield Alternative(change, dataclasses.replace(own, sigma_data=None))


def _processes(teacher: Teacher) -> Iterator[tuple[Process, str]]:
    """Common processes, as they would be written."""
    yield Process.edm(), "Process.edm()"
    yield Process.vp(1.0, 10.0), "Process.vp(beta=1.0, t_max=10.0)"
    linear = Process.vp(lambda t: 0.1 + 19.9 * t, 1.0)
    yield linear, "Process.vp(beta=lambda t: 0.1 + 19.9 * t, t_max=1.0)"
    yield Process.rectified_flow(0), "Process.rectified_flow(data_at=0)"
    yield Process.rectified_flow(1), "Process.rectified_flow(data_at=1)"
    yield Process.cosine(), "Process.cosine()"
    table = np.linspace(1e-4, 0.02, 1000)
    name = "Process.ddpm(betas=np.linspace(1e-4, 0.02, 1000))"
    yield Process.ddpm(table), name
    table = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    name = "Process.ddpm(betas=np.linspace(0.00085**0.5, 0.012**0.5, 1000)**2)"
    yield Process.ddpm(table), name
    ends = teacher.sigma_min, teacher.sigma_max
    yield Process.ve(*ends), f"Process.ve({ends[0]:g}, {ends[1]:g})"
    for factor in (4.0, 1.0):  # EDM's networks are told ln σ/4
        exponential = _exponential(factor, *ends)
        written = "jnp.exp(4 * t)" if factor == 4 else "jnp.exp(t)"
        yield (
            exponential,
            f"Process(jnp.ones_like, lambda t: {written}, …), t being a log of sigma,",
        )


def _exponential(factor: float, low: float, high: float) -> Process:
    return Process(
        jnp.ones_like,
        lambda t: jnp.exp(factor * t),
        t_min=float(np.log(low) / factor),
        t_max=float(np.log(high) / factor),
        t_of_sigma=lambda sigma: jnp.log(sigma) / factor,
    )


def _over(
    own: ProcessDenoiser, process: Process, name: str, among: tuple[str, ...]
) -> Iterator[Alternative]:
    """Readings over another process, told the time as it is and in thousandths."""
    scales = (1.0, 1000.0) if process.t_max <= 1 and process.table is None else (1.0,)
    compiled = _compiled(process)
    for scale in scales:
        read = dataclasses.replace(own, process=compiled, predicts="x0", time_scale=scale)
        written = f"{name}, " if scale == 1 else f"{name}, time_scale={scale:g}, "
        for each in _predictions(read, written, among):
            yield dataclasses.replace(
                each, sigma_min=process.sigma_min, sigma_max=process.sigma_max
            )
