"""Optimisers and averages of a run, as a config has them."""

import functools

import optax
from ml_collections import ConfigDict

from diffjax.diffusion import learning_rate
from diffjax.methods import Learner
from diffjax.runs.rates import Rates
from diffjax.training import optimizer
from diffjax.training.ema import Averages
from diffjax.training.schedule import images_of_kimg


def of_learner(
    config: ConfigDict, learner: Learner, rates: Rates
) -> optax.GradientTransformationExtraArgs:
    """Make a learner's optimiser: Adam, but for one that is no network, whose steps are gradients.

    Args:
      config: of its method.
      learner: of the method.
      rates: of the config.
    """
    if not learner.is_network:
        return optax.with_extra_args_support(optax.sgd(1.0))
    settings = config[learner.optimizer or learner.name]
    return optimizer.adam(
        _learning_rate(config, settings, rates.of(learner)),
        b1=settings.b1,
        b2=settings.b2,
        eps=settings.eps,
        max_grad_norm=settings.max_grad_norm,
        max_grad_value=settings.get("max_grad_value", 0.0),
        weight_decay=settings.get("weight_decay", 0.0),
        frozen=images_of_kimg(settings.get("frozen_kimg", 0.0)),
        bfloat16_state=config.get("optimizer_state_dtype") == "bfloat16",
    )


def _learning_rate(config: ConfigDict, settings: ConfigDict, rate: float) -> float | optimizer.Rate:
    """Make a number where the rate is constant, as published, and else a function of images."""
    changes = {
        name: images_of_kimg(settings.get(f"{name}_kimg", 0.0))
        for name in ("rampup", "frozen", "decay")
    }
    if "edm2" in config and config.edm2.get("decay_updates"):
        return functools.partial(
            learning_rate.inverse_square_root,
            peak=rate,
            batch_size=config.batch_size,
            decay_updates=config.edm2.decay_updates,
            rampup_images=changes["rampup"],
        )
    if not any(changes.values()):
        return rate
    return optimizer.ramps(rate, **changes, end=images_of_kimg(config.duration_kimg))


def averages(config: ConfigDict) -> Averages:
    """Make the averages of parameters that a config asks for.

    Args:
      config: of any method.
    """
    stds = tuple(map(float, config.edm2.power_stds)) if "edm2" in config else ()
    return Averages(config.ema_halflife_kimg * 1000, config.ema_rampup or None, stds)
