"""Noise levels by the times of a teacher's process: whether a config that asks can have them."""

from typing import Any

from ml_collections import ConfigDict

from diffjax.diffusion import noise
from diffjax.methods import Method
from diffjax.methods.sid import UNIFORM_TIME


def check(config: ConfigDict, cls: type[Method], teacher: Any) -> None:
    """Check that a method's noise levels can be drawn as a config says.

    Args:
      config: of any method.
      cls: the method.
      teacher: model of the teacher.

    Raises:
      ValueError: naming the field, if the teacher has no process or no such times, or a setting of
        a distribution is given that isn't drawn.
    """
    published = {each.field: each.default for each in cls.settings()}
    levels = {
        field: config[field.partition(".")[0]].noise_levels
        for field in published
        if field.endswith(".noise_levels")
    }
    if not levels:
        return
    asked = [field for field, value in levels.items() if value == UNIFORM_TIME]
    idle = [] if asked else [("time_range", f"none of {' and '.join(levels)} is {UNIFORM_TIME!r}")]
    if levels["generator.noise_levels"] == UNIFORM_TIME:
        idle.append(("t_max", f"generator.noise_levels is {UNIFORM_TIME!r}"))
    for field, why in idle:
        if (tuple(config[field]) if field == "time_range" else config[field]) != published[field]:
            raise ValueError(
                f"config.{field}={config[field]} does nothing while {why}; leave it out."
            )
    if not asked:
        return
    field = asked[0]
    if teacher.process is None:
        raise ValueError(
            f"config.{field}={UNIFORM_TIME!r} draws times of the teacher's own diffusion process, "
            f"and {config.teacher} names none (a models.Teacher does by process=, SiT and DiT have "
            f"theirs); set it to {published[field]!r}."
        )
    try:
        noise.UniformTime(teacher.process, *config.time_range)
    except ValueError:
        raise ValueError(
            f"config.time_range={tuple(config.time_range)} leaves none of the "
            f"{len(teacher.process.table)} times of {config.teacher}; widen it."
        ) from None
