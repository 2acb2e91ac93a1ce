r"""All methods of the family on one teacher: tables, plots, a picture. It goes on where it stopped.

    python -m benchmarks.family --output=runs/family --data=cifar10-32x32.zip --minutes=9
    python -m benchmarks.family --output=runs/family --data=cifar10-32x32.zip --minutes=9 \
        --teacher=teachers/cifar_small_cond --stages=teacher,once,long --count=50000 --wait
    python -m benchmarks.family --output=runs/family --plot=docs/family.png --picture=docs/grids.png

Stages, in this order: `teacher` measures it; `rates` runs each method at three learning rates;
`seeds` runs the best three, SiD and Diff-Instruct from two seeds more, at their best rate; `once`
runs each at the best rate that `rates` found, on this teacher or another; `long` takes the best
three of these and Diff-Instruct further, the generator's rate falling to 0 over the last half.

All registered methods with one step and a fake score take part; their settings that differ are in
`benchmarks.family_jobs`. Each is compiled once a stage, whatever its rates and seeds. Steps run on
as many GPUs as are named, one each or `--share` of them, so that one compiles while another runs:
they take turns at computing, so that GPU seconds are a run's own. They write a line to
`results.jsonl` for each run that ended; such runs aren't run again. Tables are printed at the end,
of what there is. Measurements are lines of `points.jsonl` as they come, those of runs that
don't end too. Several processes may share a folder, and take turns at the GPUs; with `--wait`
one begins a row when the other has tried its rates. Images are those that the generator is updated
on. The distance is a Frechet distance of `--features`.
"""

import argparse
import dataclasses
import json
import math
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks import cifar, family_jobs, family_report, family_study, schedule
from benchmarks.family_jobs import Job, Study
from benchmarks.family_plan import KIMG, RATES, STAGES, plan, ready
from diffjax.convert import teacher as teachers


def step_name(study: Study, stage: str, name: str) -> str:
    """Name of the step that runs a stage's jobs of a row."""
    return family_jobs.file_name(f"{study.name}_{stage}_{name}")


def step(
    study: Study, stage: str, name: str, jobs: list[Job], output: Path, share: int = 1
) -> schedule.Step:
    """Write the jobs of a row, and make the step that runs them.

    Args:
      study: that they are part of.
      stage: its name.
      name: of the row.
      jobs: none for the teacher.
      output: the study's folder.
      share: steps that a GPU runs at the same time.
    """
    folder = output / "steps" / step_name(study, stage, name)
    folder.mkdir(parents=True, exist_ok=True)
    told = {"study": dataclasses.asdict(study), "jobs": [dataclasses.asdict(job) for job in jobs]}
    # Of this call alone: another process may have other jobs of the same row and stage.
    path = folder / f"jobs_{secrets.token_hex(4)}.json"
    path.write_text(json.dumps(told), encoding="utf-8")
    arguments = ("-m", "benchmarks.family_run", f"--jobs={path}", f"--output={output}")
    done = family_jobs.done_of(path).relative_to(output)
    return schedule.Step(folder.name, arguments, str(done), weight=1 / share)


def steps(
    stage: str,
    study: Study,
    rows: list[str],
    output: Path,
    rates: Iterable[float],
    kimg: Mapping[str, float],
    share: int = 1,
) -> list[schedule.Step]:
    """List what is left of a stage.

    Args:
      stage: one of `STAGES`.
      study: that it is part of.
      rows: methods and variants.
      output: the study's folder.
      rates: that are tried.
      kimg: length of a stage's runs.
      share: steps that a GPU runs at the same time.
    """
    results = family_jobs.read(output)
    if stage != "teacher":
        todo = plan(stage, study, rows, results, rates=rates, kimg=kimg)
        return [step(study, stage, name, jobs, output, share) for name, jobs in todo.items()]
    if family_jobs.is_measured(study, family_jobs.TEACHER, results):
        return []
    return [step(study, stage, "teacher", [], output, share)]


def execute(
    study: Study,
    stages: Iterable[str],
    rows: list[str],
    output: Path,
    *,
    gpus: list[str],
    rates: Iterable[float] = RATES,
    kimg: Mapping[str, float] = KIMG,
    minutes: float = math.inf,
    share: int = 1,
    wait: bool = False,
) -> list[str]:
    """Run what isn't done, a stage after the other, until time is up.

    Args:
      study: what all runs share.
      stages: some of `STAGES`, in any order.
      rows: methods and variants.
      output: the study's folder.
      gpus: their numbers.
      rates: that are tried.
      kimg: length of a stage's runs.
      minutes: to stop after.
      share: steps that a GPU runs at the same time.
      wait: begins a row when what its stage chooses by is known; otherwise that is taken as it is.

    Returns:
      Names of the steps that failed.
    """
    deadline = time.monotonic() + 60 * minutes
    failed: list[str] = []
    for stage in [each for each in STAGES if each in stages]:
        begun: set[str] = set()
        todo: list[schedule.Step] = []

        def more(
            stage: str = stage,
            rows: list[str] = rows,
            begun: set[str] = begun,
            todo: list[schedule.Step] = todo,
        ) -> tuple[dict[schedule.Step, Path], bool]:
            results = family_jobs.read(output)
            known = ready(stage, study, rows, results, rates) if wait else rows
            new = [name for name in known if name not in begun]
            begun.update(new)
            found = steps(stage, study, new, output, rates, kimg, share) if new else []
            todo.extend(found)
            return {each: output / each.result for each in found}, begun == set(rows)

        first, are_all = more()
        paths = {each.name: path for each, path in first.items()}
        runs = schedule.Schedule(list(first), paths, gpus, None if are_all else more)
        runs.run(output / "steps", deadline - time.monotonic())
        failed += runs.failed
        if wait:  # for what is to come: not for a row that failed
            rows = [name for name in rows if step_name(study, stage, name) not in runs.failed]
        for name in [name for name in rows if name not in begun]:
            print(f"{stage}: {name} wasn't begun; what it waits for isn't known", flush=True)
        unfinished = {each.name for each in todo if not (output / each.result).exists()}
        if unfinished - set(failed) or not begun.issuperset(rows):
            break  # what follows depends on it
    return failed


