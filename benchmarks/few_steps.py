r"""Students of a few steps, and of a guided teacher, beside that of one step. It can be stopped.

    python -m benchmarks.few_steps --output=runs/few --teacher=teachers/cifar_small_cond \
        --data=cifar10-32x32.zip --minutes=9
    python -m benchmarks.few_steps --output=runs/few --picture=docs/few_steps.png \
        --plot=docs/guidance.png

All are SiD's, from one teacher with equal rates and numbers of images: of 1, 2 and 4 steps without
guidance, and of each scale of guidance in one step. With --equal the fake score is guided by the
same scale in both turns, its labels dropped, as in SiD-LSG; otherwise the teacher alone. The
teacher is measured at each scale too; one that has learnt no answer without a class is asked with
zeros by `--set=guidance.null=zeros`. Runs are those of `benchmarks.family_run`: each that ended is
a line of `results.jsonl`, others go on from their checkpoint. The distance is a Fréchet distance of
`--features`, GPU seconds are those of training, and grids are of the same latents.
"""

import argparse
import dataclasses
import itertools
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cifar, family, family_jobs, family_report, schedule
from benchmarks.family_jobs import TEACHER, Job, Study
from diffjax.files import images
from diffjax.runs import building

STAGE = "steps"
METHOD = "sid"
STEPS, SCALES = (1, 2, 4), (1.0, 1.5, 2.0, 3.0)
LABEL_DROPOUT = 0.1  # SiD-LSG's
_SCALE, _STEPS = "guidance.teacher", "generator.steps"
_FAKE = "guidance.fake_loss"
_SHOWN, _COLUMNS, _IN_A_LINE = 10, 5, 4  # samples of a row of the table, and how they lie

Results = list[dict[str, Any]]


def rows(
    steps: Iterable[int], scales: Iterable[float], *, equal: bool = False
) -> dict[str, list[str]]:
    """List the rows of the table: those of the teacher, and those of students.

    Args:
      steps: of students without guidance.
      scales: of guidance; 1 for none.
      equal: whether the fake score is guided by the same scale.
    """

    def guided(scale: float, of_students: bool) -> str:
        if scale == 1:
            return ""
        fields: dict[str, Any] = {_SCALE: float(scale)}
        if equal and of_students:
            fields |= {"guidance.fake_training": float(scale), "guidance.fake_loss": float(scale)}
            fields |= {"fake_score.label_dropout": LABEL_DROPOUT}
        return "".join(f":{field}={value}" for field, value in fields.items())

    several = [f"{METHOD}:{_STEPS}={count}" if count > 1 else METHOD for count in steps]
    students = [*several, *(METHOD + guided(scale, True) for scale in scales)]
    teachers = [TEACHER + guided(scale, False) for scale in scales]
    return {"teacher": list(dict.fromkeys(teachers)), "student": list(dict.fromkeys(students))}


def plan(study: Study, names: dict[str, list[str]], kimg: float, results: Results) -> list[Job]:
    """List the runs that have no result.

    Args:
      study: that they are part of.
      names: of rows, as `rows` gives them.
      kimg: length of a run.
      results: so far.
    """
    known = {(each["teacher"], each["name"]) for each in results if each["stage"] == TEACHER}
    teachers = [Job(name, 0.0, 0, 0.0, 0.0, TEACHER) for name in names["teacher"]]
    students = [Job(name, study.rate, 0, kimg, kimg / 2, STAGE) for name in names["student"]]
    left = (
        [job for job in teachers if (study.name, job.name) not in known],
        [job for job in students if not job.is_done(study, results)],
    )
    # By turns, since a teacher needs its GPU while a student still compiles.
    pairs = itertools.zip_longest(*left)
    return [job for pair in pairs for job in pair if job is not None]


def execute(
    study: Study,
    names: dict[str, list[str]],
    output: Path,
    *,
    kimg: float,
    gpus: list[str],
    minutes: float = math.inf,
    share: int = 1,
) -> list[str]:
    """Run what isn't done, until time is up.

    Args:
      study: what all runs share.
      names: of rows.
      output: the study's folder.
      kimg: length of a run.
      gpus: their numbers.
      minutes: to stop after.
      share: runs on a GPU at the same time, which take turns at computing.

    Returns:
      Names of the steps that failed.
    """
    deadline = time.monotonic() + 60 * minutes
    jobs = plan(study, names, kimg, family_jobs.read(output))
    todo = [family.step(study, STAGE, job.name, [job], output, share) for job in jobs]
    runs = schedule.Schedule(todo, {each.name: output / each.result for each in todo}, gpus)
    runs.run(output / "steps", deadline - time.monotonic())
    return runs.failed


