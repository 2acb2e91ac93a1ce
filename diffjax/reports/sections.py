"""Sections of a run's report; one that has nothing to show says so."""

import re
from collections.abc import Iterable, Mapping, Sequence

from diffjax.reports import axes, record
from diffjax.reports.charts import Curve, chart
from diffjax.reports.gallery import Gallery, Picture
from diffjax.reports.html import Child, Html, element, joined, table
from diffjax.reports.series import Series

# Curves in the order in which they are looked at; what matches none comes after.
_ORDER = ("loss$", "^delta$", "grad_norm$", "^skipped$", "^images_per_second$", "^peak_memory")
_UNITS = {
    "images_per_second": "images/s",
    "peak_memory_gib": "GiB",
    "seconds_per_update": "s",
}
# Told as numbers, not drawn: of one moment, or the inverse of another curve.
_NOT_DRAWN = ("first_call_seconds", "evaluation_seconds", "seconds_per_update")

# Of a run: its label, "" where it is alone, and its curves.
Labelled = Sequence[tuple[str, Mapping[str, Series]]]


def section(name: str, title: str, *children: Child) -> Html:
    """Make a section under its heading, to which `#name` leads."""
    return element("section", element("h2", title, id=name), *children)


def nothing(what: str) -> Html:
    """Say that there is nothing to show."""
    return element("p", what, class_="soft")


def lines(texts: Iterable[str]) -> Html | None:
    """List remarks; None without any."""
    items = [element("li", each) for each in texts]
    return element("ul", *items, class_="notes") if items else None


def facts(values: Mapping[str, str]) -> Html:
    """Show names and what they are."""
    pairs = [
        element("div", element("dt", name), element("dd", value)) for name, value in values.items()
    ]
    return element("dl", *pairs, class_="facts")


def samples(run: record.Run) -> Html:
    """Show the grids over time, with the teacher's beneath, and the last picture that compares."""
    grids, teachers = run.galleries["samples"], run.galleries["teacher"]
    comparisons = run.galleries["comparison"]
    shown = []
    if grids.pictures:
        shown.append(_viewer(grids.pictures, teachers.pictures[-1:]))
    shown += [
        _figure(
            each,
            f"Side by side at the end, {when(each)}. The captions stand in the picture.",
            is_wide=True,
        )
        for each in comparisons.pictures[-1:]
    ]
    notes = [note for each in (grids, teachers, comparisons) for note in each.notes]
    if not shown:
        shown = [nothing("There are no pictures: none was drawn yet, or examples have none.")]
        return section("samples", "Samples", *shown, lines(notes))
    return section(
        "samples", "Samples", element("div", *shown, class_="pictures"), lines(dict.fromkeys(notes))
    )


def when(picture: Picture) -> str:
    """Say after how many images and updates a picture was drawn."""
    step = "" if picture.step is None else f", update {picture.step:,}"
    return f"after {axes.images(picture.kimg)} images{step}"


def _viewer(grids: Sequence[Picture], teachers: Sequence[Picture]) -> Html:
    # Of another grid, as after a change of its rows, nothing would lie on its like.
    last = grids[-1]
    over = [each for each in teachers if (each.width, each.height) == (last.width, last.height)]
    pictures = [
        element(
            "img",
            src=each.uri,
            alt=f"Samples of the network being trained, {when(each)}",
            class_="grid",
            width=each.width,
            height=each.height,
            data_when=when(each),
            hidden=each is not last,
        )
        for each in grids
    ]
    pictures += [
        element(
            "img",
            src=each.uri,
            alt="The teacher's samples from the same latents",
            class_="over",
            width=each.width,
            height=each.height,
        )
        for each in over
    ]
    stack = element("div", *pictures, class_="stack both" if over else "stack")
    controls = []
    if len(grids) > 1:
        slider = element(
            "input",
            type="range",
            class_="time",
            id="time",
            min=0,
            max=len(grids) - 1,
            value=len(grids) - 1,
        )
        controls.append(
            element(
                "div",
                element("label", "Over time", for_="time"),
                slider,
                element("output", when(last), class_="time", for_="time"),
            )
        )
    if over:
        slider = element("input", type="range", class_="cut", id="cut", min=0, max=100, value=0)
        controls.append(
            element(
                "div",
                element("label", "Teacher, from the same z", for_="cut"),
                slider,
                element(
                    "span",
                    "Move over the picture, or this slider: left of the line are the teacher's "
                    "samples, right of it the student's.",
                    class_="soft",
                ),
            )
        )
    caption = [element("p", f"Samples {when(last)}.", class_="soft")] if len(grids) == 1 else []
    if teachers and not over:
        caption.append(element("p", "The teacher's grid is of another size.", class_="soft"))
    return element(
        "figure",
        stack,
        element("figcaption", *caption, element("div", *controls, class_="controls")),
        *(_figure(each, "The teacher's samples.") for each in teachers if each not in over),
        class_="viewer",
    )


def _figure(picture: Picture, caption: str, *, is_wide: bool = False) -> Html:
    image = element("img", src=picture.uri, alt=caption, width=picture.width, height=picture.height)
    if is_wide:  # it scrolls by itself, so that its captions can be read
        image = element(
            "div", image, class_="scroll", tabindex=0, role="region", aria_label=caption
        )
    note = element("figcaption", caption, class_="soft")
    return element("figure", image, note, class_="picture wide" if is_wide else "picture")