def _numbers(text: str) -> tuple[float, ...]:
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if not found or not all(math.isfinite(each) and each > 0 for each in found):
        raise argparse.ArgumentTypeError(f"{text!r}: positive numbers are needed, as in 2e-5,1e-4")
    return found


def count(text: str) -> int:
    """Read a whole number of at least 1 from a command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of at least 1 is needed")
    return int(text)


def _stages(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if unknown := [each for each in found if each not in STAGES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no stage: {', '.join(STAGES)}")
    return found


def _lengths(text: str) -> dict[str, float]:
    numbers = _numbers(text)
    if len(numbers) != len(KIMG):
        raise argparse.ArgumentTypeError(f"{text!r}: four are needed, for {', '.join(KIMG)}")
    return dict(zip(KIMG, numbers, strict=True))


def _arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = {each.name: each.default for each in dataclasses.fields(Study)}
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder of the study")
    add("--data", default="", help="real images: a zip, a folder, digits; none only reports")
    add("--teacher", default="cifar_tiny", help="a name, or a folder")
    add("--stages", type=_stages, default=("teacher", "rates", "seeds"), help=", ".join(STAGES))
    add("--only", default="", help="methods, and variants such as sid:alpha=1.0; all by default")
    add("--rates", type=_numbers, default=RATES, help="the generator's, that are tried")
    add("--kimg", type=_lengths, default=KIMG, help=f"thousand images a run: {','.join(KIMG)}")
    add("--features", default=cifar.FEATURES)
    add("--gpus", default="0", help="their numbers, such as 0,1")
    add("--share", type=int, choices=range(1, 5), default=1, help="runs on a GPU at once, to 4")
    add("--minutes", type=float, default=math.inf, help="to stop after")
    add("--wait", action="store_true", help="for rates that another process tries")
    for name in ("dtype", "batch_size", "updates_per_call", "ratio", "count", "few", "points"):
        default = defaults[name]
        kind = count if isinstance(default, int) else type(default)
        add(f"--{name}", type=kind, default=default, help=f"by default {default}")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="of all configs")
    add("--plot", type=Path, help="a PNG to draw; needs matplotlib")
    add("--picture", type=Path, help="a PNG of the grids of the last stage")
    return parser, parser.parse_args()


def main() -> None:
    """Run what isn't done; print tables, and draw on request."""
    parser, arguments = _arguments()
    output = arguments.output.resolve()
    failed: list[str] = []
    if arguments.data:
        study, rows = study_of(parser, arguments), family_jobs.names()
        if arguments.only:
            rows = tuple(arguments.only.split(","))
        check(parser, study, rows, output)
        failed = execute(
            study,
            arguments.stages,
            list(rows),
            output,
            gpus=arguments.gpus.split(","),
            rates=arguments.rates,
            kimg=arguments.kimg,
            minutes=arguments.minutes,
            share=arguments.share,
            wait=arguments.wait,
        )
    results = family_jobs.read(output)
    if not results:
        parser.error(f"--output={output} has no results; --data=… makes them")
    print(family_report.report(results))
    if arguments.plot:
        family_report.plot(results, arguments.plot)
    if arguments.picture:
        family_report.picture(results, output, arguments.picture)
    if failed:
        raise SystemExit(f"error: failed: {', '.join(failed)}")


def study_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Study:
    """Make the study that arguments name.

    Args:
      parser: ends the program in one line where they are wrong.
      arguments: with `data`, `teacher` and `set`, and others by the names of `Study`'s fields.
    """
    is_file = Path(arguments.data).exists()
    own = {each.name for each in dataclasses.fields(Study)} & vars(arguments).keys()
    given = {name: getattr(arguments, name) for name in own}
    given["data"] = str(Path(arguments.data).resolve()) if is_file else arguments.data
    if Path(arguments.teacher).exists():
        given["teacher"] = str(Path(arguments.teacher).resolve())
    try:
        changes = dict(map(family_jobs.change, arguments.set))
    except ValueError as error:
        parser.error(f"--set: {error}")
    return Study(**given, changes=changes)


def check(
    parser: argparse.ArgumentParser,
    study: Study,
    rows: Iterable[str],
    output: Path,
    known: Iterable[str] = (),
) -> None:
    """Refuse what can't be run, or doesn't belong to the study, before anything starts.

    Args:
      parser: ends the program in one line.
      study: that it would be part of.
      rows: methods and variants.
      output: the study's folder.
      known: what rows may begin with; () for all methods.
    """
    if not Path(study.data).exists() and study.data != "digits":
        parser.error(f"--data={study.data}: no such file; EDM's dataset_tool.py makes it")
    try:
        teachers.describe(study.teacher, field="--teacher")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    known = tuple(known) or family_jobs.names()
    for name in rows:
        if (method := name.partition(":")[0]) not in known:
            parser.error(f"--only={name}: {method!r} isn't one of {', '.join(known)}")
        try:
            family_jobs.config_of(study, name)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            parser.error(f"{name}: {error}")
    try:
        family_study.keep(study, rows, output)  # last, since it may download the teacher
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
