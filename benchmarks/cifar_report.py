"""Findings of the study of CIFAR-10: tables, fits, and the plot of docs/results.

    python -m benchmarks.cifar_report --output=runs/cifar --plot=docs/cifar_curves.png

Reads what `benchmarks.cifar` left, also of a study that is under way. A fit is of log(distance) by
log(images), by least squares over the measurements after the first `--skip` thousand images, and up
to a breakdown if there is one.
"""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffjax.reports.fits import Fit as Fit
from diffjax.reports.fits import fit, fitted
from diffjax.reports.series import Series as Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDENTS = {
    "sid_alpha1.2": "SiD, alpha 1.2",
    "sid_alpha1.0": "SiD, alpha 1.0",
    "diff_instruct": "Diff-Instruct",
}

# Runs that go further with a student, one after another, by the end of their names.
LATER = {
    "further": "begun anew",
    "annealed": "its rate falling to 0",
}

# How far beyond the last measurement, in images, a line's way to the teacher's distance is drawn.
_SHOWN_BEYOND = 4


def curve_of(folder: Path) -> Curve:
    """Read the measurements of a run, in order; none if it hasn't begun."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        (row["kimg"], value)
        for row in rows
        for name, value in row.items()
        if name.startswith("fd_")
    ]


def runs_with(output: Path, name: str) -> list[tuple[Path, float]]:
    """List folders of a student's runs so far, and how many thousand images came before each."""
    runs = [(output / name, 0.0)]
    for stage in LATER:
        folder, done = runs[-1]
        curve = curve_of(folder)
        if not curve or not curve_of(output / f"{name}_{stage}"):
            break
        runs.append((output / f"{name}_{stage}", done + curve[-1][0]))
    return runs


def later_curves(output: Path, name: str) -> dict[str, Curve]:
    """Read title -> measurements of runs that go further with a student, images counted on."""
    later = runs_with(output, name)[1:]
    return {
        title: [(done + kimg, distance) for kimg, distance in curve_of(folder)]
        for title, (folder, done) in zip(LATER.values(), later, strict=False)
    }


def first_below(curve: Curve, distance: float) -> float | None:
    """Find the thousands of images at the first measurement no greater than a distance."""
    return next((kimg for kimg, value in curve if value <= distance), None)


def evaluation(folder: Path, source: str) -> dict[str, float]:
    """Read the numbers of `evaluation_<source>.json`; none if it isn't there."""
    path = folder / f"evaluation_{source}.json"
    if not path.exists():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    return {k: v for k, v in values.items() if isinstance(v, float)}


def timing_of(folder: Path, name: str) -> float:
    """Take the median of a number that a run wrote to `timing.jsonl`."""
    path = folder / "timing.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    values = [row[name] for row in map(json.loads, lines) if name in row]
    return float(np.median(values)) if values else math.nan


def times(folder: Path) -> tuple[float, float, float, float]:
    """Add up a run's seconds of its first call, of later updates and of measuring, and its images.

    The first call traces, compiles and makes the first updates. What comes before it isn't
    counted, nor the grids and checkpoints between calls.
    """
    path = folder / "timing.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    first = updating = measuring = kimg = 0.0
    for row in map(json.loads, lines):
        first += row.get("first_call_seconds", 0.0)
        measuring += row.get("evaluation_seconds", 0.0)
        if "images_per_second" in row:
            updating += (row["kimg"] - kimg) * 1000 / row["images_per_second"]
        kimg = row["kimg"]
    return first, updating, measuring, kimg * 1000


def times_table(output: Path) -> list[str]:
    """Write a row for each run of the study, in Markdown."""
    head = "| run | images | first call, s | later updates, s | measuring, s | peak memory, GiB |"
    rows = [head, "|-|-|-|-|-|-|"]
    for path in sorted(output.glob("*/timing.jsonl")):
        first, updating, measuring, images = times(path.parent)
        memory = timing_of(path.parent, "peak_memory_gib")
        rows.append(
            f"| {path.parent.name} | {images:,.0f} | {first:.0f} | {updating:.0f} | "
            f"{f'{measuring:.0f}' if measuring else '-'} | "
            f"{'-' if math.isnan(memory) else f'{memory:.1f}'} |"
        )
    return rows if len(rows) > 2 else []


