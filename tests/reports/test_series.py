"""Lines of numbers, read as far as they can be, and thinned."""

import json
import math

import pytest

from diffjax.reports import series


def read(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return series.read(path)


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    assert series.read(tmp_path / "nothing") == ([], 0)


def test_numbers_that_are_not_finite_and_a_cut_last_line(tmp_path):
    text = '{"step": 1, "kimg": 0.1, "a": "nan", "b": "-inf"}\n{"step": 2, "kimg": 0.2, "a": 1'
    rows, damaged = read(tmp_path, text)
    assert damaged == 0
    assert len(rows) == 1
    assert math.isnan(rows[0]["a"])
    assert rows[0]["b"] == -math.inf


@pytest.mark.parametrize(
    "line",
    [
        *("{", "[1]", "3", '{"a": 1}', "[" * 100_000, "\x00"),
        '{"step": 1, "kimg": "nan"}',
        '{"step": null, "kimg": 1}',
    ],
)
def test_a_line_that_is_none_is_counted(tmp_path, line):
    good = '{"step": 1, "kimg": 0.5, "a": 2}\n'
    assert read(tmp_path, f"{line}\n\n{good}") == ([{"step": 1.0, "kimg": 0.5, "a": 2.0}], 1)


def test_what_is_no_number_is_left_out(tmp_path):
    row = {"step": 1, "kimg": 1, "a": True, "b": "x", "c": [1], "d": None, "e": 10**400}
    rows, _ = read(tmp_path, json.dumps(row) + "\n")
    assert rows == [{"step": 1.0, "kimg": 1.0, "e": math.inf}]


def test_curves_are_in_order_of_images(tmp_path):
    lines = [{"step": s, "kimg": k, "a": s} for s, k in ((2, 0.2), (1, 0.1), (3, 0.3))]
    rows, _ = read(tmp_path, "".join(json.dumps(line) + "\n" for line in lines))
    assert series.by_name(rows) == {"a": [(0.1, 1.0), (0.2, 2.0), (0.3, 3.0)]}


def test_thinning_keeps_peaks_ends_and_what_is_not_finite():
    points = [(float(k), math.sin(k)) for k in range(20_000)]
    points[12_345], points[777], points[5_000] = (12_345.0, 99.0), (777.0, -99.0), (5e3, math.nan)
    thin = series.thinned(points, 400)
    assert len(thin) <= 400
    assert {points[0], points[-1], points[12_345], points[777], points[5_000]} <= set(thin)
    assert thin == sorted(thin)
    assert series.thinned(points[:400], 400) == points[:400]
