"""Types and ranges of a config's fields, checked before anything is built."""

import functools
import math
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from diffjax import methods
from diffjax.convert import catalogue, generators
from diffjax.files import paths, progress
from diffjax.methods.settings import (
    COUNT,
    FLAG,
    NOT_NEGATIVE,
    POSITIVE,
    WHOLE,
    Rule,
    is_number,
    is_whole,
    named,
)
from diffjax.runs import bases, network_rules, user_function
from diffjax.runs.network_rules import COUNTS, DECAY, NAME, is_tuple_of

DTYPES = ("float32", "bfloat16", "float16")
NON_NEGATIVE_OR_INFINITE = Rule(
    lambda v: is_number(v) and v >= 0, "a number of at least 0, or inf, is needed"
)
SEED = Rule(
    lambda v: is_whole(v) and 0 <= v < 2**32,
    "a whole number of at least 0, and under 2**32, is needed",
)
COUNT_OR_ALL = Rule(
    lambda v: is_whole(v) and (v == -1 or v >= 1),
    "a whole number of at least 1 is needed, or -1 for all devices",
)
CLASS_OR_ALL = Rule(
    lambda v: is_whole(v) and v >= -1, "a class is needed, from 0 on, or -1 for all"
)
DTYPE_OR_SAME = Rule(
    lambda v: isinstance(v, str) and v in ("", *DTYPES),
    f"is unknown; known are: {', '.join(DTYPES)}, and '' for that of config.dtype",
)
NAMES = Rule(
    lambda v: bool(v) and is_tuple_of(lambda name: isinstance(name, str), v),
    "a tuple of names is needed, such as ('fid', 'recall')",
)
IMAGE_SHAPE = Rule(
    lambda v: COUNTS.holds(v) and len(v) == 3 and v[0] == v[1],
    "(height, width, channels) of a square image are needed, such as (32, 32, 3)",
)
DURATION = Rule(  # images are counted in 32 bits
    lambda v: is_number(v) and 0 < v < 4e6, "a positive number is needed, and under 4e6"
)
TEXT = Rule(lambda v: isinstance(v, str), "a string is needed")
FUNCTION = Rule(
    lambda v: v == "" or (isinstance(v, str) and user_function.is_name(v)),
    'a function is needed, as "module:function", or "" for the teacher\'s copy',
)
WRITER = Rule(
    FUNCTION.holds, 'a function is needed, as "module:function", or "" for no other writer'
)
STUDENT = Rule(
    lambda v: v == "network" or FUNCTION.holds(v) or (isinstance(v, str) and generators.is_one(v)),
    'a function is needed, as "module:function", a StyleGAN2 pickle or a name of one ('
    + ", ".join(catalogue.GENERATORS)
    + '), "network" for the fields network.*, or "" for the teacher\'s copy',
)

_COMMON = {
    "seed": SEED,
    "deterministic": FLAG,
    "distributed": FLAG,
    "compilation_cache": TEXT,
    "metric_writer": WRITER,
    "dtype": named(*DTYPES),
    "attention": named("xla", "cudnn"),
    "rematerialize": FLAG,
    "batch_size": COUNT,
    "duration_kimg": DURATION,
    "ema_halflife_kimg": POSITIVE,
    "ema_rampup": NOT_NEGATIVE,
    "updates_per_call": COUNT,
    "max_skipped_in_a_row": COUNT,
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
    "heun.steps": Rule(lambda v: is_whole(v) and v >= 2, "a whole number of at least 2"),
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
    "sample.format": named("png", "npz", "adm"),
    "sample.label": CLASS_OR_ALL,
    "sample.count": WHOLE,
    "sample.batch_size": COUNT,
    "sample.seed": SEED,
}
AUTO = "auto"
RATE = Rule(lambda v: v == AUTO or POSITIVE.holds(v), 'a positive number is needed, or "auto"')
_ADAM = {
    "learning_rate": RATE,
    "b1": DECAY,
    "b2": DECAY,
    "eps": POSITIVE,
    "max_grad_norm": NOT_NEGATIVE,
}
_FRESH_LEARNER = {"rampup_kimg": NOT_NEGATIVE}
_SOME_LEARNERS = {  # where a method's learner has the field
    "weight_decay": NOT_NEGATIVE,
    "max_grad_value": NOT_NEGATIVE,
    "rampup_kimg": NOT_NEGATIVE,
}
_STUDENT = {"initial": TEXT, "frozen_kimg": NOT_NEGATIVE, "decay_kimg": NOT_NEGATIVE}
# Of methods that read a teacher.
_TEACHER = {
    "teacher": NAME,
    "decoder": TEXT,
    "accumulation": COUNT,
    "init_sigma": POSITIVE,
    "dropout": DECAY,
    "compile_apart": named("auto", "always", "never"),
    "teacher_dtype": DTYPE_OR_SAME,
    "optimizer_state_dtype": named("float32", "bfloat16"),
}
# Of methods that read real images.
_DATA = {"dataset": NAME, "conditional": FLAG, "x_flip": FLAG}
REAL_DATA = Rule(
    NAME.holds,
    "the method compares with real images: name a data set, a folder, a zip or tfds:NAME",
)
# Said by earlier configs about their teacher, which knows it itself.
OF_THE_TEACHER = {"image_shape": IMAGE_SHAPE, "label_dim": WHOLE}


