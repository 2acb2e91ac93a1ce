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
    return isinstance(value, int) and not isinstance(value, bool)


def _is_tuple_of(holds: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, tuple | list) and all(map(holds, value))


def _named(*known: str) -> _Rule:
    return _Rule(
        lambda v: isinstance(v, str) and v in known, f"is unknown; known are: {', '.join(known)}"
    )


DTYPES = ("float32", "bfloat16", "float16")
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
SEED = _Rule(
    lambda v: _is_whole(v) and 0 <= v < 2**32,
    "a whole number of at least 0, and under 2**32, is needed",
)
COUNT_OR_ALL = _Rule(
    lambda v: _is_whole(v) and (v == -1 or v >= 1),
    "a whole number of at least 1 is needed, or -1 for all devices",
)
CLASS_OR_ALL = _Rule(
    lambda v: _is_whole(v) and v >= -1, "a class is needed, from 0 on, or -1 for all"
)
SHARE = _Rule(lambda v: _is_number(v) and 0 <= v <= 1, "it lies in [0, 1]")
DTYPE_OR_SAME = _Rule(
    lambda v: isinstance(v, str) and v in ("", *DTYPES),
    f"is unknown; known are: {', '.join(DTYPES)}, and '' for that of config.dtype",
)
DECAY = _Rule(lambda v: _is_number(v) and 0 <= v < 1, "it lies in [0, 1)")
NAMES = _Rule(
    lambda v: bool(v) and _is_tuple_of(lambda name: isinstance(name, str), v),
    "a tuple of names is needed, such as ('fid', 'recall')",
)
COUNTS = _Rule(
    lambda v: bool(v) and _is_tuple_of(COUNT.holds, v),
    "a tuple of whole numbers of at least 1 is needed, such as (1, 2)",
)
COUNTS_OR_NONE = _Rule(
    lambda v: _is_tuple_of(COUNT.holds, v),
    "a tuple of whole numbers of at least 1 is needed; () for none",
)
IMAGE_SHAPE = _Rule(
    lambda v: COUNTS.holds(v) and len(v) == 3 and v[0] == v[1],
    "(height, width, channels) of a square image are needed, such as (32, 32, 3)",
)
FLAG = _Rule(lambda v: isinstance(v, bool), "True or False is needed")
TEXT = _Rule(lambda v: isinstance(v, str), "a string is needed")
NAME = _Rule(lambda v: isinstance(v, str) and bool(v), "a string that isn't empty is needed")
T_MAX = _Rule(lambda v: _is_number(v) and 0 < v <= 1000, "it lies in (0, 1000]; SiD takes 800")