def last_pictures(galleries: Sequence[tuple[str, Gallery]]) -> Html:
    """Show the last grids of several runs side by side."""
    shown = [
        _figure(gallery.pictures[-1], f"{label}: samples {when(gallery.pictures[-1])}.")
        for label, gallery in galleries
        if gallery.pictures
    ]
    notes = lines(f"{label}: {note}" for label, gallery in galleries for note in gallery.notes)
    if not shown:
        return section("samples", "Samples", nothing("None of them has pictures."), notes)
    return section("samples", "Samples", element("div", *shown, class_="cards"), notes)


def measures(runs: Labelled, rises: Mapping[str, bool], *children: Child) -> Html:
    """Draw measurements against images, and put more about them below.

    Args:
      runs: curves of each.
      rises: names of measurements -> whether higher is better.
      *children: what follows.
    """
    drawn = [
        chart(
            name,
            [Curve(label, curves.get(name, [])) for label, curves in runs],
            is_measure=True,
            rises=rises[name],
        )
        for name in rises
    ]
    none = nothing("Nothing was measured while it trained.")
    shown = element("div", *drawn, class_="cards") if drawn else none
    return section("measures", "Measures", shown, *children)


def curves(runs: Labelled, timing: Labelled, rises: Mapping[str, bool]) -> Html:
    """Draw the other numbers against images: losses, |Δ|, gradient norms, what was skipped, rates.

    Args:
      runs: curves of each.
      timing: those of times and rates.
      rises: names of measurements, which are left out.
    """
    whole = [
        (label, {**numbers, **times})
        for (label, numbers), (_, times) in zip(runs, timing, strict=True)
    ]
    names = {name: None for _, each in whole for name in each}
    chosen = [name for name in names if name not in rises and name not in _NOT_DRAWN]
    drawn = [
        chart(
            title(name),
            [Curve(label, each.get(name, [])) for label, each in whole],
            unit=_UNITS.get(name, ""),
        )
        for name in sorted(chosen, key=_rank)
    ]
    none = nothing("There are no curves: no line of numbers was written yet.")
    shown = element("div", *drawn, class_="cards") if drawn else none
    return section("curves", "Curves", shown)


def title(name: str) -> str:
    """Title of a curve by its name in `metrics.jsonl` or `timing.jsonl`."""
    learner, loss, rest = name.rpartition("_loss")
    if loss and not rest:
        return f"Loss of {learner.replace('_', ' ')}"
    learner, norm, rest = name.rpartition("_grad_norm")
    if norm and not rest:
        return f"Gradient norm of {learner.replace('_', ' ')}"
    known = {
        "delta": "|Δ|",
        "skipped": "Skipped updates",
        "images_per_second": "Images a second",
        "peak_memory_gib": "Peak memory",
    }
    return known.get(name, name)


def _rank(name: str) -> tuple[int, str]:
    for place, pattern in enumerate(_ORDER):
        if re.search(pattern, name):
            return place, name
    return len(_ORDER), name


def evaluations(found: Sequence[record.Evaluation]) -> Html:
    """Show what `--mode=evaluate` wrote."""
    if not found:
        return nothing("There is no evaluation_*.json: --mode=evaluate writes it.")
    names = list(dict.fromkeys(name for each in found for name in each.values))
    rows = [
        [f"{each.title} ({each.file})", *(each.values.get(name, "") for name in names)]
        for each in found
    ]
    return joined(
        [
            table(["measured", *names], rows, caption="Evaluations, by --mode=evaluate"),
            *(
                settings(f"How {each.file} was measured, and against what", each.settings)
                for each in found
            ),
        ]
    )


def settings(summary: str, values: Mapping[str, str]) -> Html:
    """Show settings folded under a line."""
    if not values:
        return nothing(f"{summary}: that wasn't kept.")
    rows = [[name, value] for name, value in values.items()]
    return element(
        "details", element("summary", summary), table(["setting", "value"], rows, caption=summary)
    )


def config(run: record.Run) -> Html:
    """Show a config as it differs from its base, and all of it folded."""
    note = nothing(run.config_note) if run.config_note else None
    if not run.config:
        return section("config", "Config", note)
    head = ["field", "value", "base", "set by"]
    changed = [list(each) for each in run.config if each.origin != "base"]
    everything = [list(each) for each in run.config]
    title = "Fields that differ from the base of the method"
    return section(
        "config",
        "Config",
        note,
        table(head, changed, caption=title) if changed else nothing("All is as its base has it."),
        element(
            "details",
            element("summary", f"All {len(everything)} fields"),
            table(head, everything, caption="All fields"),
        ),
    )


def environment(run: record.Run) -> Html:
    """Show the commands, what they computed with, and what they read."""
    parts: list[Child] = [element("h3", "Commands")]
    if run.starts:
        parts += [
            joined(
                [
                    element(
                        "p", f"{each.time}, from update {each.step}", lines_of(each), class_="soft"
                    ),
                    element("pre", each.command or "(begun from Python)"),
                ]
            )
            for each in run.starts
        ]
    else:
        parts.append(nothing("There is no record of commands: the run began before one was kept."))
    parts.append(element("h3", "Environment of the latest start"))
    if run.environment:
        rows = [[name, value] for name, value in run.environment.items()]
        parts.append(table(["name", "value"], rows, caption="Versions, devices and settings"))
    else:
        parts.append(nothing("There is no numerics.json, which would tell."))
    parts.append(element("h3", "Inputs"))
    if run.inputs:
        head = ["input", "from", "content"]
        parts.append(table(head, run.inputs, caption="What was read"))
    else:
        parts.append(nothing("There is no inputs.json, which would tell."))
    return section("environment", "Commands, environment, inputs", *parts)


def lines_of(start: record.Start) -> str:
    """Versions of a start, in one line."""
    shown = ", ".join(f"{name} {value}" for name, value in start.versions.items())
    return f": {shown}" if shown else ""
