"""The check mode: whether a config's teacher denoises, in which units, and where it is right."""

from pathlib import Path

from ml_collections import ConfigDict

from diffjax.distributed import numerics, runtime
from diffjax.files.progress import say
from diffjax.models import checking
from diffjax.runs import checks, networks, user_function


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
    if folder:
        user_function.look_in(Path(folder))
    with numerics.own():
        runtime.prepare(deterministic=config.get("deterministic", False), distributed=False)
        teacher = networks.teacher(config.teacher).record()
        checking.short(teacher, config.teacher)
        report = checking.check(
            teacher, name=config.teacher, key=numerics.key(config.get("seed", 0))
        )
    for line in report.lines():
        say(line)
    return not report.problems
