"""Processes and predictions of networks from the scheduler's config of Hugging Face's diffusers.

A scheduler is a sampler and, by the way, says what its network was trained on: a table of β or a
range of σ, and what the network predicts. All samplers over the same table train the same network.
Clipping and thresholding of samples, spacing of steps and the like are the sampler's and are
passed over.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax.diffusion import preconditioning
from diffjax.diffusion.process import Process
from diffjax.interfaces import Array, Params
from diffjax.models.adapters import Net
from diffjax.models.teacher import Denoise

Config = Mapping[str, Any]

_BETAS = (1e-4, 0.02)
_BETAS_OF_LATENTS = (0.00085, 0.012)
# Schedulers over a table, with the ends of β that they take where their config doesn't say.
TABLES = {
    "DDPMScheduler": _BETAS,
    "DDPMParallelScheduler": _BETAS,
    "DDIMScheduler": _BETAS,
    "DDIMParallelScheduler": _BETAS,
    "DDIMInverseScheduler": _BETAS,
    "PNDMScheduler": _BETAS,
    "DPMSolverMultistepScheduler": _BETAS,
    "DPMSolverMultistepInverseScheduler": _BETAS,
    "DPMSolverSinglestepScheduler": _BETAS,
    "DPMSolverSDEScheduler": _BETAS_OF_LATENTS,
    "DEISMultistepScheduler": _BETAS,
    "UniPCMultistepScheduler": _BETAS,
    "SASolverScheduler": _BETAS,
    "EulerDiscreteScheduler": _BETAS,
    "EulerAncestralDiscreteScheduler": _BETAS,
    "LMSDiscreteScheduler": _BETAS,
    "HeunDiscreteScheduler": _BETAS_OF_LATENTS,
    "KDPM2DiscreteScheduler": _BETAS_OF_LATENTS,
    "KDPM2AncestralDiscreteScheduler": _BETAS_OF_LATENTS,
}
_FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_VE = ("ScoreSdeVeScheduler",)
_PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_FLOW = "flow_prediction"
_MAX_TIMES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Convention:
    """Process that a network was trained on, and its prediction.

    Attributes:
      denoiser: makes D(y; σ) of net(params, x_t [B, ...], t [B], cond).
      process: the process; None: EDM's, with EDM's preconditioning.
      sigma_min: least noise level.
      sigma_max: greatest noise level.
      t_min: least time that the network is told.
      num_times: number of times, where they are the integers from 0; else None.
      sigma_data: standard deviation of the data, where the config says so; else None.
    """

    denoiser: Callable[[Net], Denoise]
    process: Process | None
    sigma_min: float
    sigma_max: float
    t_min: float
    num_times: int | None = None
    sigma_data: float | None = None


def convention(config: Config) -> Convention:
    """Read a scheduler's config.

    Args:
      config: as `scheduler_config.json` has it.

    Raises:
      ValueError: in one line, naming the setting that isn't read.
    """
    name = str(config.get("_class_name"))
    if name in _FLOWS or (name in TABLES and _is_flow(config)):
        return _flow(config)
    if name in TABLES:
        return _table(config)
    if name in _EDM:
        return _edm(config)
    if name in _VE:
        return _ve(config)
    known = ", ".join([*TABLES, *_FLOWS, *_EDM, *_VE])
    raise ValueError(
        f"_class_name={config.get('_class_name')!r} isn't read; the scheduler that the network was "
        f"trained with is wanted, or one like it, of {known}"
    )


def alphas_cumprod(config: Config) -> np.ndarray:
    """Table of ᾱ of a scheduler over β, as diffusers has it.

    Its rounding is kept, since a network was trained at these noise levels: β and 1 − β are
    float32, which at the least of them is some 1e-4 of σ.

    Args:
      config: as `scheduler_config.json` has it.

    Returns:
      [N] ᾱ, float32. Under `rescale_betas_zero_snr` the last level, all noise, is left out.

    Raises:
      ValueError: in one line, naming the setting that is wrong.
    """
    betas = _betas(config)
    wrong = ~((betas > 0) & (betas < 1))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"beta[{at}]={betas[at]:.4g} is outside (0, 1)")
    table = _products(np.float32(1) - betas)
    if not config.get("rescale_betas_zero_snr"):
        return table
    # Lin et al. 2024 (arXiv:2305.08891), algorithm 1.
    roots = np.sqrt(table)
    first, last = roots[0], roots[-1]
    squares = np.square((roots - last) * (first / (first - last)))
    ratios = np.concatenate([squares[:1], squares[1:] / squares[:-1]])
    betas = np.float32(1) - ratios
    return _products(np.float32(1) - betas)[:-1]


def _products(alphas: np.ndarray) -> np.ndarray:
    return np.cumprod(alphas, dtype=np.float64).astype(np.float32)


def _betas(config: Config) -> np.ndarray:
    trained = config.get("trained_betas")
    if trained is not None:
        values = trained if isinstance(trained, list) else [trained]
        if len(values) < 2 or not all(_is_number(value) for value in values):
            raise ValueError("trained_betas must be a list of at least two numbers")
        return np.asarray(values, np.float32)
    count = _num_times(config)
    first, last = TABLES[config["_class_name"]]
    first = positive(config, "beta_start", first)
    last = positive(config, "beta_end", last)
    if max(first, last) >= 1:
        raise ValueError(f"beta_start={first:g} and beta_end={last:g} must be less than 1")
    schedule = config.get("beta_schedule", "linear")
    if schedule == "linear":
        return np.linspace(first, last, count).astype(np.float32)
    if schedule == "scaled_linear":
        return np.square(np.linspace(math.sqrt(first), math.sqrt(last), count).astype(np.float32))
    if schedule == "squaredcos_cap_v2":
        t = np.arange(count + 1) / count
        bars = np.square(np.cos((t + 0.008) / 1.008 * math.pi / 2))
        return np.minimum(1 - bars[1:] / bars[:-1], 0.999).astype(np.float32)
    if schedule == "sigmoid":
        return (first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, count)))).astype(
            np.float32
        )
    raise ValueError(
        f"beta_schedule={schedule!r} isn't read; linear, scaled_linear, squaredcos_cap_v2 and "
        "sigmoid are; of another give the values as trained_betas"
    )


def _table(config: Config) -> Convention:
    if config.get("timestep_type", "discrete") != "discrete":
        raise ValueError(f"timestep_type={config['timestep_type']!r} isn't read; 'discrete' is")
    predicts = _PREDICTS.get(_prediction_type(config))
    if predicts is None:
        raise ValueError(
            f"prediction_type={config.get('prediction_type')!r} isn't read; "
            f"{', '.join([*_PREDICTS, _FLOW])} are"
        )
    table = alphas_cumprod(config)
    process = Process.ddpm(alphas_cumprod=table)
    return Convention(
        lambda net: process.denoiser(net, predicts),  # type: ignore[arg-type]
        process,
        process.sigma_min,
        process.sigma_max,
        t_min=0,
        num_times=len(table),
    )


def _is_flow(config: Config) -> bool:
    return bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == _FLOW


def _prediction_type(config: Config) -> str:
    """Type of prediction, or the flag that configs had before there were types."""
    if "prediction_type" not in config and config.get("predict_epsilon") is False:
        return "sample"
    said = config.get("prediction_type", "epsilon")
    return said if isinstance(said, str) else ""


def _flow(config: Config) -> Convention:
    if config.get("invert_sigmas"):
        raise ValueError(
            "invert_sigmas=true isn't read; give the data at t = 0, as it is by default"
        )
    if config.get("prediction_type", _FLOW) != _FLOW:
        raise ValueError(
            f"prediction_type={config['prediction_type']!r} of a flow isn't read; {_FLOW!r} is"
        )
    scale = float(_num_times(config))
    process = Process.rectified_flow()
    return Convention(
        lambda net: process.denoiser(net, "velocity", time_scale=scale),
        process,
        process.sigma_min,
        process.sigma_max,
        t_min=scale * process.t_min,
    )


def _ve(config: Config) -> Convention:
    low, high = positive(config, "sigma_min", 0.01), positive(config, "sigma_max", 1348.0)
    _check_range(low, high)
    process = Process(
        jnp.ones_like, lambda t: t, t_min=low, t_max=high, t_of_sigma=lambda sigma: sigma
    )
    return Convention(lambda net: process.denoiser(net, "score"), process, low, high, t_min=low)


def _edm(config: Config) -> Convention:
    low, high = positive(config, "sigma_min", 0.002), positive(config, "sigma_max", 80.0)
    _check_range(low, high)
    signs = {"epsilon": 1.0, "v_prediction": -1.0}
    predicts = _prediction_type(config)
    if predicts not in signs:
        said = config.get("prediction_type", predicts)
        raise ValueError(f"prediction_type={said!r} isn't read; {', '.join(signs)} are")
    sigma_data = positive(config, "sigma_data", 0.5)
    scalings = preconditioning.EDM(sigma_data=sigma_data, sigma_min=low, sigma_max=high)

    def denoiser(net: Net) -> Denoise:
        return _Preconditioned(net, scalings, signs[predicts])

    t_min = math.log(low) / 4
    return Convention(denoiser, None, low, high, t_min=t_min, sigma_data=sigma_data)


@dataclasses.dataclass(frozen=True, eq=False)
class _Preconditioned:
    """Denoiser D(y; σ) of a network with EDM's preconditioning, whose output has a sign."""

    net: Net
    scalings: preconditioning.EDM
    sign: float

    def __call__(self, params: Params, y: Array, sigma: Array, cond: Any = None) -> Array:
        sigma = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), y.shape[:1])
        skip, out, scale, noise = self.scalings(sigma, {})

        def per_example(values: Array) -> Array:
            return jnp.expand_dims(values, tuple(range(1, y.ndim)))

        output = self.net(params, per_example(scale) * y, noise, cond)
        return per_example(skip) * y + self.sign * per_example(out) * output.astype(jnp.float32)


def positive(config: Config, key: str, default: float | None = None) -> float:
    """Read a positive finite number of a config.

    Args:
      config: of anything.
      key: of the number.
      default: where the config hasn't the key; None: it must have it.

    Raises:
      ValueError: naming the key.
    """
    value = config.get(key, default)
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{key}={value!r} must be a positive finite number")
    return float(value)


def _num_times(config: Config) -> int:
    count = config.get("num_train_timesteps", 1000)
    if not isinstance(count, int) or isinstance(count, bool) or not 2 <= count <= _MAX_TIMES:
        raise ValueError(
            f"num_train_timesteps={count!r} must be an integer from 2 to {_MAX_TIMES:,}"
        )
    return count


def _check_range(low: float, high: float) -> None:
    if low >= high:
        raise ValueError(f"sigma_min={low:g} must be less than sigma_max={high:g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