def rules(config: ConfigDict) -> dict[str, Rule]:
    """List the rule of each field that configs of a method have, by its dotted name.

    Raises:
      ValueError: if the method is unknown.
    """
    one_of(config, "method", methods.names())
    method = methods.get(config.method)
    found = dict(_COMMON)
    if "teacher" in method.reads:
        found |= _TEACHER | {k: rule for k, rule in OF_THE_TEACHER.items() if k in config}
        if bases.takes_student(method):
            found["student"] = STUDENT
            found |= network_rules.of(config) if config.get("student") == "network" else {}
    else:
        found |= network_rules.of(config)
    if "data" in method.reads:
        found |= {"data": REAL_DATA} if method.data_field == "data" else _DATA
    for learner in bases.networks_of(method):
        group = dict(_ADAM)
        if learner.starts_as == "fresh":
            group |= _FRESH_LEARNER
        elif learner.name == method.samples_from:
            group |= _STUDENT
        group |= {k: rule for k, rule in _SOME_LEARNERS.items() if k in learner.fields}
        found |= {f"{learner.optimizer or learner.name}.{k}": rule for k, rule in group.items()}
        if learner.name == "fake_score":
            found["fake_score.network"] = FUNCTION
    if "edm2" in config:
        found |= network_rules.of_edm2(config)
    return found | {each.field: each.rule for each in method.settings()}


def check(config: ConfigDict) -> None:
    """Check the fields that every config of a method has.

    Raises:
      ValueError: naming the first field that is missing or off, its value, and what would do.
    """
    if config.get("student") == "network" and "network" not in config:
        raise ValueError(
            "config.student='network' needs the fields network.*: bases.with_network(config) gives "
            "them, in the config file."
        )
    known = rules(config)
    if "edm2" in config and not methods.get(config.method).weighs_by_uncertainty:
        raise ValueError(
            f"config.edm2: method={config.method!r} doesn't train networks of EDM2 in their own "
            "way; leave it out."
        )
    for field, rule in known.items():
        value = get(config, field)
        if not rule.holds(value):
            joint = " " if rule.wanted.startswith("is ") else ": "
            raise ValueError(f"config.{field}={_shown(value)}{joint}{rule.wanted}.")
    if config.heun.sigma_min >= config.heun.sigma_max:
        raise ValueError(
            f"config.heun.sigma_min={config.heun.sigma_min} must be under "
            f"heun.sigma_max={config.heun.sigma_max}."
        )
    if config.heun.s_min > config.heun.s_max:
        raise ValueError(
            f"config.heun.s_min={config.heun.s_min} must not be over heun.s_max="
            f"{config.heun.s_max}."
        )
    for field in known:
        group, _, name = field.rpartition(".")
        if name == "every" and f"{group}.updates" in known:
            _check_frequency(config, group)
        if name == "learning_rate":
            _check_learning_time(config, group)
    _check_average(config)


