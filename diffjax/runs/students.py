"""Students that are denoisers: how a config has one asked for samples, once or a few times."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA
from diffjax.methods import Method
from diffjax.models import few_steps
from diffjax.models.few_steps import StepGenerator
from diffjax.models.generator import DenoiserGenerator
from diffjax.models.records import RecordGenerator


def generator(
    config: ConfigDict,
    cls: type[Method],
    sampled: Any,
    init_sigma: float,
    settings: Mapping[str, Any],
) -> Any:
    """Make the generator of the network that is sampled.

    Args:
      config: of a method whose samples take a step, or a few.
      cls: the method.
      sampled: the network.
      init_sigma: σ_init, in the units of the data.
      settings: of the method, by the names of its attributes.

    Raises:
      ValueError: naming the field, where these steps can't be taken.
    """
    student = next(each for each in cls.learners if each.name == cls.samples_from)
    group = student.optimizer or student.name
    asked = config.get(group, {})
    steps, field = asked.get("steps", 1), f"config.{group}."
    if steps == 1:
        for name in ("step_sigmas", "noised_data"):
            if asked.get(name):
                raise ValueError(
                    f"{field}{name}={asked[name]} is of a student of several steps, and "
                    f"{field}steps is 1; set that, or leave {name} out."
                )
    if isinstance(sampled, RecordGenerator):
        if steps > 1:
            raise ValueError(
                f"{field}steps={steps} asks a denoiser again with noise on its own sample, and "
                f"{sampled.name} is a generator with latents of its own, which takes none; set it "
                "to 1."
            )
        return sampled
    if steps == 1:
        return DenoiserGenerator(sampled, init_sigma)
    if settings.get("noised_data") and (asked.outputs, asked.backward) != ("mixture", "one_step"):
        raise ValueError(
            f"{field}noised_data=True trains each step by itself: set {field}outputs to 'mixture' "
            f"and {field}backward to 'one_step', or noised_data to False."
        )
    return StepGenerator(
        sampled, _sigmas(asked, sampled, init_sigma, field), asked.outputs, asked.backward
    )


def of_card(denoiser: Any, init_sigma: float, sigmas: tuple[float, ...]) -> Any:
    """Make the generator that samples a student as its card says.

    Args:
      denoiser: its network.
      init_sigma: σ_init, in the units of the data.
      sigmas: noise levels of its steps; () for the one at σ_init.
    """
    if len(sigmas) < 2:
        return DenoiserGenerator(denoiser, init_sigma)
    return StepGenerator(denoiser, sigmas)


def _sigmas(asked: Any, sampled: Any, init_sigma: float, field: str) -> tuple[float, ...]:
    """Noise levels of the steps, in the units of the data."""
    steps, told = asked.steps, tuple(asked.step_sigmas)
    if told and len(told) != steps - 1:
        raise ValueError(
            f"{field}step_sigmas={told} are {len(told)} noise levels, and {field}steps={steps} "
            f"takes {steps - 1} after init_sigma."
        )
    unit = sampled.sigma_data / PUBLISHED_SIGMA_DATA
    if told:
        sigmas = (init_sigma, *(float(each * unit) for each in told))
    else:
        sigmas = few_steps.spaced(sampled.process, init_sigma, steps)
    try:
        few_steps.check_sigmas(sigmas, sampled.sigma_min)
    except ValueError as error:
        name = "step_sigmas" if told else "steps"
        raise ValueError(
            f"{field}{name}={told or steps}: {error}; take fewer steps, or name levels in "
            f"{field}step_sigmas."
        ) from None
    return sigmas