_COMMON = {
    "seed": SEED,
    "deterministic": FLAG,
    "distributed": FLAG,
    "compilation_cache": TEXT,
    "dtype": _named(*DTYPES),
    "attention": _named("xla", "cudnn"),
    "rematerialize": FLAG,
    "batch_size": COUNT,
    "duration_kimg": POSITIVE,
    "ema_halflife_kimg": POSITIVE,
    "ema_rampup": NOT_NEGATIVE,
    "updates_per_call": COUNT,
    "max_skipped_in_a_row": COUNT,
    "augment_probability": SHARE,
    "log_kimg": POSITIVE,
    "grid_kimg": NOT_NEGATIVE,
    "checkpoint_kimg": POSITIVE,
    "keep_checkpoints": COUNT,
    "mesh.data": COUNT_OR_ALL,
    "mesh.fsdp": COUNT,
    "grid.rows": COUNT,
    "grid.columns": COUNT,
    "grid.seed": SEED,
    "watchdog.slow_factor": NOT_NEGATIVE,
    "watchdog.slow_seconds": NOT_NEGATIVE,
    "watchdog.hang_seconds": NOT_NEGATIVE,
    "watchdog.peer_seconds": POSITIVE,
    "heun.steps": _Rule(lambda v: _is_whole(v) and v >= 2, "a whole number of at least 2"),
    "heun.sigma_min": POSITIVE,
    "heun.sigma_max": POSITIVE,
    "heun.rho": POSITIVE,
    "heun.s_churn": NOT_NEGATIVE,
    "heun.s_min": NOT_NEGATIVE,
    "heun.s_max": NON_NEGATIVE_OR_INFINITE,
    "heun.s_noise": NOT_NEGATIVE,
    "evaluate.source": NAME,
    "evaluate.features": NAME,
    "evaluate.features_weights": TEXT,
    "evaluate.reference": TEXT,
    "evaluate.metrics": NAMES,
    "evaluate.best": TEXT,
    "evaluate.every_kimg": NOT_NEGATIVE,
    "evaluate.count": COUNT,
    "evaluate.batch_size": COUNT,
    "evaluate.seed": SEED,
    "evaluate.seeds": COUNT,
    "sample.source": NAME,
    "sample.format": _named("png", "npz"),
    "sample.label": CLASS_OR_ALL,
    "sample.count": WHOLE,
    "sample.batch_size": COUNT,
    "sample.seed": SEED,
}
_ADAM = {
    "learning_rate": POSITIVE,
    "b1": DECAY,
    "b2": DECAY,
    "eps": POSITIVE,
    "max_grad_norm": NOT_NEGATIVE,
}
_DISTILL = {
    "teacher": NAME,
    "image_shape": IMAGE_SHAPE,
    "label_dim": WHOLE,
    "accumulation": COUNT,
    "init_sigma": POSITIVE,
    "dropout": DECAY,
    "share_samples": FLAG,
    "compile_apart": _named("auto", "always", "never"),
    "teacher_dtype": DTYPE_OR_SAME,
    "optimizer_state_dtype": _named("float32", "bfloat16"),
    "fake_score.loss_scale": POSITIVE,
    "fake_score.updates": COUNT,
    "fake_score.every": COUNT,
    "generator.loss_scale": POSITIVE,
    "generator.initial": TEXT,
    "generator.frozen_kimg": NOT_NEGATIVE,
    "generator.decay_kimg": NOT_NEGATIVE,
    **{f"{group}.{k}": v for group in ("fake_score", "generator") for k, v in _ADAM.items()},
}
_SID = {"alpha": FINITE, "t_max": T_MAX}
_PRETRAIN = {
    "dataset": NAME,
    "conditional": FLAG,
    "x_flip": FLAG,
    "network.class_name": NAME,
    "network.model_type": NAME,
    "network.augment_dim": WHOLE,
    "network.model_channels": COUNT,
    "network.channel_mult": COUNTS,
    "network.num_blocks": COUNT,
    "network.attn_resolutions": COUNTS_OR_NONE,
    "network.dropout": DECAY,
    **{f"optimizer.{k}": v for k, v in _ADAM.items()},
    "optimizer.rampup_kimg": NOT_NEGATIVE,
}


def rules(config: ConfigDict) -> dict[str, _Rule]:
    """What each field of a config's task and method must be, by its dotted name.

    Raises:
      ValueError: if the task or the method is unknown.
    """
    one_of(config, "task", ("distill", "pretrain"))
    if config.task == "pretrain":
        return _COMMON | _PRETRAIN
    one_of(config, "method", ("sid", "diff_instruct"))
    return _COMMON | _DISTILL | (_SID if config.method == "sid" else {})


def check(config: ConfigDict) -> None:
    """Checks the fields that every config of a task has.

    Raises:
      ValueError: naming the first field that is missing or off, its value, and what would do.
    """
    for field, rule in rules(config).items():
        value = get(config, field)
        if not rule.holds(value):
            joint = " " if rule.wanted.startswith("is ") else ": "
            raise ValueError(f"config.{field}={_shown(value)}{joint}{rule.wanted}.")
    if config.heun.sigma_min >= config.heun.sigma_max:
        raise ValueError(
            f"config.heun.sigma_min={config.heun.sigma_min} must be under "
            f"heun.sigma_max={config.heun.sigma_max}."
        )
    if config.task == "distill" and config.fake_score.every > 1 < config.fake_score.updates:
        raise ValueError(
            f"config.fake_score.every={config.fake_score.every} asks for fewer updates and "
            f"fake_score.updates={config.fake_score.updates} for more; set one of them to 1."
        )
    if config.task == "distill" and config.generator.decay_kimg:
        frozen, decay = config.generator.frozen_kimg, config.generator.decay_kimg
        if frozen + decay > config.duration_kimg:
            raise ValueError(
                f"config.generator.decay_kimg={decay} must fit into duration_kimg="
                f"{config.duration_kimg} after generator.frozen_kimg={frozen}."
            )
    if config.heun.s_min > config.heun.s_max:
        raise ValueError(
            f"config.heun.s_min={config.heun.s_min} must not be over heun.s_max="
            f"{config.heun.s_max}."
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


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else text[:97] + "..."
