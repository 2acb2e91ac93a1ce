"""Guidance as a config asks for it: of the teacher, and of the fake score turn by turn."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA
from diffjax.methods import Method
from diffjax.methods.score_distillation import asked_in
from diffjax.models import model_card
from diffjax.models import teacher as teacher_lib
from diffjax.models.denoiser import NetworkDenoiser
from diffjax.models.guidance import Guided
from diffjax.models.records import RecordDenoiser
from diffjax.runs import networks
from diffjax.runs.networks import Network

FIELD = "config.guidance.negative"
# The turn's learner -> the field of the fake score's scale in it.
_TURNS = {"fake_score": "fake_training", "generator": "fake_loss"}


def negative(config: ConfigDict, teacher: Network) -> Network | None:
    """Open the weaker network that a teacher is led away from; None if there is none.

    Args:
      config: of a method that reads a teacher.
      teacher: which is guided.

    Raises:
      ValueError: if it is of other examples or conditions, or no denoiser.
      FileNotFoundError: if it isn't there.
    """
    name = _settings(config).get("negative", "")
    if not name:
        return None
    if _settings(config).teacher == 1:
        raise ValueError(
            f"{FIELD}={name!r} does nothing while config.guidance.teacher is 1: set that to more, "
            "such as 2.0, or leave the network out."
        )
    found = networks.teacher(name, field=FIELD)
    if found.card.kind == model_card.STUDENT:
        raise ValueError(
            f"{FIELD}={name} is {found.card.title}, which takes no noise off any more: name a "
            "denoiser, such as one that was trained for less time."
        )
    own, other = teacher.model, found.model
    if own.shape != other.shape:
        raise ValueError(
            f"{FIELD}={name} denoises {other.shape} and the teacher {own.shape}: they must be "
            "equal."
        )
    if other.cond is not None and _form(own) != _form(other):
        raise ValueError(
            f"{FIELD}={name} takes {_described(other)} and the teacher {_described(own)}: they "
            "must be the same, or the negative unconditional."
        )
    low, high = own.sigma_min, own.sigma_max
    if isinstance(own, RecordDenoiser) and not (
        other.sigma_min <= low * (1 + 1e-6) and other.sigma_max >= high * (1 - 1e-6)
    ):
        raise ValueError(
            f"{FIELD}={name} knows sigma {other.sigma_min:g} to {other.sigma_max:g}, and the "
            f"teacher is asked from {low:g} to {high:g}: narrow the teacher's range to that."
        )
    return found


def of_teacher(config: ConfigDict, teacher: Network, model: Any, weaker: Any) -> Any:
    """Guide the teacher, if a config says so.

    Args:
      config: of a method that reads a teacher.
      teacher: as it was opened.
      model: the teacher's, as learners ask it.
      weaker: model of the negative; None for the teacher without its condition.

    Raises:
      ValueError: if the teacher can't be asked without a condition.
    """
    settings = _settings(config)
    scale = settings.get("teacher", 1.0)
    low, high = settings.get("interval", (0.0, math.inf))
    if scale == 1:
        if (low, high) != (0.0, math.inf):
            raise ValueError(
                f"config.guidance.interval={(low, high)} does nothing while "
                "config.guidance.teacher is 1: set that to more, or leave the interval out."
            )
        return model
    null = None if weaker is not None else null_of(config, teacher, "guidance.teacher", scale)
    unit = model.sigma_data / PUBLISHED_SIGMA_DATA
    return Guided(model, float(scale), null, weaker, float(low) * unit, float(high) * unit)


def of_fake_score(
    config: ConfigDict, cls: type[Method], teacher: Network, model: Any
) -> tuple[dict[str, Any], Any]:
    """Guide the fake score in turns, and find the condition that it learns to do without.

    Args:
      config: of a method that reads a teacher.
      cls: the method.
      teacher: whose condition is the fake score's.
      model: the fake score's; None where there is none.

    Returns:
      The guided fake scores that are asked for, by their names in `Method.networks`; and the
      condition that stands for none, where labels are dropped.

    Raises:
      ValueError: naming the field, where the method or the teacher can't do it.
    """
    settings = _settings(config)
    asked = {f"guidance.{name}": settings.get(name, 1.0) for name in _TURNS.values()}
    asked = {field: scale for field, scale in asked.items() if scale != 1}
    dropout = config.get("fake_score", {}).get("label_dropout", 0.0)
    asked |= {"fake_score.label_dropout": dropout} if dropout else {}
    if not asked or model is None:
        return {}, None
    field, value = next(iter(asked.items()))
    off = 0.0 if field.endswith("dropout") else 1.0
    if cls.judged_by:
        raise ValueError(
            f"config.{field}={value}: in {config.method!r} a discriminator judges beside the "
            f"scores, for which no guidance of the fake score is known; set it to {off}. "
            "config.guidance.teacher may be set."
        )
    if dropout and config.get("share_samples"):
        raise ValueError(
            f"config.fake_score.label_dropout={dropout} would leave the generator's own turn "
            "without conditions too, since share_samples=True; set one of them off."
        )
    null = null_of(config, teacher, field, value)
    scales = {turn: float(settings[name]) for turn, name in _TURNS.items()}
    guided = {
        asked_in(turn): Guided(model, scale, null) for turn, scale in scales.items() if scale != 1
    }
    return guided, null if dropout else None


def null_of(config: ConfigDict, teacher: Network, field: str, value: float) -> Any:
    """Condition of one example that stands for none.

    Args:
      config: of the run.
      teacher: whose condition it is.
      field: that asks for it, for errors.
      value: of that field.

    Raises:
      ValueError: if the teacher takes no condition, or has learnt none that stands for none.
    """
    model = teacher.model
    off = 0.0 if field.endswith("dropout") else 1.0
    otherwise = "" if field != "guidance.teacher" else f", or name a weaker network in {FIELD}"
    if model.cond is None:
        raise ValueError(
            f"config.{field}={value}: the teacher {teacher.source} is unconditional, so that there "
            f"is no condition to leave out; set it to {off}{otherwise}."
        )
    if _settings(config).null == "zeros":
        form = teacher_lib.drawn(model.cond, f"{teacher.source}: cond", "it must be conditional")
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), form)
    if model.null is None:
        why = "its models.Teacher has no null"
        if isinstance(model, NetworkDenoiser):
            has_table = hasattr(model.network, "null_class")
            why = (
                "its table of classes has no row for none"
                if has_table
                else "its label_dropout is 0"
            )
        raise ValueError(
            f"config.{field}={value}: the teacher {teacher.source} has learnt no condition that "
            f"stands for none ({why}); set it to {off}{otherwise}, or set "
            "config.guidance.null='zeros' to ask it with zeros all the same."
        )
    return model.null


def _settings(config: ConfigDict) -> Any:
    return config.get("guidance", ConfigDict())


def _form(model: Any) -> Any:
    if model.cond is None:
        return None
    form = teacher_lib.drawn(model.cond, "cond", "it must be conditional")
    leaves: Mapping[str, Any] = {
        jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(form)
    }
    return leaves


def _described(model: Any) -> str:
    if model.cond is None:
        return "no condition"
    return f"{model.label_dim} classes" if model.label_dim else f"conditions {_form(model)}"
