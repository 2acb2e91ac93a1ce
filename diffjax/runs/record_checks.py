"""Checks of users' networks that take evaluations: the first thing of a run, in seconds."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.files.progress import warn_once
from diffjax.interfaces import Params
from diffjax.methods import Learner
from diffjax.models import contract, dependence
from diffjax.models.records import RecordDenoiser, RecordGenerator
from diffjax.runs.networks import Denoiser, refusing


def check_denoiser(model: Any) -> None:
    """Evaluate a user's denoiser a few times; see `contract.short`. Ours passes unasked.

    Args:
      model: of a network.

    Raises:
      RefusedError: in one line, naming what to change.
    """
    if isinstance(model, RecordDenoiser):
        with refusing():
            contract.short(model.teacher, model.name)


def check_learners(models: Iterable[tuple[Learner, Any]], denoiser: Denoiser, sampled: str) -> None:
    """Check that users' networks have something to learn, and evaluate those that are no copies.

    One whose result doesn't depend on its parameters is told.

    Args:
      models: learners that are networks, and the models of their parameters. Ours pass unasked.
      denoiser: the teacher's, whose conditions they are given, and which was evaluated already.
      sampled: name of the learner that is sampled.

    Raises:
      RefusedError: in one line, naming what to change.
    """
    uses: dict[int, bool] = {}  # copies of the teacher are traced once
    for learner, model in models:
        with refusing():
            if isinstance(model, RecordDenoiser | RecordGenerator):
                _check_learns(model, learner.name, sampled, is_copy=model is denoiser)
            if isinstance(model, RecordGenerator):
                contract.short_generator(model.loaded, denoiser.cond, model.name)
            elif isinstance(model, RecordDenoiser) and model is not denoiser:
                record = dataclasses.replace(model.teacher, cond=denoiser.cond)
                contract.check_finite(record, model.name)
            if isinstance(model, RecordDenoiser | RecordGenerator):
                if id(model) not in uses:
                    uses[id(model)] = _uses_params(model, denoiser)
                if not uses[id(model)]:
                    _tell_what_stays(model.name, learner.name)


def _check_learns(model: Any, learner: str, sampled: str, *, is_copy: bool) -> None:
    """Refuse a learner without anything that is trained, which would stay as it is in silence."""
    if jax.tree.leaves(model.abstract_params()):
        return
    remedy = 'put what is to learn outside of "frozen", and have trainable let it through'
    if is_copy:
        field = "student" if learner == sampled else f"{learner}.network"
        remedy += f", or name another network in config.{field}"
    raise ValueError(
        f"{model.name}: nothing of its params is trained, and the {learner} would learn nothing: "
        f"{remedy}"
    )


def _uses_params(model: RecordDenoiser | RecordGenerator, denoiser: Denoiser) -> bool:
    key, count = jax.random.key(0), 2
    params = model.abstract_params()
    cond = None if denoiser.cond is None else denoiser.cond(key, count)
    if isinstance(model, RecordGenerator):
        call = functools.partial(_generated, model)
        return dependence.on_first(call, params, model.latent(key, count), cond)
    y, sigma = jnp.zeros((count, *model.shape)), jnp.full(count, model.sigma_data)
    return dependence.on_first(model, params, y, sigma, cond)


def _generated(model: RecordGenerator, params: Params, z: Any, cond: Any) -> Any:
    return model(params, z, labels=cond)


def _tell_what_stays(name: str, learner: str) -> None:
    """Tell of a function that computes without the parameters it is given."""
    warn_once(
        f"{name}: its result doesn't depend on the params that it is given, so that the {learner} "
        "stays as it is; compute with the function's first argument, and not with arrays from "
        "around it."
    )
