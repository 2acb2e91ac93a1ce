"""The report in a browser: nothing goes wrong, it fits, and what can be moved moves something."""

import pytest

from diffjax.runs import report
from tests.support import chromium, work_directories
from tests.support.work_directories import HOSTILE

pytestmark = pytest.mark.skipif(
    chromium.find() is None,
    reason=f"needs Chromium, as one of {', '.join(chromium.NAMES)} on the path",
)
STACK = "document.querySelector('.stack')"
GRIDS = f"[...{STACK}.querySelectorAll('.grid')]"
SHOWN = f"{GRIDS}.map(grid => grid.getClientRects().length > 0)"
COLOUR = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A run's report, one with hostile and long names, and a comparison."""
    folder = tmp_path_factory.mktemp("runs")
    one = work_directories.make(folder / "one")
    odd = work_directories.make(folder / ("long" * 40), teacher=HOSTILE * 3, grids=1)
    rows = [*work_directories.training(9), {"step": 99, "kimg": 99.0, f"{HOSTILE}_loss": 1.0}]
    work_directories.write_lines(odd / "metrics.jsonl", rows)
    chosen = {"one": [one], "odd": [odd], "both": [one, odd]}
    return {name: report.report(list(map(str, folders))) for name, folders in chosen.items()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("name", ["one", "odd", "both"])
def test_it_loads_without_errors_and_fits(browser, pages, name, width, scheme):
    browser.open(pages[name], width=width, scheme=scheme)
    assert browser.problems == []
    assert browser.requested[0] == pages[name].as_uri()
    assert all(url.startswith("data:") for url in browser.requested[1:])
    assert browser.evaluate("window.hacked") is None
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('svg').length") >= 5
    loaded = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    assert browser.evaluate(loaded)
    # Text of a chart, in pixels of the window.
    size = "document.querySelector('svg text').getBoundingClientRect().height"
    assert browser.evaluate(size) >= 10
    light = sum(eval(browser.evaluate(COLOUR).removeprefix("rgb"))) / 3
    assert light > 200 if scheme == "light" else light < 60


def test_the_slider_changes_the_grid(browser, pages):
    browser.open(pages["one"], width=400)
    assert browser.evaluate(SHOWN) == [False, False, True]
    browser.evaluate("document.querySelector('input.time').focus()")
    browser.key("ArrowLeft", 37)
    assert browser.evaluate(SHOWN) == [False, True, False]
    said = browser.evaluate("document.querySelector('output.time').value")
    assert said == "after 12.8k images, update 10"
    valued = "document.querySelector('input.time').getAttribute('aria-valuetext')"
    assert browser.evaluate(valued) == said
    browser.key("Home", 36)
    assert browser.evaluate(SHOWN) == [True, False, False]
    assert browser.problems == []


def test_the_teachers_samples_come_out_under_the_pointer_and_by_keys(browser, pages):
    browser.open(pages["one"], width=1600)
    cut = f"{STACK}.style.getPropertyValue('--cut')"
    assert browser.evaluate(cut) == "0%"
    left, top, width, height = browser.evaluate(
        f"(box => [box.left, box.top, box.width, box.height])({STACK}.getBoundingClientRect())"
    )
    browser.move(left + width / 4, top + height / 2)
    assert browser.evaluate(cut) == "25%"
    over = f"{STACK}.querySelector('.over')"
    assert browser.evaluate(f"getComputedStyle({over}).clipPath") == "inset(0px 75% 0px 0px)"
    same = "(a => b => a.width === b.width && a.height === b.height && a.left === b.left)"
    boxes = f"{same}({over}.getBoundingClientRect())({GRIDS}[2].getBoundingClientRect())"
    assert browser.evaluate(boxes)
    browser.move(1, 1)
    assert browser.evaluate(cut) == "0%"
    browser.evaluate("document.querySelector('input.cut').focus()")
    browser.key("End", 35)
    assert browser.evaluate(cut) == "100%"


def test_without_scripts_it_shows_the_last_grid(browser, pages):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["one"], width=400)
        assert browser.evaluate(SHOWN) == [False, False, True]
        controls = "document.querySelector('.controls').getClientRects().length"
        assert browser.evaluate(controls) == 0
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