def in_order(results: Results) -> Results:
    """Choose the rows of the last result's teacher: first the teacher's own, then students'.

    Args:
      results: as they came; those of `benchmarks.family` may be among them, and are left out.
    """
    found = [each for each in results if each["stage"] in (TEACHER, STAGE)]
    own = [each for each in found if each["teacher"] == found[-1]["teacher"]]

    def place(result: dict[str, Any]) -> tuple[Any, ...]:
        changes = changes_of(result)
        return result["stage"] != TEACHER, changes.get(_SCALE, 1.0), changes.get(_STEPS, 1)

    return sorted(own, key=place)


def changes_of(result: dict[str, Any]) -> dict[str, Any]:
    """Fields of a result's config that make its row.

    Args:
      result: of `results.jsonl`.
    """
    return Job(result["name"], 0.0, 0, 0.0).changes


def report(results: Results) -> str:
    """Write the table, in Markdown.

    Args:
      results: of one teacher.
    """
    lines = [
        "| | steps | guidance | evaluations | images | distance | precision | recall | "
        "GPU seconds |",
        "|-|-|-|-|-|-|-|-|-|",
    ]
    for each in results:
        changes = changes_of(each)
        is_teacher = each["stage"] == TEACHER
        steps = int(changes.get(_STEPS, 1))
        curve = each.get("curve") or [{"kimg": math.nan}]
        ours = "-" if is_teacher else f"{curve[-1]['kimg'] * 1000:,.0f}"
        seconds = "-" if is_teacher else f"{each['gpu_seconds']:.0f}"
        lines.append(
            f"| {'teacher' if is_teacher else 'student'} | {'-' if is_teacher else steps} | "
            f"{_guidance(changes)} | {each['evaluations'] if is_teacher else steps} | {ours} | "
            f"{_distance(each)} | {_number(each['precision'])} | {_number(each['recall'])} | "
            f"{seconds} |"
        )
    where = {f"{each['device']}, jax {each['jax']}, {each['date']}" for each in results}
    return "\n".join([*lines, "", f"On {'; '.join(sorted(where))}."])


