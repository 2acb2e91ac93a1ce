"""Elements, axes, charts and pictures of a page."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from diffjax.files import images
from diffjax.reports import axes, gallery, html
from diffjax.reports.charts import Curve, chart
from diffjax.reports.fits import fit
from tests.support.work_directories import HOSTILE


def test_texts_are_escaped_and_html_is_not():
    inner = html.element("b", HOSTILE, title=HOSTILE)
    outer = html.element("p", inner, None, 3, hidden=True, id=None, class_="x")
    assert "<script" not in outer
    assert "<img" not in outer
    assert outer.startswith('<p hidden class="x"><b title="&lt;script&gt;')
    assert outer.endswith("</b>3</p>")
    assert html.text("a\x00b\x1b\ud800") == "a\ufffdb\ufffd\ufffd"


def test_a_fit_leaves_out_what_has_no_logarithm():
    power = [(float(k), 8 * k**-0.5) for k in (1, 2, 4, 8)]
    odd = [(0.0, 5.0), (1.5, math.nan), (3.0, 0.0), (5.0, -1.0), (9.0, math.inf)]
    assert fit(sorted(power + odd)).slope == pytest.approx(-0.5)
    assert fit([(1.0, 2.0)] * 5) is None
    assert fit([(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)]).r2 == 1
    rising = [(1.0, 0.1), (2.0, 0.2), (4.0, 0.4)]
    assert fit(rising) is None  # a distance that doubles broke down
    assert fit(rising, rises=True).slope == pytest.approx(1)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [1.0],
        [0.0, 0.0],
        [5.0, 5.0, 5.0],
        [-3.0, 2.0, 4.0],
        [math.nan, math.inf, 1.0],
        [math.nan],
        [1e300, -1e300, 1.0],
        [1e-300, 1e-12, 1.0],
        [1e-9, 1e9, 1e20],
        [0.0, 1e-320],
    ],
)
@pytest.mark.parametrize("is_measure", [True, False])
def test_any_values_have_a_chart(values, is_measure):
    points = [(float(k), value) for k, value in enumerate(values)]
    drawn = chart("a<b", [Curve("", points), Curve(HOSTILE, points)], is_measure=is_measure)
    assert "<script" not in drawn
    assert not {"nan", "inf"} & set(drawn.replace('"', " ").replace(",", " ").split())
    assert "a&lt;b against images" in drawn


def test_a_chart_tells_its_fit_and_what_is_lost():
    points = [(float(k), 8 * k**-0.5) for k in (1, 2, 4, 8)] + [(9.0, math.nan)]
    drawn = chart("fd", [Curve("", points)], is_measure=True)
    assert "to the power -0.500, R² 1.000" in drawn
    assert "1 value not finite" in drawn
    assert 'class="fit"' in drawn
    assert 'class="fit"' not in chart("loss", [Curve("", points)])


@pytest.mark.parametrize(
    ("low", "high", "is_log"),
    [(0, 1, False), (-7, 3, False), (1, 2, True), (3, 900, True), (1e-12, 1e12, True)],
)
def test_ticks_are_few_and_within(low, high, is_log):
    axis = axes.Axis(float(low), float(high), is_log)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 9
    assert all(low - 1e-9 <= tick <= high * (1 + 1e-9) for tick in ticks)
    assert (axis.place(low), axis.place(high)) == (0, 1)


def test_counts_of_images():
    assert [axes.images(kimg) for kimg in (0, 0.5, 12.8, 999.9999, 2e5, 1e6)] == [
        *("0", "500", "12.8k", "1M", "200M", "1G")
    ]


def noise(folder, name, size=64):
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    images.save_png(folder / name, picture, text={"step": "3"})


class TestGallery:
    def test_pictures_are_found_in_order_and_others_are_not(self, tmp_path):
        names = ["samples_000012.png", "samples_000000.064.png", "samples_000000.png"]
        others = ["student_seed0.png", "samples_x.png", "teacher_seed0.png", ".samples_000001.png"]
        for name in (*names, *others, "teacher_000012.png"):
            (tmp_path / name).write_bytes(b"no picture")
        found = gallery.find(tmp_path)
        assert [each.path.name for each in found["samples"]] == [names[2], names[1], names[0]]
        assert len(found["teacher"]) == 1
        assert gallery.find(tmp_path / "nothing")["samples"] == []
        pictures, notes = gallery.take(found["samples"], 10_000, {})
        assert pictures == []
        assert "Can't be read as pictures: samples_000000.png" in notes[0]

    def test_what_fits_is_taken_as_it_is(self, tmp_path):
        noise(tmp_path, "samples_000001.png")
        pictures, notes = gallery.take(gallery.find(tmp_path)["samples"], 100_000, {3: 1.28})
        assert notes == []
        (picture,) = pictures
        assert picture[:2] == (1.28, 3)
        assert (picture.width, picture.height) == (64, 64)
        assert picture.uri.startswith("data:image/png;base64,")

    @pytest.mark.parametrize("budget", [0, 3_000, 9_000, 60_000])
    def test_no_more_than_fits_is_taken_and_the_rest_is_told(self, tmp_path, budget):
        for number in range(30):
            noise(tmp_path, f"samples_{number:06d}.png")
        taken = gallery.take(gallery.find(tmp_path)["samples"], budget, {})
        assert gallery.total([taken]) <= budget
        assert len(taken.pictures) < 30
        assert f"{30 - len(taken.pictures)} of 30 pictures are left out" in taken.notes[0]
        if len(taken.pictures) > 1:
            assert [taken.pictures[0].kimg, taken.pictures[-1].kimg] == [0, 29]
            assert taken.pictures[0].uri.startswith("data:image/jpeg;base64,")
            assert "JPEG" in taken.notes[-1]

    def test_a_damaged_picture_is_left_out(self, tmp_path):
        noise(tmp_path, "samples_000001.png")
        whole = (tmp_path / "samples_000001.png").read_bytes()
        (tmp_path / "samples_000002.png").write_bytes(whole[: len(whole) // 2])
        other = io.BytesIO()
        Image.new("L", (4, 4)).save(other, format="GIF")
        (tmp_path / "samples_000003.png").write_bytes(other.getvalue())
        pictures, notes = gallery.take(gallery.find(tmp_path)["samples"], 100_000, {})
        assert len(pictures) == 1
        assert "samples_000002.png, samples_000003.png" in notes[0]