def _check_frequency(config: ConfigDict, group: str) -> None:
    settings = config[group]
    if settings.every > 1 < settings.updates:
        raise ValueError(
            f"config.{group}.every={settings.every} asks for fewer updates and "
            f"{group}.updates={settings.updates} for more; set one of them to 1."
        )


def _check_average(config: ConfigDict) -> None:
    """Check that what an average starts with is forgotten by the end, since it is what is kept."""
    halflife, rampup = config.ema_halflife_kimg, config.ema_rampup
    if halflife > config.duration_kimg and not 0 < rampup <= 1:
        raise ValueError(
            f"config.ema_halflife_kimg={halflife} with ema_rampup={rampup} keeps more than half of "
            f"what the network starts with through duration_kimg={config.duration_kimg}; make it "
            "less, or set ema_rampup to 0.05, as published."
        )


def _check_learning_time(config: ConfigDict, group: str) -> None:
    """Check that some update has a learning rate above 0."""
    settings, duration = config[group], config.duration_kimg
    # Images seen before the last update, of which the first has seen none.
    last = (math.ceil(round(1000 * duration / config.batch_size, 6)) - 1) * config.batch_size / 1000
    frozen = settings.get("frozen_kimg", 0.0)
    if last < frozen or duration <= frozen:
        raise ValueError(
            f"config.{group}.frozen_kimg={frozen} leaves the {group} no time to learn in "
            f"duration_kimg={duration}; make it less."
        )
    rampup = settings.get("rampup_kimg", 0.0)
    if rampup and not last:
        progress.warn_once(
            f"config.{group}.rampup_kimg={rampup} starts from a learning rate of 0, and "
            f"duration_kimg={duration} is one update of batch_size={config.batch_size}: nothing is "
            "learnt."
        )
    decay = settings.get("decay_kimg", 0.0)
    if decay and frozen + decay > duration:
        raise ValueError(
            f"config.{group}.decay_kimg={decay} must fit into duration_kimg="
            f"{duration} after {group}.frozen_kimg={frozen}."
        )


def upgraded(config: ConfigDict) -> ConfigDict:
    """Copy a config into the fields of today.

    Earlier ones named a task: "distill", besides the method, or "pretrain", instead of one, and
    had no field for another student, fake score, decoder or metric writer. Their
    `image_shape` and `label_dim` stay and are compared with the teacher's. Texts that start with
    `~` are paths, and get the home directory that it stands for.

    Raises:
      ValueError: if the task is unknown, or there is no such home directory.
    """
    config = config.copy_and_resolve_references()
    _expand_paths(config, "config")
    with config.unlocked():
        if "task" in config:
            one_of(config, "task", ("distill", "pretrain"))
            if config.task == "pretrain":
                config.method = "denoising"
            del config["task"]
        if config.get("method") in methods.names():
            config.metric_writer = config.get("metric_writer", "")
            _add_networks(config)
    return config


def _add_networks(config: ConfigDict) -> None:
    """Add the fields of other networks than the teacher and its copies, where they are lacking."""
    method = methods.get(config.method)
    if bases.takes_student(method) and "student" not in config:
        config.student = ""
    if "teacher" in method.reads and "decoder" not in config:
        config.decoder = ""
    if "fake_score" in config and "network" not in config.fake_score:
        config.fake_score.network = ""


def _expand_paths(config: ConfigDict, name: str) -> None:
    for field, value in config.items():
        if isinstance(value, ConfigDict):
            _expand_paths(value, f"{name}.{field}")
        elif isinstance(value, str) and value.startswith("~"):
            try:
                config[field] = paths.expanded(value)
            except ValueError as error:
                raise ValueError(f"{name}.{field}={error}") from None


def get(config: ConfigDict, field: str) -> Any:
    """Look up a dotted field.

    Raises:
      ValueError: if there is none.
    """
    try:
        return functools.reduce(lambda group, name: group[name], field.split("."), config)
    except (KeyError, TypeError) as error:
        raise ValueError(f"config.{field} is missing; see configs/ for one that has it.") from error


def one_of(config: ConfigDict, field: str, known: Iterable[str]) -> None:
    """Check a field that names one of a few things.

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