def plot(results: Results, path: Path) -> None:
    """Plot distance, precision and recall over the scale of guidance.

    Args:
      results: of one teacher.
      path: of a PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, key in zip(panels, ("distance", "precision", "recall"), strict=True):
        for label, own in lines(results).items():
            points = sorted((changes_of(each).get(_SCALE, 1.0), _value(each, key)) for each in own)
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=label)
        axes.set(xlabel="scale of guidance", ylabel=key)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def lines(results: Results) -> dict[str, Results]:
    """Choose what a line over scales of guidance is of: results that differ in nothing else.

    Args:
      results: of one teacher.

    Returns:
      Label -> results.
    """
    found: dict[str, Results] = {}
    for each in results:
        if _STEPS in (changes := changes_of(each)):
            continue
        labels = ["teacher"]
        if each["stage"] == STAGE:
            end = each["curve"][-1] if each["curve"] else {"kimg": math.nan}
            of = f"student, one step, {end['kimg']:g} thousand images"
            both = f"{of}, fake score guided too"
            # Without guidance they are one run.
            labels = [of, both] if _SCALE not in changes else [both if _FAKE in changes else of]
        for label in labels:
            found.setdefault(label, []).append(each)
    guided = {
        label: own for label, own in found.items() if any(_SCALE in changes_of(one) for one in own)
    }
    return guided or found


def picture(results: Results, output: Path, path: Path) -> None:
    """Draw the first samples of each row, from the same latents: teachers, and students below.

    Args:
      results: of one teacher, as `in_order` gives them.
      output: the study's folder, in which the grids are.
      path: of a PNG.
    """
    panels: dict[bool, list[tuple[str, np.ndarray]]] = {True: [], False: []}
    for each in results:
        changes, is_teacher = changes_of(each), each["stage"] == TEACHER
        name = family_jobs.file_name(f"{each['teacher']}_{each['name']}")
        grid = output / "grids" / f"{name}.png"
        if not is_teacher:
            grid = family_jobs.grid_of(output, each)
        count = each["evaluations"] if is_teacher else int(changes.get(_STEPS, 1))
        caption = f"{'teacher' if is_teacher else 'student'}, evaluations: {count}"
        caption += f"\nguidance {changes.get(_SCALE, 1.0):g}, distance {_distance(each)}"
        if grid.exists():
            panels[is_teacher].append((caption, family_report.tiles(grid)[:_SHOWN]))
    if not any(panels.values()):
        raise SystemExit(f"error: {output / 'grids'} has no grid of these runs")
    of_stage = [each for each in panels.values() if each]
    lines = [each[i : i + _IN_A_LINE] for each in of_stage for i in range(0, len(each), _IN_A_LINE)]
    drawn = [images.labelled_panels(each, columns=_COLUMNS) for each in lines]
    width = max(each.shape[1] for each in drawn)
    padded = [
        np.pad(each, ((0, 0), (0, width - each.shape[1]), (0, 0)), constant_values=255)
        for each in drawn
    ]
    images.save_png(path, np.concatenate(padded))


def _guidance(changes: dict[str, Any]) -> str:
    scale = f"{changes.get(_SCALE, 1.0):g}"
    return f"{scale}, of the fake score too" if _FAKE in changes else scale


def _value(result: dict[str, Any], key: str) -> float:
    found = result.get(key)
    if key == "distance" and result.get("curve"):
        found = result["curve"][-1]["distance"]
    return math.nan if found is None else float(found)


def _distance(result: dict[str, Any]) -> str:
    return result.get("failed") or f"{_value(result, 'distance'):.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = {each.name: each.default for each in dataclasses.fields(Study)}
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder of the study")
    add("--data", default="", help="real images: a zip, a folder, digits; none only reports")
    add("--teacher", default="", help="a folder or a name, of classes, trained with label dropout")
    add("--equal", action="store_true", help="guide the fake score by the same scale")
    add("--steps", type=_counts, default=STEPS, help="by default 1,2,4")
    add("--scales", type=_scales, default=SCALES, help="by default 1,1.5,2,3")
    add("--kimg", type=float, default=1000.0, help="thousand images a run")
    add("--features", default=cifar.FEATURES)
    add("--gpus", default="0", help="their numbers, such as 0,1")
    add("--share", type=int, choices=range(1, 5), default=1, help="runs on a GPU at once, to 4")
    add("--minutes", type=float, default=math.inf, help="to stop after")
    for name in ("dtype", "batch_size", "updates_per_call", "rate", "ratio", "count", "few"):
        kind = family.count if isinstance(defaults[name], int) else type(defaults[name])
        add(f"--{name}", type=kind, default=defaults[name])
    add("--points", type=family.count, default=defaults["points"], help="measurements of a run")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="of all configs")
    add("--plot", type=Path, help="a PNG of what guidance does, to draw; needs matplotlib")
    add("--picture", type=Path, help="a PNG of the grids")
    return parser, parser.parse_args()


def _scales(text: str) -> tuple[float, ...]:
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if not found or not all(math.isfinite(each) and each >= 0 for each in found):
        raise argparse.ArgumentTypeError(f"{text!r}: numbers are needed, as in 1,1.5,2")
    return found


def _counts(text: str) -> tuple[int, ...]:
    found = _scales(text)
    if not all(each >= 1 and each == int(each) for each in found):
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers are needed, as in 1,2,4")
    return tuple(map(int, found))


def main() -> None:
    """Run what isn't done; print the table, and draw on request."""
    parser, arguments = _arguments()
    output, failed = arguments.output.resolve(), []
    if arguments.data:
        if not arguments.teacher:
            parser.error("--teacher is needed with --data: a folder or a name")
        study = family.study_of(parser, arguments)
        names = rows(arguments.steps, arguments.scales, equal=arguments.equal)
        every = [*names["teacher"], *names["student"]]
        family.check(parser, study, every, output, known=(METHOD, TEACHER))
        for name in every:
            try:
                building.build(family_jobs.config_of(study, name))
            except ValueError as error:
                parser.error(f"{name}: {error}")
        failed = execute(
            study,
            names,
            output,
            kimg=arguments.kimg,
            gpus=arguments.gpus.split(","),
            minutes=arguments.minutes,
            share=arguments.share,
        )
    results = family_jobs.read(output)
    if not any(each["stage"] in (TEACHER, STAGE) for each in results):
        parser.error(f"--output={output} has no results; --data=… makes them")
    results = in_order(results)
    print(report(results))
    if arguments.plot:
        plot(results, arguments.plot)
    if arguments.picture:
        picture(results, output, arguments.picture)
    if failed:
        raise SystemExit(f"error: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
