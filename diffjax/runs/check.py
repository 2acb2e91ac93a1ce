"""The check mode: whether a config's teacher denoises, in which units, and where it is right."""

from ml_collections import ConfigDict

from diffjax.convert import teacher as teachers
from diffjax.distributed import numerics, runtime
from diffjax.files.progress import say
from diffjax.models import checking
from diffjax.models import teacher as teacher_lib
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.models.teacher import Teacher
from diffjax.runs import checks, user_function


def check(config: ConfigDict, *, folder: str = "") -> bool:
    """Check a config's teacher on its own samples, and print a report.

    Args:
      config: its `teacher` is a name, folder, file or URL of a denoiser, or "module:function", a
        function without arguments that returns a `models.Teacher`; `seed` is that of the samples.
      folder: of the config file, where a function's module is looked for first.

    Returns:
      Whether no problem was found.

    Raises:
      ValueError: in one line: there is no such teacher, or it can't be asked at all.
      OSError: if its file isn't there.
    """
    config = checks.upgraded(config)
    if "teacher" not in config:
        raise ValueError(
            "--mode=check is for a config with a teacher, which config.teacher names; this one has "
            "none"
        )
    with numerics.own():
        runtime.prepare(deterministic=config.get("deterministic", False), distributed=False)
        teacher = find(config.teacher, folder=folder)
        checking.short(teacher, config.teacher)
        report = checking.check(
            teacher, name=config.teacher, key=numerics.key(config.get("seed", 0))
        )
    for line in report.lines():
        say(line)
    return not report.problems


def find(source: str, *, folder: str = "") -> Teacher:
    """Open a teacher, one of ours or a user's, as a record of plain functions.

    Args:
      source: as `config.teacher`.
      folder: of the config file.

    Raises:
      ValueError: in one line: there is no such teacher.
      OSError: if its file isn't there.
    """
    if user_function.is_name(source):
        made = user_function.call(source, field="config.teacher", folder=folder)
        return teacher_lib.checked(made, source)
    denoiser = from_edm_kwargs(teachers.describe(source, field="config.teacher"))
    params = teachers.load(source, field="config.teacher").params
    return denoiser.as_teacher(params, classes=teachers.classes(source))
