"""Lines of numbers that a run wrote, read as far as they can be, and thinned for a curve."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# (thousands of images, value), in order.
Point = tuple[float, float]
Series = list[Point]

_NON_FINITE = ("nan", "inf", "-inf")


class Lines(NamedTuple):
    """Lines of a file of numbers.

    Attributes:
      rows: name -> number of each line that has a step and thousands of images, in order of these.
      damaged: lines that are none, a last one that is being written now not counted.
    """

    rows: list[dict[str, float]]
    damaged: int


def read(path: Path) -> Lines:
    """Read a file of one JSON object a line, of a run that may be writing it.

    Args:
      path: of `metrics.jsonl`, say; one that isn't there has no lines.

    Raises:
      OSError: if it is there and can't be read.
    """
    try:
        # Of newlines alone, since a text may hold other characters that end a line.
        lines = path.read_text("utf-8", errors="replace").split("\n")[:-1]
    except FileNotFoundError:
        return Lines([], 0)
    rows = [row for line in lines if line.strip() and (row := _row(line)) is not None]
    damaged = sum(bool(line.strip()) for line in lines) - len(rows)
    return Lines(sorted(rows, key=lambda row: row["kimg"]), damaged)


def by_name(rows: Sequence[dict[str, float]]) -> dict[str, Series]:
    """Sort numbers into curves: name -> (thousands of images, value).

    Args:
      rows: of `Lines`.
    """
    found: dict[str, Series] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "kimg"):
                found.setdefault(name, []).append((row["kimg"], value))
    return found


def thinned(points: Series, limit: int) -> Series:
    """Leave out points of a curve that a picture of it wouldn't show.

    Of each stretch of equally many points the first, the last, the lowest, the highest and one that
    isn't finite stay, so that no peak is lost.

    Args:
      points: the curve.
      limit: the most points that are left, 10 or more.
    """
    if len(points) <= limit:
        return points
    stretch = math.ceil(len(points) / (limit // 5))
    kept: Series = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        finite = [i for i, (_, value) in enumerate(part) if math.isfinite(value)]
        chosen = {0, len(part) - 1}
        if finite:
            chosen |= {min(finite, key=lambda i: part[i][1]), max(finite, key=lambda i: part[i][1])}
        chosen |= {next((i for i, (_, value) in enumerate(part) if not math.isfinite(value)), 0)}
        kept += [part[i] for i in sorted(chosen)]
    return kept


def _row(line: str) -> dict[str, float] | None:
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    row = {name: number for name, value in values.items() if (number := _number(value)) is not None}
    return row if all(math.isfinite(row.get(name, math.nan)) for name in ("step", "kimg")) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and value not in _NON_FINITE:
        return None
    try:
        return float(value)
    except OverflowError:  # of an integer that no float holds
        return math.inf
