"""Learning rates of a config, those that are derived among them, and what is told of them."""

import dataclasses
import math

from ml_collections import ConfigDict

from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA
from diffjax.methods import Learner, Method
from diffjax.models.records import RecordDenoiser, RecordGenerator
from diffjax.runs import bases, ranges
from diffjax.runs.roles import Roles


@dataclasses.dataclass(frozen=True)
class Rates:
    """Learning rates.

    Attributes:
      config: that states them.
      roles: networks by their role.
    """

    config: ConfigDict
    roles: Roles

    def gain(self, learner: Learner) -> float:
        """Output per unit of the network's own at σ_init, in units of sigma_data; 1 if unknown."""
        model = self.roles.model_of(learner)
        if isinstance(model, RecordGenerator):
            return 1.0
        return float(model.gain(self.roles.init_sigma) / model.sigma_data)

    def of(self, learner: Learner) -> float:
        """Learning rate of a learner."""
        stated = self.config[learner.optimizer or learner.name].learning_rate
        if stated != ranges.AUTO:
            return float(stated)
        return bases.RATE / max(1.0, self.gain(learner))


def remarks(rates: Rates, cls: type[Method]) -> tuple[str, ...]:
    """Tell what was derived of the data's scale and of the networks' gain.

    Args:
      rates: of a config.
      cls: its method.
    """
    config, roles = rates.config, rates.roles
    denoiser, told = roles.denoiser, []
    scale = denoiser.sigma_data / PUBLISHED_SIGMA_DATA
    if scale != 1 or isinstance(denoiser, RecordDenoiser):
        told.append(
            f"data of standard deviation {denoiser.sigma_data:g}: noise levels are published ones "
            f"times {scale:.4g}, from {denoiser.sigma_min:.4g} to {denoiser.sigma_max:.4g}, and "
            f"init_sigma is {roles.init_sigma:.4g}"
        )
    asked = config.get("init_sigma", 0.0) * scale
    if asked and not math.isclose(asked, roles.init_sigma):
        told.append(
            f"init_sigma is {roles.init_sigma:.4g} instead of {asked:.4g}: the network knows "
            f"{denoiser.sigma_min:.4g} to {denoiser.sigma_max:.4g}"
        )
    for learner in bases.networks_of(cls):
        group = learner.optimizer or learner.name
        if config[group].learning_rate == ranges.AUTO:
            gain = rates.gain(learner)
            told.append(
                f"{group}.learning_rate is {rates.of(learner):.3g}: {bases.RATE:g}"
                + (f" / {gain:.3g}, the output's gain at init_sigma" if gain > 1 else "")
            )
    return tuple(told)
