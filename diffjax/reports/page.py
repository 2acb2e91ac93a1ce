"""Pages: the report of one run, and of several beside each other."""

from collections.abc import Sequence
from pathlib import Path

from diffjax.reports import html, record, sections
from diffjax.reports.html import Child, Html, element, table

# What a title ends with, by which a page is known.
MARK = ", diffjax</title>"
_ASSETS = Path(__file__).parents[1] / "assets" / "report"


def of_run(run: record.Run, *, refresh: int = 0) -> str:
    """Make the report of a run.

    Args:
      run: the run.
      refresh: seconds after which the page of a run that goes on loads itself again; 0 never.

    Returns:
      A page of HTML that loads nothing.
    """
    curves = [("", run.scalars)]
    body = [
        sections.samples(run),
        sections.measures(
            curves,
            run.measures,
            *_measured(run),
            sections.evaluations(run.evaluations),
        ),
        sections.curves(curves, [("", run.timing)], run.measures),
        sections.config(run),
        sections.environment(run),
    ]
    head = [
        element("h1", run.name),
        _state(run),
        element("p", run.folder, class_="soft"),
        sections.facts(run.facts),
        sections.lines(run.notes),
    ]
    return _page(run.name, head, body, refresh=refresh if run.is_running else 0)


def of_runs(runs: Sequence[record.Run], *, refresh: int = 0) -> str:
    """Make a page that compares runs.

    Args:
      runs: two or more.
      refresh: as for `of_run`, while one of them goes on.

    Returns:
      A page of HTML that loads nothing.
    """
    labels = labelled(runs)
    pairs = list(zip(labels, runs, strict=True))
    rises = {name: up for run in runs for name, up in run.measures.items()}
    names = list(dict.fromkeys(name for run in runs for name in run.facts))
    overview = table(
        ["run", "state", "folder", *names],
        [
            [label, run.state, run.folder, *(run.facts.get(name, "") for name in names)]
            for label, run in pairs
        ],
        caption="Runs",
    )
    curves = [(label, run.scalars) for label, run in pairs]
    body = [
        sections.last_pictures([(label, run.galleries["samples"]) for label, run in pairs]),
        sections.measures(curves, rises, *_compared(pairs)),
        sections.curves(curves, [(label, run.timing) for label, run in pairs], rises),
        _config(pairs),
        _environment(pairs),
    ]
    notes = [f"{label}: {note}" for label, run in pairs for note in run.notes]
    head = [
        element("h1", f"{len(runs)} runs compared"),
        element("p", f"As of {runs[0].as_of}.", class_="soft"),
        overview,
        sections.lines(notes),
    ]
    is_running = any(run.is_running for run in runs)
    title = f"{', '.join(labels)}: comparison"
    return _page(title, head, body, refresh=refresh if is_running else 0)


def labelled(runs: Sequence[record.Run]) -> list[str]:
    """Name runs by the ends of their folders, as long as it takes to tell them apart."""
    paths = [Path(run.folder).absolute().parts for run in runs]
    longest = max(map(len, paths))
    for length in range(1, longest + 1):
        labels = ["/".join(parts[-length:]) for parts in paths]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{run.folder} ({number})" for number, run in enumerate(runs, 1)]


def _state(run: record.Run) -> Html:
    kind = "state running" if run.is_running else "state"
    return element("p", element("span", run.state, class_=kind), f" as of {run.as_of}")


def _measured(run: record.Run) -> list[Html]:
    if not run.measures:
        return []
    if not run.measured:
        return [sections.settings("How these were measured, and against what", {})]
    return [
        sections.settings(f"From update {step}: how it was measured, and against what", values)
        for step, values in run.measured
    ]


def _compared(pairs: Sequence[tuple[str, record.Run]]) -> list[Html]:
    """Last measurements of each run, and how they and the evaluations were made."""
    names = list(dict.fromkeys(name for _, run in pairs for name in run.measures))
    parts = []
    if names:
        rows = [
            [label, *(_last(run, name) for name in names)] for label, run in pairs if run.measures
        ]
        parts.append(table(["run", *names], rows, caption="Last measurement of each run"))
    settings = {label: dict(run.measured[-1][1]) for label, run in pairs if run.measured}
    if different := _different(settings):
        caption = "Measured otherwise: these numbers are not of one kind"
        parts.append(table(["setting", *settings], different, caption=caption))
    for label, run in pairs:
        if run.evaluations:
            parts += [element("h3", label), sections.evaluations(run.evaluations)]
    return parts


def _last(run: record.Run, name: str) -> str:
    points = run.scalars.get(name)
    return f"{points[-1][1]:.4g}" if points else ""


def _config(pairs: Sequence[tuple[str, record.Run]]) -> Html:
    known = {label: {field.name: field.value for field in run.config} for label, run in pairs}
    different = _different(known)
    shown = (
        table(["field", *known], different, caption="Fields in which they differ")
        if different
        else sections.nothing("Their configs are equal.")
    )
    notes = [f"{label}: {run.config_note}" for label, run in pairs if run.config_note]
    return sections.section("config", "Config", shown, sections.lines(notes))


def _environment(pairs: Sequence[tuple[str, record.Run]]) -> Html:
    known = {label: dict(run.environment) for label, run in pairs}
    for label, run in pairs:
        known[label] |= {f"input {row[0]}": f"{row[1]}, {row[2]}" for row in run.inputs}
        if run.starts:
            known[label]["command"] = run.starts[-1].command or "(begun from Python)"
    different = _different(known)
    shown = (
        table(["name", *known], different, caption="In what they differ")
        if different
        else sections.nothing("They are equal, or nothing was kept.")
    )
    return sections.section("environment", "Commands, environment, inputs", shown)


def _different(known: dict[str, dict[str, str]]) -> list[list[str]]:
    """Rows of what isn't the same in all: name, and the value in each."""
    names = dict.fromkeys(name for values in known.values() for name in values)
    rows = [[name, *(values.get(name, "none") for values in known.values())] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _page(title: str, head: Sequence[Child], body: Sequence[Child], *, refresh: int) -> str:
    places = {
        "samples": "Samples",
        "measures": "Measures",
        "curves": "Curves",
        "config": "Config",
        "environment": "Environment",
    }
    links = [element("li", element("a", name, href=f"#{place}")) for place, name in places.items()]
    whole = [
        element("header", *head, element("nav", element("ul", *links), aria_label="Sections")),
        element("main", *body),
        element(
            "footer",
            "Made by diffjax, --mode=report; the same command makes it again of what is there.",
            class_="soft",
        ),
    ]
    return html.document(
        title=f"{title}, diffjax",
        body=html.joined(whole),
        style=(_ASSETS / "page.css").read_text(encoding="utf-8"),
        script=(_ASSETS / "page.js").read_text(encoding="utf-8"),
        refresh=refresh,
    )
