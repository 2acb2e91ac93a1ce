"""Checks of users' networks that take evaluations: the first thing of a run, in seconds."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax

from diffjax.methods import Learner
from diffjax.models import contract
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

    Args:
      models: learners that are networks, and the models of their parameters. Ours pass unasked.
      denoiser: the teacher's, whose conditions they are given, and which was evaluated already.
      sampled: name of the learner that is sampled.

    Raises:
      RefusedError: in one line, naming what to change.
    """
    for learner, model in models:
        with refusing():
            if isinstance(model, RecordDenoiser | RecordGenerator):
                _check_learns(model, learner.name, sampled, is_copy=model is denoiser)
            if isinstance(model, RecordGenerator):
                contract.short_generator(model.loaded, denoiser.cond, model.name)
            elif isinstance(model, RecordDenoiser) and model is not denoiser:
                record = dataclasses.replace(model.teacher, cond=denoiser.cond)
                contract.check_finite(record, model.name)


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