def report(output: Path, skip_kimg: float) -> str:
    """Write the tables, in Markdown."""
    text = []
    teacher = evaluation(output / "teacher_small", "student")
    target = next((v for k, v in teacher.items() if k.startswith("fd_")), None)
    text.append(
        "| network | evaluations | images | distance | its best, and at | precision | recall | "
        "images/s | peak memory, GiB |"
    )
    text.append("|-|-|-|-|-|-|-|-|-|")
    for name in ("teacher_tiny", "teacher_small", *STUDENTS):
        folder = output / name
        rows, curve = evaluation(folder, "network"), curve_of(folder)
        distance = evaluation(folder, "student") if name.startswith("teacher") else {}
        last = curve[-1] if curve else (_kimg(folder), next(iter(_fd(distance)), math.nan))
        precision, recall = (_starting(rows, key) for key in ("precision", "recall"))
        text.append(
            f"| {STUDENTS.get(name, name)} | {35 if name.startswith('teacher') else 1} | "
            f"{last[0] * 1000:,.0f} | {last[1]:.2f} | {_best(curve)} | "
            f"{precision:.3f} | {recall:.3f} | "
            f"{timing_of(folder, 'images_per_second'):,.0f} | "
            f"{timing_of(folder, 'peak_memory_gib'):.1f} |"
        )
    curves = {title: curve_of(output / name) for name, title in STUDENTS.items()}
    text += [
        "",
        "| method | fitted to images | slope | R² | images at the teacher's distance, by the fit |",
        "|-|-|-|-|-|",
    ]
    for title, curve in curves.items():
        line = fit(curve, skip_kimg)
        if line:
            crossing = line.images_at(target) if target else math.nan
            span = fitted(curve, skip_kimg)
            text.append(
                f"| {title} | {span[0][0] * 1000:,.0f} to {span[-1][0] * 1000:,.0f} | "
                f"{line.slope:.3f} | {line.r2:.3f} | {crossing:,.0f} |"
            )
    for name, title in STUDENTS.items():
        for stage, later in later_curves(output, name).items():
            shown = ", ".join(f"{value:.2f} at {kimg * 1000:,.0f}" for kimg, value in later)
            text += ["", f"{title}, {stage}: {shown}."]
            kimg = first_below(later, target) if target else None
            if kimg is not None:
                text.append(f"It is at the teacher's distance at {kimg * 1000:,.0f} images.")
    other = curves[STUDENTS["diff_instruct"]]
    if other:
        best_kimg, best = min(other, key=lambda point: point[1])
        text += ["", f"Diff-Instruct's best is {best:.2f}, at {best_kimg:,.0f} thousand images."]
        for title in list(STUDENTS.values())[:2]:
            kimg = first_below(curves[title], best)
            when = f"is there at {kimg:,.0f} thousand" if kimg is not None else "never was there"
            text.append(f"{title} {when}.")
    sweep = [folder for start in ("sweep", "rates") for folder in sorted(output.glob(f"{start}_*"))]
    if sweep:
        text += ["", "| tiny student | images | distance |", "|-|-|-|"]
    for folder in sweep:
        for kimg, value in curve_of(folder):
            text.append(f"| {folder.name} | {kimg * 1000:,.0f} | {value:.2f} |")
    text += ["", *times_table(output)]
    return "\n".join(text)


def plot(output: Path, skip_kimg: float) -> "Figure":
    """Plot distance by images, both logarithmic, and fits, dotted on the way to the teacher's."""
    from matplotlib import ticker
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    target = next(iter(_fd(evaluation(output / "teacher_small", "student"))), None)
    for index, (name, title) in enumerate(STUDENTS.items()):
        points = np.array(curve_of(output / name))
        if not len(points):
            continue
        axes.loglog(points[:, 0], points[:, 1], "o", color=f"C{index}", label=title)
        for (stage, later), marker in zip(later_curves(output, name).items(), "o^", strict=False):
            label = f"{title}, {stage}"
            x, y = np.array(later).T
            axes.loglog(x, y, marker, color=f"C{index}", label=label, fillstyle="none")
        line = fit(curve_of(output / name), skip_kimg)
        if line:
            kimg = np.array(fitted(curve_of(output / name), skip_kimg))[:, 0]
            spans = [(kimg, "-")]
            crossing = line.images_at(target) / 1000 if target else math.inf
            if kimg[-1] < crossing < _SHOWN_BEYOND * kimg[-1]:
                spans.append((np.array([kimg[-1], crossing]), ":"))
            for span, style in spans:
                distance = np.exp(line.intercept) * (1000 * span) ** line.slope
                axes.loglog(span, distance, style, color=f"C{index}")
    if target:
        axes.axhline(target, color="0.5", linestyle="--", label="teacher, 35 evaluations")
    axes.set(xlabel="generated images, thousands", ylabel="fd_efficientnet_lite0_50k")
    axes.xaxis.set_major_locator(ticker.LogLocator(base=2))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _best(curve: Curve) -> str:
    if not curve:
        return "-"
    kimg, distance = min(curve, key=lambda point: point[1])
    return f"{distance:.2f}, {kimg * 1000:,.0f}"


def _fd(values: dict[str, float]) -> list[float]:
    return [value for name, value in values.items() if name.startswith("fd_")]


def _starting(values: dict[str, float], start: str) -> float:
    return next((value for name, value in values.items() if name.startswith(start)), math.nan)


def _kimg(folder: Path) -> float:
    path = folder / "network" / "trained.json"
    return float(json.loads(path.read_text())["kimg"]) if path.exists() else math.nan


def main() -> None:
    """Print the tables; draw the plot on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the study")
    parser.add_argument("--skip", type=float, default=0.0, help="thousand images before the fit")
    parser.add_argument("--plot", type=Path, help="a PNG to draw; needs matplotlib")
    arguments = parser.parse_args()
    if not arguments.output.is_dir():
        parser.error(f"--output={arguments.output}: no such folder; benchmarks.cifar makes it")
    print(report(arguments.output, arguments.skip))
    if arguments.plot:
        arguments.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(arguments.output, arguments.skip).savefig(arguments.plot, dpi=150)


if __name__ == "__main__":
    main()
