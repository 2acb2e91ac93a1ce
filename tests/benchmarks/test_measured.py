"""Tables of docs/guides/which-method.md say what the raw lines beside them do."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import family_report

DOCS = Path(__file__).parents[2] / "docs"
TEACHERS = {"On the tiny teacher": "cifar_tiny", "On a larger teacher": "cifar_small_cond"}
# Titles and rates as the page has them.
TITLES = {**family_report.TITLES, "dmd": "DMD"}
MINUS = "\N{NON-BREAKING HYPHEN}"
STOPPED = ", stopped"


def lines(teacher, file="family.jsonl.gz"):
    path = DOCS / "results" / file
    found = map(json.loads, gzip.decompress(path.read_bytes()).splitlines())
    return [each for each in found if each["teacher"] == teacher]


def tables(title):
    """Return the tables of a part of the page, each as rows of a column's name -> its text."""
    page = (DOCS / "guides" / "which-method.md").read_text()
    part = page.split(f"### {title}\n")[1].split("\n### ")[0]
    found = []
    for block in part.split("\n\n"):
        cells = [row.strip("| ").split(" | ") for row in block.splitlines() if row[:1] == "|"]
        if cells:
            rows = [[text.strip("* |") for text in row] for row in cells]
            found.append([rows[0], *rows[2:]])
    return found


def row_of(cell):
    """Return the name in raw lines of what a first cell says, None for the teacher's."""
    title, *variant = cell.replace("`", "").removesuffix(STOPPED).split(", ")
    if title == "the teacher":
        return None
    name = {title: name for name, title in TITLES.items()}[title]
    return ":".join([name, *(_VARIANTS[each] for each in variant)])


_VARIANTS = {
    "init_sigma 80": "init_sigma=80.0",
    "through_ratio": "through_ratio=True",
    "bounds 100 and 1000": "generator.max_grad_norm=100.0:fake_score.max_grad_norm=1000.0",
}


def rounded(values, form):
    return f"{np.mean(values):{form}}"


@pytest.mark.parametrize("title", TEACHERS)
def test_distances(title):
    own = [each for each in lines(TEACHERS[title]) if each["stage"] != "teacher"]
    checked = 0
    for header, *rows in tables(title):
        if header[0] != "method" or "rate" not in header:
            continue
        points = [name for name in header if name.removeprefix("after ").replace(",", "").isdigit()]
        for cells in rows:
            if (name := row_of(cells[0])) is None:
                continue
            row = dict(zip(header, cells, strict=False))
            rate = float(row["rate"].split(" ")[0].replace(MINUS, "-").removesuffix("of"))
            runs = [each for each in own if (each["name"], each["rate"]) == (name, rate)]
            ends = [int(text.removeprefix("after ").replace(",", "")) for text in points]
            if cells[0].endswith(STOPPED):
                stopped = [
                    [(round(1000 * p["kimg"]), f"{p['distance']:.2f}") for p in run["curve"]]
                    for run in lines(TEACHERS[title], "family_stopped.jsonl.gz")
                    if (run["name"], run["rate"]) == (name, rate)
                ]
                shown = [row[each] for each in points if row.get(each)]
                assert list(zip(ends, shown, strict=False)) in stopped, name
                continue
            if ends:
                runs = [r for r in runs if round(1000 * r["curve"][-1]["kimg"]) == ends[-1]]
                (run,) = runs
                assert [round(1000 * p["kimg"]) for p in run["curve"]] == ends
                shown = [f"{p['distance']:.2f}" for p in run["curve"]]
                assert [row[each] for each in points] == shown, name
            else:
                last = [each["curve"][-1]["distance"] for each in runs]
                assert row["distance"] == rounded(last, ".2f"), name
                spread = f"{min(last):.2f} to {max(last):.2f}" if len(last) > 1 else "-"
                assert row["of seeds"] == spread, name
                fake = runs[0]["curve"][-1]["fake_kimg"]
                assert row["fake score's images"] == f"{1000 * fake:,.0f}", name
            assert row["precision"] == rounded([r["precision"] for r in runs], ".3f"), name
            assert row["recall"] == rounded([r["recall"] for r in runs], ".3f"), name
            assert row["GPU seconds"] == rounded([r["gpu_seconds"] for r in runs], ".0f"), name
            assert (row["data"] == "needed") == runs[0]["reads_data"], name
            checked += 1
    assert checked >= 11


def test_distances_by_rate():
    (table,) = [each for each in tables("On the tiny teacher") if each[0][0] == "distance by rate"]
    tried = {(r["name"], r["rate"]): r for r in lines("cifar_tiny") if r["stage"] == "rates"}
    for cells in table[1:]:
        for rate, shown in zip(table[0][1:], cells[1:], strict=True):
            run = tried[row_of(cells[0]), float(rate)]
            assert shown == f"{run['curve'][-1]['distance']:.2f}", (cells[0], rate)


@pytest.mark.parametrize("title", TEACHERS)
def test_costs(title):
    own = [each for each in lines(TEACHERS[title]) if each["stage"] != "teacher"]
    (table,) = [table for table in tables(title) if table[0][0].startswith("an update")]
    checked = 0
    for cells in table[1:]:
        runs = [each for each in own if each["name"] == row_of(cells[0])]
        if not runs:
            assert len(cells) < len(table[0])  # no memory, so no line: of a run that was stopped
            continue
        seconds, flops, share = (
            np.median([each[key] for each in runs])
            for key in ("seconds_per_update", "tflop_per_update", "share_of_peak")
        )
        memory = min(each["memory_gib"] for each in runs)
        assert float(cells[1]) == pytest.approx(1000 * seconds, abs=0.5), cells[0]
        assert float(cells[3]) == pytest.approx(flops, rel=5e-3), cells[0]
        assert float(cells[5]) == pytest.approx(share, abs=0.0051), cells[0]
        assert float(cells[6]) == pytest.approx(memory, abs=0.051), cells[0]
        checked += 1
    assert checked >= 9
