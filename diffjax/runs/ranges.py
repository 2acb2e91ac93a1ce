"""Ranges of a config's fields, by what has them: any method, a teacher, a student, real images."""

from collections.abc import Callable
from typing import Any

from diffjax.convert import catalogue, generators
from diffjax.methods.settings import (
    COUNT,
    FINITE,
    FLAG,
    NOT_NEGATIVE,
    POSITIVE,
    WHOLE,
    Rule,
    is_number,
    is_whole,
    named,
)
from diffjax.models import few_steps
from diffjax.runs import user_function


def _is_tuple_of(holds: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, tuple | list) and all(map(holds, value))


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
DECAY = Rule(lambda v: is_number(v) and 0 <= v < 1, "it lies in [0, 1)")
NAMES = Rule(
    lambda v: bool(v) and _is_tuple_of(lambda name: isinstance(name, str), v),
    "a tuple of names is needed, such as ('fid', 'recall')",
)
COUNTS = Rule(
    lambda v: bool(v) and _is_tuple_of(COUNT.holds, v),
    "a tuple of whole numbers of at least 1 is needed, such as (1, 2)",
)
COUNTS_OR_NONE = Rule(
    lambda v: _is_tuple_of(COUNT.holds, v),
    "a tuple of whole numbers of at least 1 is needed; () for none",
)
IMAGE_SHAPE = Rule(
    lambda v: COUNTS.holds(v) and len(v) == 3 and v[0] == v[1],
    "(height, width, channels) of a square image are needed, such as (32, 32, 3)",
)
DURATION = Rule(  # images are counted in 32 bits
    lambda v: is_number(v) and 0 < v < 4e6, "a positive number is needed, and under 4e6"
)
TEXT = Rule(lambda v: isinstance(v, str), "a string is needed")
NAME = Rule(lambda v: isinstance(v, str) and bool(v), "a string that isn't empty is needed")
FUNCTION = Rule(
    lambda v: v == "" or (isinstance(v, str) and user_function.is_name(v)),
    'a function is needed, as "module:function", or "" for the teacher\'s copy',
)
WRITER = Rule(
    FUNCTION.holds, 'a function is needed, as "module:function", or "" for no other writer'
)
OTHER_STUDENT = Rule(
    lambda v: v == "network" or FUNCTION.holds(v) or (isinstance(v, str) and generators.is_one(v)),
    'a function is needed, as "module:function", a StyleGAN2 pickle or a name of one ('
    + ", ".join(catalogue.GENERATORS)
    + '), "network" for the fields network.*, or "" for the teacher\'s copy',
)

COMMON = {
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
    "heun.steps": Rule(
        lambda v: is_whole(v) and 2 <= v <= 10_000,
        "a whole number of at least 2 is needed, and at most 10000",
    ),
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
ADAM = {
    "learning_rate": RATE,
    "b1": DECAY,
    "b2": DECAY,
    "eps": POSITIVE,
    "max_grad_norm": NOT_NEGATIVE,
}
FRESH_LEARNER = {"rampup_kimg": NOT_NEGATIVE}
SOME_LEARNERS = {  # where a method's learner has the field
    "weight_decay": NOT_NEGATIVE,
    "max_grad_value": NOT_NEGATIVE,
    "rampup_kimg": NOT_NEGATIVE,
}
STUDENT = {"initial": TEXT, "frozen_kimg": NOT_NEGATIVE, "decay_kimg": NOT_NEGATIVE}
SIGMAS_OR_NONE = Rule(
    lambda v: _is_tuple_of(POSITIVE.holds, v),
    "a tuple of positive numbers is needed, such as (1.25,); () for evenly spaced ones",
)
INTERVAL = Rule(
    lambda v: (
        _is_tuple_of(NON_NEGATIVE_OR_INFINITE.holds, v)
        and len(v) == 2
        and float(v[0]) < float(v[1])
    ),
    "two noise levels are needed, the lower first, such as (0.3, 5.0); (0.0, inf) is all",
)
STEPS = {  # of a student that a teacher teaches
    "steps": Rule(  # each is a part of the program
        lambda v: is_whole(v) and 1 <= v <= 1000,
        "a whole number of at least 1 is needed, and at most 1000",
    ),
    "step_sigmas": SIGMAS_OR_NONE,
    "outputs": named(*few_steps.OUTPUTS),
    "backward": named(*few_steps.BACKWARD),
}
GUIDED_FAKE_SCORE = {"guidance.fake_training": FINITE, "guidance.fake_loss": FINITE}
# Of methods that read a teacher.
TEACHER = {
    "guidance.teacher": NOT_NEGATIVE,
    "guidance.interval": INTERVAL,
    "guidance.negative": TEXT,
    "guidance.null": named("", "zeros"),
    "teacher": Rule(
        NAME.holds, 'one is needed, such as "digits", a folder, a file, a URL or "module:function"'
    ),
    "decoder": TEXT,
    "accumulation": COUNT,
    "init_sigma": POSITIVE,
    "dropout": DECAY,
    "compile_apart": named("auto", "always", "never"),
    "teacher_dtype": DTYPE_OR_SAME,
    "optimizer_state_dtype": named("float32", "bfloat16"),
}
# Of methods that read real images.
DATA_SET = {
    "dataset": Rule(NAME.holds, "one is needed: digits, a folder, a zip or tfds:NAME"),
    "conditional": FLAG,
    "x_flip": FLAG,
}
REAL_DATA = Rule(
    NAME.holds,
    "the method compares with real images: name a data set, a folder, a zip or tfds:NAME",
)
# Said by earlier configs about their teacher, which knows it itself.
OF_THE_TEACHER = {"image_shape": IMAGE_SHAPE, "label_dim": WHOLE}
