"""The check mode: whether the teacher is right, and what its run would take."""

import dataclasses
import math
from pathlib import Path

import jax
from ml_collections import ConfigDict

from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA, LogNormal
from diffjax.distributed import numerics, runtime, sharding
from diffjax.files import progress, writing
from diffjax.models import checking
from diffjax.models.denoiser import NetworkDenoiser
from diffjax.runs import building, checks, idle, joining, networks, provenance, rehearsal
from diffjax.runs.user_function import look_in


def check(config: ConfigDict, workdir: str = "", *, folder: str = "") -> bool:
    """Check a config's teacher on its own samples, rehearse its run, and print a report.

    Args:
      config: of any method; `seed` is that of all draws. A `teacher` is a name, folder, file or URL
        of a denoiser, or "module:function", a function without arguments that returns a
        `models.Teacher`.
      workdir: of the run that would be, for a picture and for the room on its disk; "" checks the
        teacher alone.
      folder: of the config file, where a function's module is looked for first.

    Returns:
      Whether no problem was found.

    Raises:
      ValueError: in one line: the config isn't right, there is no such teacher, or it can't be
        asked at all.
      OSError: if a file isn't there, or the picture can't be written.
    """
    config = checks.upgraded(config)
    if "teacher" not in config and not workdir:
        raise ValueError(
            "--mode=check is for a config with a teacher, which config.teacher names; this one has "
            "none"
        )
    if folder:
        look_in(Path(folder))
    if not workdir:
        with numerics.own():
            runtime.prepare(deterministic=config.get("deterministic", False), distributed=False)
            return not _of_teacher(config)
    with joining.joined(config, "check"):
        mesh = sharding.make_mesh(**config.mesh)
        sharding.check_batch(config.batch_size, config.get("accumulation", 1), mesh)
        exp = building.build(config)
        building.check_reporting(config, exp)
        idle.check(config, exp, Path(workdir))
        writing.check_makable(workdir)
        if jax.process_count() > 1:
            provenance.check_processes_agree(provenance.look(config, exp, None))
        if "teacher" in config and _of_teacher(config):
            say("the run isn't rehearsed before that is mended")
            return False
        exp.check_records()
        problems = rehearsal.rehearse(config, exp, mesh, Path(workdir), say)
    for problem in problems:
        say(f"to change: {problem}")
    say("OK" if not problems else f"{len(problems)} to change")
    return not problems


def say(text: str) -> None:
    """Print a line, in the main process alone."""
    if jax.process_index() == 0:
        progress.say(text)


def _of_teacher(config: ConfigDict) -> tuple[str, ...]:
    """Check the teacher alone, print what was found, and return its problems."""
    network = networks.teacher(config.teacher)
    teacher = network.record()
    checking.short(teacher, config.teacher)
    report = checking.check(teacher, name=config.teacher, key=numerics.key(config.get("seed", 0)))
    if isinstance(network.model, NetworkDenoiser) and _is_right_where_trained(report):
        # Its range and sigma_data are the network's own, which nobody sets.
        notes = tuple(f"note: {each.rpartition(': set ')[0] or each}" for each in report.problems)
        report = dataclasses.replace(report, problems=())
    else:
        notes = ()
    for line in (*report.lines(), *notes):
        say(line)
    return report.problems


def _is_right_where_trained(report: checking.Report) -> bool:
    """Tell whether no slope is wrong among the noise levels that EDM's training mostly draws."""
    law, scale = LogNormal(), report.sigma_data / PUBLISHED_SIGMA_DATA
    low, high = (scale * math.exp(law.mean + sign * 2 * law.std) for sign in (-1, 1))
    return not any(each.is_wrong for each in report.levels if low <= each.sigma <= high)
