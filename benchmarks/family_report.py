"""Tables, plot and picture of what `benchmarks.family` measured."""

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import family_jobs
from diffjax.files import images

TITLES = {
    "diff_instruct": "Diff-Instruct",
    "dmd": "DMD, distribution matching alone",
    "dmd2": "DMD2",
    "f_distill": "f-distill",
    "fgm": "FGM",
    "moment_matching": "moment matching",
    "sid": "SiD",
    "sida": "SiDA",
    "sim": "SIM",
    "smd": "SMD",
    "uni_instruct": "Uni-Instruct",
}
# The row that costs are relative to.
UNIT = "diff_instruct"
# From the most to the least that a run says of its method.
_STAGES = ("long", "once", "seeds", "rates")
_PICTURE_ROWS = 4

Results = list[dict[str, Any]]


def title(name: str) -> str:
    """Name of a row for people.

    Args:
      name: of a row.
    """
    method, _, changes = name.partition(":")
    return TITLES.get(method, method) + (f", {changes.replace(':', ', ')}" if changes else "")


def best_runs(results: Iterable[dict[str, Any]]) -> dict[str, Results]:
    """List each row's runs at its best rate, of equal length, over all seeds; the best row first.

    Args:
      results: of one teacher.

    Returns:
      Name of a row -> its longest runs.
    """
    found: dict[str, Results] = {}
    of_methods = [each for each in results if each["stage"] in _STAGES]
    for name in dict.fromkeys(each["name"] for each in of_methods):
        own = family_jobs.longest(each for each in of_methods if each["name"] == name)
        rate = min(own, key=family_jobs.distance)["rate"]
        # Where stages are equally long, one run may be of two of them.
        found[name] = list({each["seed"]: each for each in own if each["rate"] == rate}.values())
    return dict(sorted(found.items(), key=lambda item: _mean_distance(item[1])))


def report(results: Results) -> str:
    """Write the tables of all teachers, in Markdown.

    Args:
      results: as `family_jobs.read` gives them.
    """
    text = []
    for teacher in dict.fromkeys(each["teacher"] for each in results):
        own = [each for each in results if each["teacher"] == teacher]
        text += [f"Teacher {teacher}.", "", *_table(own), "", *_rates(own), "", *_costs(own), ""]
    return "\n".join(text).rstrip()


def _table(own: Results) -> list[str]:
    rows = [
        "| method | data | rate | generator's images | fake score's | seeds | distance | "
        "precision | recall | GPU seconds |",
        "|-|-|-|-|-|-|-|-|-|-|",
    ]
    for name, runs in best_runs(own).items():
        ends = [run["curve"][-1] for run in runs if run["curve"]]
        failed = next((run["failed"] for run in runs if run["failed"]), "")
        rows.append(
            f"| {title(name)} | {'needed' if runs[0]['reads_data'] else '-'} | "
            f"{runs[0]['rate']:g} | {_mean([end['kimg'] for end in ends]) * 1000:,.0f} | "
            f"{_mean([end['fake_kimg'] for end in ends]) * 1000:,.0f} | {len(runs)} | "
            f"{failed or _spread([end['distance'] for end in ends], '.2f')} | "
            f"{_spread([run['precision'] for run in runs], '.3f')} | "
            f"{_spread([run['recall'] for run in runs], '.3f')} | "
            f"{_mean([run['gpu_seconds'] for run in runs]):.0f} |"
        )
    for each in own:
        if each["stage"] == family_jobs.TEACHER:
            rows.append(
                f"| {_teacher(each['name'])}, {each['evaluations']} evaluations | | | | | | "
                f"{_spread([each['distance']], '.2f')} | {_spread([each['precision']], '.3f')} | "
                f"{_spread([each['recall']], '.3f')} | |"
            )
    return rows


def _teacher(name: str) -> str:
    """Name a teacher's row, which may be of a guided one."""
    return title(name).replace(family_jobs.TEACHER, "the teacher", 1)


def _rates(own: Results) -> list[str]:
    """Write a table of each length of the runs that try rates, the longest first."""
    tried = [each for each in own if each["stage"] == "rates"]
    rows: list[str] = []
    while tried:
        longest = family_jobs.longest(tried)
        tried = [each for each in tried if each not in longest]
        rates = sorted({each["rate"] for each in longest})
        rows += [""] if rows else []
        rows += [
            f"| distance after {longest[0]['kimg'] * 1000:,.0f} images | "
            + " | ".join(f"rate {rate:g}" for rate in rates)
            + " |",
            "|-|" + "-|" * len(rates),
        ]
        for name in dict.fromkeys(each["name"] for each in longest):
            at = {each["rate"]: each for each in longest if each["name"] == name}
            shown = [_end(at[rate]) if rate in at else "-" for rate in rates]
            rows.append(f"| {title(name)} | {' | '.join(shown)} |")
    return rows


def _end(run: dict[str, Any]) -> str:
    return run["failed"] or f"{family_jobs.distance(run):.2f}"


