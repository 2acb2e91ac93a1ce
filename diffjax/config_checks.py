"""Types and ranges of a config's fields, in one table, checked before anything is built."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class _Rule(NamedTuple):
    holds: Callable[[Any], bool]
    wanted: str


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and float(value).is_integer()


POSITIVE = _Rule(
    lambda v: _is_number(v) and math.isfinite(v) and v > 0, "a positive number is needed"
)
NOT_NEGATIVE = _Rule(
    lambda v: _is_number(v) and math.isfinite(v) and v >= 0, "a number of at least 0 is needed"
)
NON_NEGATIVE_OR_INFINITE = _Rule(
    lambda v: _is_number(v) and v >= 0, "a number of at least 0, or inf, is needed"
)
FINITE = _Rule(lambda v: _is_number(v) and math.isfinite(v), "a finite number is needed")
COUNT = _Rule(lambda v: _is_whole(v) and v >= 1, "a whole number of at least 1 is needed")
WHOLE = _Rule(lambda v: _is_whole(v) and v >= 0, "a whole number of at least 0 is needed")
SHARE = _Rule(lambda v: _is_number(v) and 0 <= v <= 1, "it lies in [0, 1]")
DECAY = _Rule(lambda v: _is_number(v) and 0 <= v < 1, "it lies in [0, 1)")
NAMES = _Rule(
    lambda v: isinstance(v, tuple | list) and bool(v) and all(isinstance(name, str) for name in v),
    "a tuple of names is needed, such as ('fid', 'recall')",
)
FLAG = _Rule(lambda v: isinstance(v, bool), "True or False is needed")
TEXT = _Rule(lambda v: isinstance(v, str), "a string is needed")
T_MAX = _Rule(lambda v: _is_number(v) and 0 < v <= 1000, "it lies in (0, 1000]; SiD takes 800")

_COMMON = {
    "seed": WHOLE,
    "batch_size": COUNT,
    "duration_kimg": POSITIVE,
    "ema_halflife_kimg": POSITIVE,
    "updates_per_call": COUNT,
    "max_skipped_in_a_row": COUNT,
    "augment_probability": SHARE,
    "log_kimg": POSITIVE,
    "grid_kimg": NOT_NEGATIVE,
    "checkpoint_kimg": POSITIVE,
    "keep_checkpoints": COUNT,
    "grid.rows": COUNT,
    "grid.columns": COUNT,
    "grid.seed": WHOLE,
    "heun.steps": _Rule(lambda v: _is_whole(v) and v >= 2, "a whole number of at least 2"),
    "heun.sigma_min": POSITIVE,
    "heun.sigma_max": POSITIVE,
    "heun.rho": POSITIVE,
    "heun.s_churn": NOT_NEGATIVE,
    "heun.s_min": NOT_NEGATIVE,
    "heun.s_max": NON_NEGATIVE_OR_INFINITE,
    "heun.s_noise": NOT_NEGATIVE,
    "evaluate.source": TEXT,
    "evaluate.features": TEXT,
    "evaluate.features_weights": TEXT,
    "evaluate.reference": TEXT,
    "evaluate.metrics": NAMES,
    "evaluate.best": TEXT,
    "evaluate.every_kimg": NOT_NEGATIVE,
    "evaluate.count": COUNT,
    "evaluate.batch_size": COUNT,
    "evaluate.seed": WHOLE,
    "evaluate.seeds": COUNT,
    "sample.count": WHOLE,
    "sample.batch_size": COUNT,
    "sample.seed": WHOLE,
}
_ADAM = {"learning_rate": POSITIVE, "b1": DECAY, "b2": DECAY, "eps": POSITIVE}
_DISTILL = {
    "accumulation": COUNT,
    "init_sigma": POSITIVE,
    "dropout": DECAY,
    "fake_score.loss_scale": POSITIVE,
    "fake_score.updates": COUNT,
    "generator.loss_scale": POSITIVE,
    **{f"{group}.{k}": v for group in ("fake_score", "generator") for k, v in _ADAM.items()},
}
_SID = {"alpha": FINITE, "t_max": T_MAX}
_PRETRAIN = {
    "dataset": TEXT,
    "conditional": FLAG,
    "x_flip": FLAG,
    **{f"optimizer.{k}": v for k, v in _ADAM.items()},
    "optimizer.rampup_kimg": NOT_NEGATIVE,
}


def check(config: ConfigDict) -> None:
    """Checks the fields that every config of a task has.

    Raises:
      ValueError: naming the first field that is missing or off, its value, and what would do.
    """
    one_of(config, "task", ("distill", "pretrain"))
    one_of(config, "dtype", ("float32", "bfloat16", "float16"))
    rules = dict(_COMMON)
    if config.task == "distill":
        one_of(config, "method", ("sid", "diff_instruct"))
        rules |= _DISTILL | (_SID if config.method == "sid" else {})
    else:
        rules |= _PRETRAIN
    for field, rule in rules.items():
        value = get(config, field)
        if not rule.holds(value):
            raise ValueError(f"config.{field}={value!r}: {rule.wanted}.")
    rampup = get(config, "ema_rampup")
    if rampup is not None and not POSITIVE.holds(rampup):
        raise ValueError(f"config.ema_rampup={rampup!r}: {POSITIVE.wanted}, or None for none.")
    if config.heun.sigma_min >= config.heun.sigma_max:
        raise ValueError(
            f"config.heun.sigma_min={config.heun.sigma_min} must be under "
            f"heun.sigma_max={config.heun.sigma_max}."
        )


def get(config: ConfigDict, field: str) -> Any:
    """The value of a dotted field.

    Raises:
      ValueError: if there is none.
    """
    try:
        return functools.reduce(lambda group, name: group[name], field.split("."), config)
    except (KeyError, TypeError) as error:
        raise ValueError(f"config.{field} is missing; see configs/ for one that has it.") from error


def one_of(config: ConfigDict, field: str, known: Iterable[str]) -> None:
    """Checks a field that names one of a few things.

    Raises:
      ValueError: naming them.
    """
    known = tuple(known)
    value = get(config, field)
    if value not in known:
        raise ValueError(f"config.{field}={value!r} is unknown; known are: {', '.join(known)}.")
