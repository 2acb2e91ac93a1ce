"""Types and ranges of a config's fields, checked before anything is built."""

import functools
import math
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from diffjax import methods
from diffjax.files import paths, progress
from diffjax.methods.settings import Rule
from diffjax.runs import bases, network_rules, numbers, ranges


def rules(config: ConfigDict) -> dict[str, Rule]:
    """List the rule of each field that configs of a method have, by its dotted name.

    Raises:
      ValueError: if the method is unknown.
    """
    one_of(config, "method", methods.names())
    method = methods.get(config.method)
    found = dict(ranges.COMMON)
    if "teacher" in method.reads:
        found |= ranges.TEACHER | {
            k: rule for k, rule in ranges.OF_THE_TEACHER.items() if k in config
        }
        if bases.takes_student(method):
            found["student"] = ranges.OTHER_STUDENT
            found |= network_rules.of(config) if config.get("student") == "network" else {}
    else:
        found |= network_rules.of(config)
    if "data" in method.reads:
        found |= {"data": ranges.REAL_DATA} if method.data_field == "data" else ranges.DATA_SET
    for learner in bases.networks_of(method):
        group = dict(ranges.ADAM)
        if learner.starts_as == "fresh":
            group |= ranges.FRESH_LEARNER
        elif learner.name == method.samples_from:
            group |= ranges.STUDENT | (ranges.STEPS if method.sampled_by == "one_step" else {})
        group |= {k: rule for k, rule in ranges.SOME_LEARNERS.items() if k in learner.fields}
        found |= {f"{learner.optimizer or learner.name}.{k}": rule for k, rule in group.items()}
        if learner.name == "fake_score":
            found["fake_score.network"] = ranges.FUNCTION
            found |= ranges.GUIDED_FAKE_SCORE if "teacher" in method.reads else {}
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
        numbers.check(field, value)
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
    had no field for another student, fake score, decoder, metric writer, steps, guidance or noise
    levels of a process, and Uni-Instruct's gradient always went through the ratio. Their
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
        if config.get("method") == "uni_instruct" and "through_ratio" not in config:
            has_ratio = config.get("divergence") != "none"
            config.through_ratio = has_ratio and config.get("ratio") == "logit"
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
    if "edm2" in config and "power_stds" not in config.edm2:
        config.edm2.power_stds = ()
    if "teacher" not in method.reads:
        return
    for field, value in _that_came(config.method).items():
        group, _, name = field.rpartition(".")
        if group not in config and group == "guidance":
            config.guidance = ConfigDict()
        holder = config.get(group) if group else config
        if holder is not None and name not in holder:
            holder[name] = value


def _that_came(method: str) -> dict[str, Any]:
    """List the dotted fields on steps, guidance and SiD-LSG's noise levels, with their values."""
    names = (*ranges.STEPS, "noised_data", "label_dropout")
    names += ("noise_levels", "weighting", "time_range")
    return {
        field: value
        for field, value in bases.fields(method).items()
        if field.startswith("guidance.") or field.rpartition(".")[2] in names
    }


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
        raise ValueError(f"config.{field} is missing; {_origin(config, field)}.") from error


def _origin(config: ConfigDict, field: str) -> str:
    """Say where a config has a field that this one lacks, of another method's base perhaps."""
    method = config.get("method", "")
    if method not in methods.names() or field not in bases.fields(method):
        return "see configs/ for one that has it"
    has_teacher = "teacher" in methods.get(method).reads
    base = f"distillation({method!r})" if has_teacher else "denoising()"
    return f"method={method!r} has it where a config starts from bases.{base}"


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