def _costs(own: Results) -> list[str]:
    rows = [
        "| method | an update, ms | of Diff-Instruct's | TFLOP | of Diff-Instruct's | "
        "share of peak | peak memory, GiB | compiling, s |",
        "|-|-|-|-|-|-|-|-|",
    ]
    runs = {
        name: [each for each in own if each["name"] == name and each["stage"] in _STAGES]
        for name in best_runs(own)
    }
    costs = {
        name: [float(np.median([run[key] for run in each])) for key in _COSTS]
        for name, each in runs.items()
    }
    unit = costs.get(UNIT, [math.nan] * len(_COSTS))
    for name, (seconds, tflop, share) in costs.items():
        # Later processes find in the cache what the first one compiled.
        compiling = max(run["compile_seconds"] for run in runs[name])
        memory = [run["memory_gib"] for run in runs[name] if run["memory_gib"] is not None]
        rows.append(
            f"| {title(name)} | {1000 * seconds:.1f} | {seconds / unit[0]:.2f} | {tflop:.3g} | "
            f"{tflop / unit[1]:.2f} | {share:.2f} | {f'{min(memory):.1f}' if memory else '-'} | "
            f"{compiling:.0f} |"
        )
    where = {f"{each['device']}, jax {each['jax']}, {each['date']}" for each in own}
    return [*rows, "", f"On {'; '.join(sorted(where))}."] if costs else []


_COSTS = ("seconds_per_update", "tflop_per_update", "share_of_peak")


def plot(results: Results, path: Path) -> None:
    """Plot distances by images and by GPU seconds, a row of panels a teacher.

    Args:
      results: as `family_jobs.read` gives them.
      path: of a PNG.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    teachers = list(dict.fromkeys(each["teacher"] for each in results))
    figure = Figure(figsize=(10, 4 * len(teachers)), layout="constrained")
    panels = figure.subplots(len(teachers), 2, squeeze=False)
    names = sorted({each["name"] for each in results if each["stage"] in _STAGES})
    colors = dict(zip(names, itertools.cycle(_COLORS), strict=False))
    legend: dict[str, Any] = {}
    for row, teacher in zip(panels, teachers, strict=True):
        own = [each for each in results if each["teacher"] == teacher]
        for axes, key, label in zip(row, ("kimg", "gpu_seconds"), _LABELS, strict=True):
            for name, longest in best_runs(own).items():
                # Points of shorter runs lie closer, and their rates don't fall.
                once = [each for each in own if (each["name"], each["stage"]) == (name, "once")]
                for run in longest + [each for each in once if each not in longest]:
                    points = [point for point in run["curve"] if point["distance"] is not None]
                    (line,) = axes.loglog(
                        [point[key] for point in points],
                        [point["distance"] for point in points],
                        marker="s" if run["reads_data"] else "o",
                        linestyle="--" if run["reads_data"] else "-",
                        markersize=4,
                        color=colors[name],
                    )
                    legend.setdefault(title(name), line)
            for each in own:
                if each["stage"] == family_jobs.TEACHER and each["distance"] is not None:
                    axes.axhline(each["distance"], color="0.5", linestyle=":")
            axes.set(xlabel=label, ylabel="distance", title=f"teacher {teacher}")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
    figure.legend(
        legend.values(),
        legend,
        loc="outside lower center",
        ncols=4,
        fontsize="small",
        title="squares, dashed: real images are needed; dotted: the teacher",
        title_fontsize="small",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


# Eleven that differ, for as many methods.
_COLORS = (*(f"C{i}" for i in range(10)), "black")
_LABELS = ("generator's images, thousands", "GPU seconds")


def picture(results: Results, output: Path, path: Path) -> None:
    """Put the grids of the last teacher and of its students side by side, from the same latents.

    Args:
      results: as `family_jobs.read` gives them.
      output: the study's folder, in which the grids are.
      path: of a PNG.
    """
    teacher = results[-1]["teacher"]
    own = [each for each in results if each["teacher"] == teacher]
    shown = [("teacher", output / "grids" / f"{teacher}_teacher.png")]
    for name, runs in best_runs(own).items():
        run = min(runs, key=family_jobs.distance)
        caption = f"{title(name)}, {_end(run)}\nafter {run['kimg'] * 1000:,.0f} images"
        shown.append((caption, family_jobs.grid_of(output, run)))
    panels = [(caption, tiles(grid)) for caption, grid in shown if grid.exists()]
    if not panels:
        raise SystemExit(f"error: {output / 'grids'} has no grid of these runs")
    images.save_png(path, images.labelled_panels(panels, columns=family_jobs.GRID_COLUMNS))


def tiles(path: Path) -> np.ndarray:
    """Cut the first rows of a grid without lines into its images.

    Args:
      path: of the grid.

    Returns:
      [N, H, W, C] uint8.
    """
    grid = np.asarray(Image.open(path))
    grid = grid[..., None] if grid.ndim == 2 else grid
    columns = family_jobs.GRID_COLUMNS
    size = grid.shape[1] // columns
    cut = grid.reshape(-1, size, columns, size, grid.shape[2]).swapaxes(1, 2)
    return cut[:_PICTURE_ROWS].reshape(-1, size, size, grid.shape[2])


def _mean_distance(runs: Results) -> float:
    return _mean([family_jobs.distance(run) for run in runs])


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


def _spread(values: Iterable[float | None], form: str) -> str:
    """Write a mean, and the least and greatest value if there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    among = f" ({min(known):{form}} to {max(known):{form}})" if len(known) > 1 else ""
    return f"{np.mean(known):{form}}{among}"
