"""Gathering what a work directory tells of its run, for a report; nothing there is changed.

Whatever is missing or damaged is left out and said, so that runs of earlier versions, runs that
were killed and runs that are under way have a report too.
"""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffjax.distributed import numerics
from diffjax.evaluation.measures import METRICS
from diffjax.files import json_values
from diffjax.reports import axes, gallery, record, series
from diffjax.runs import (
    bases,
    logger,
    ownership,
    provenance,
    reporting,
    results,
    saved_config,
    show,
    starts,
)
from diffjax.training import failures

# Bytes of a page that the pictures of all its runs may take.
PICTURES = 4_000_000
# Shares of a run's part of that which the teacher's grid and the comparison may take.
_SHARE = 0.25
# What other programs have too, by these names, is no trace of a run: `_has_own` looks closer.
_TRACES = (logger.METRICS_FILE, logger.TIMING_FILE, provenance.FILE, starts.FILE)


def has_run(workdir: Path) -> bool:
    """Tell whether a folder holds something of a run."""
    return any((workdir / name).exists() for name in _TRACES) or _has_own(workdir)


def _has_own(workdir: Path) -> bool:
    """Tell whether a config, checkpoints or pictures are diffjax's, or may be."""
    damage: list[str] = []
    values = _any_json(workdir / saved_config.FILE, damage)
    if damage or (isinstance(values, dict) and {"batch_size", "duration_kimg"} <= values.keys()):
        return True
    for name, is_ours in (("checkpoints", _is_checkpoint), (logger.SAMPLES, gallery.is_one)):
        try:
            inside = [each.name for each in (workdir / name).iterdir()]
        except OSError:
            continue
        if not inside or any(map(is_ours, inside)):
            return True
    return False


def _is_checkpoint(name: str) -> bool:
    return name.partition(".")[0].isdecimal()  # with `.damaged` and the like behind it


def run(workdir: Path, *, budget: int = PICTURES, has_ended: bool = False) -> record.Run:
    """Gather what a work directory tells.

    Args:
      workdir: of the run.
      budget: bytes of the page that its pictures may take.
      has_ended: whether the run is known to have, though its process is alive.
    """
    notes: list[str] = []
    scalars, timing = (
        _lines(workdir / name, notes) for name in (logger.METRICS_FILE, logger.TIMING_FILE)
    )
    known_starts = starts.read(workdir)
    values = _json(workdir / saved_config.FILE, notes)
    config, config_note = _config(workdir, known_starts)
    is_running = not has_ended and ownership.is_owned(workdir)
    curves = series.by_name(scalars)
    measures = {name: up for name in curves if (up := _rises(name)) is not None}
    trained = _json(workdir / reporting.NETWORK / reporting.RECORD, notes)
    environment = _texts(_json(workdir / numerics.FILE, notes))
    return record.Run(
        name=_name(workdir, known_starts),
        folder=str(workdir),  # as it was named: pages go from hand to hand
        state=_state(workdir, scalars, trained, values, is_running=is_running, notes=notes),
        is_running=is_running,
        as_of=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        facts=_facts(scalars, timing, values, environment),
        config=config,
        config_note=config_note,
        starts=[_start(each) for each in known_starts],
        environment=environment,
        inputs=_inputs(_json(workdir / provenance.FILE, notes)),
        scalars=curves,
        timing=series.by_name(timing),
        measures=measures,
        measured=_measured(workdir, notes),
        evaluations=_evaluations(workdir, notes),
        galleries=_galleries(workdir / logger.SAMPLES, scalars, budget),
        notes=notes,
    )


def _lines(path: Path, notes: list[str]) -> list[dict[str, float]]:
    try:
        found = series.read(path)
    except OSError as error:
        notes.append(f"{path.name} can't be read ({error.strerror}).")
        return []
    if found.damaged:
        plural = "lines aren't lines" if found.damaged > 1 else "line isn't a line"
        notes.append(f"{path.name}: {found.damaged} {plural} of numbers, and left out.")
    return found.rows


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    """Read an object; an empty one where there is none, which is said if the file is damaged."""
    found = _any_json(path, notes)
    if found is not None and not isinstance(found, dict):
        notes.append(f"{path.name} isn't what a run writes, and is left out.")
    return found if isinstance(found, dict) else {}


def _any_json(path: Path, notes: list[str]) -> Any:
    try:
        return json_values.decode(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} can't be read ({error}).")
        return None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_text, value))})"
    return "none" if value is None else str(value)


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in bases.flat(values).items()}


def _name(workdir: Path, known_starts: Sequence[Mapping[str, Any]]) -> str:
    """Name of the config file, with its argument; without a record of it the folder's."""
    named = [each["config"] for each in known_starts if isinstance(each.get("config"), str)]
    if named and named[-1]:
        path, colon, argument = named[-1].partition(":")
        return f"{Path(path).stem}{colon}{argument}"
    return workdir.absolute().name or str(workdir.absolute())


def _config(
    workdir: Path, known_starts: Sequence[Mapping[str, Any]]
) -> tuple[list[record.Field], str]:
    try:
        config = saved_config.load(workdir)
    except FileNotFoundError:
        return [], f"There is no {saved_config.FILE}: the run began before one was kept."
    # Whatever stands there as JSON, it needn't be a config.
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return [], f"The config can't be read: {error}."
    given = known_starts[-1].get("overridden") if known_starts else None
    values = bases.flat(config.to_dict())
    try:
        base = bases.fields(config.get("method", ""))
    except ValueError as error:
        plain = [record.Field(name, _literal(each), "", "file") for name, each in values.items()]
        return plain, f"Its base isn't known: {error}"
    names = [name for name in given if isinstance(name, str)] if isinstance(given, list) else []
    found = [
        record.Field(name, _literal(value), _literal(base[name]) if name in base else "", origin)
        for name, (value, origin) in show.origins(values, base, names).items()
    ]
    return found, ""


def _literal(value: Any) -> str:
    """Write a field as Python would; tuples came back as lists."""
    return repr(tuple(value) if isinstance(value, list) else value)


class _Place(NamedTuple):
    step: float
    kimg: float


def _place(scalars: Sequence[Mapping[str, float]]) -> _Place | None:
    """Updates and images of the latest line; None before there is one."""
    return _Place(scalars[-1]["step"], scalars[-1]["kimg"]) if scalars else None


def _state(
    workdir: Path,
    scalars: Sequence[Mapping[str, float]],
    trained: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    is_running: bool,
    notes: list[str],
) -> str:
    place = _place(scalars)
    if is_running:
        return "Still running"
    failed = _json(workdir / failures.RECORD_FILE, notes)
    last = failed.get("last_step")
    # A run that went on after it has later lines.
    if isinstance(last, int) and (place is None or place.step <= last + 1):
        names = failed.get("not_finite")
        which = ", ".join(map(str, names)) if isinstance(names, list) else "some numbers"
        return f"Stopped at update {last:,}: not finite were {which}"
    step = trained.get("step")
    if isinstance(step, int) and (place is None or step >= place.step):
        return f"Finished, {step:,} updates"
    if place is None:
        return "No line of numbers was written yet"
    kimg = values.get("duration_kimg")
    of = f" of {axes.images(kimg)}" if isinstance(kimg, int | float) else ""
    return (
        f"Not finished: the latest line is of {axes.images(place.kimg)}{of} images; the run was "
        "stopped or killed, and the same command goes on"
    )


def _facts(
    scalars: Sequence[Mapping[str, float]],
    timing: Sequence[Mapping[str, float]],
    values: Mapping[str, Any],
    environment: Mapping[str, str],
) -> dict[str, str]:
    found = {}
    if isinstance(values.get("method"), str):
        found["method"] = values["method"]
    if isinstance(values.get("teacher"), str):
        found["teacher"] = values["teacher"]
    if place := _place(scalars):
        total = values.get("duration_kimg")
        of = f" of {axes.images(total)}" if isinstance(total, int | float) else ""
        found |= {"images": f"{axes.images(place.kimg)}{of}", "updates": f"{place.step:,.0f}"}
        skipped = [row["skipped"] for row in scalars if "skipped" in row]
        if skipped:
            found["updates skipped"] = f"{sum(skipped):,.0f}"
    rates = [row["images_per_second"] for row in timing if "images_per_second" in row]
    if rates:
        found["images a second, median"] = f"{statistics.median(rates):.4g}"
    for name, label in (("first_call_seconds", "first calls"), ("evaluation_seconds", "measuring")):
        seconds = [row[name] for row in timing if name in row]
        if seconds:
            found[f"{label}, seconds"] = f"{sum(seconds):.4g}"
    memory = [row["peak_memory_gib"] for row in timing if "peak_memory_gib" in row]
    if memory:
        found["peak memory, GiB"] = f"{max(memory):.4g}"
    if "devices" in environment:
        found["devices"] = environment["devices"]
    return found


def _start(values: Mapping[str, Any]) -> record.Start:
    versions = values.get("versions")
    command = values.get("command")
    return record.Start(
        time=_text(values.get("time")),
        step=_text(values.get("step")),
        command=command if isinstance(command, str) else "",
        versions=_texts(versions) if isinstance(versions, dict) else {},
    )


def _inputs(values: Mapping[str, Any]) -> list[list[str]]:
    inputs = values.get("inputs")
    if not isinstance(inputs, dict):
        return []
    rows = []
    for name, entry in inputs.items():
        content = _texts(entry) if isinstance(entry, dict) else {}
        source = content.pop("source", "")
        told = "; ".join(f"{key}: {value}" for key, value in content.items())
        rows.append([name, source, told or "by name alone"])
    return rows


def _rises(name: str) -> bool | None:
    """Tell whether higher is better; None if a name is no measurement's."""
    for metric, kind in METRICS.items():
        rest = name.removeprefix(metric)
        # `fid50k` of a metric that implies its features, and `fd_pixels_1797` of the others.
        if rest != name and (rest[:1] == "_" or rest[:1].isdigit()):
            return kind.higher_is_better
    return None


def _measured(workdir: Path, notes: list[str]) -> list[tuple[str, dict[str, str]]]:
    entries = _any_json(workdir / results.MEASURES_FILE, notes)
    if not isinstance(entries, list):
        return []
    return [
        (_text(entry.get("from_step")), _texts(entry[results.MEASURED]))
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get(results.MEASURED), dict)
    ]


def _evaluations(workdir: Path, notes: list[str]) -> list[record.Evaluation]:
    found = []
    for path in sorted(workdir.glob("evaluation_*.json")):
        values = _json(path, notes)
        if not values:
            continue
        deviation, measured = values.get("standard_deviation"), values.get(results.MEASURED)
        asked: dict[str, Any] = {
            name: values[name] for name in ("evaluations", "images", "seeds") if name in values
        }
        numbers = {
            name: value
            for name, value in values.items()
            if isinstance(value, float) or _rises(name) is not None
        }
        found.append(
            record.Evaluation(
                file=path.name,
                title=_text(values.get("source", path.stem)),
                values={
                    **_texts(asked),
                    **{name: _number(name, value, deviation) for name, value in numbers.items()},
                },
                settings=_texts(measured) if isinstance(measured, dict) else {},
            )
        )
    return found


def _number(name: str, value: Any, deviation: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _text(value)
    spread = deviation.get(name) if isinstance(deviation, dict) else None
    return f"{value:.5g}" + (f" ± {spread:.2g}" if isinstance(spread, int | float) else "")


def _galleries(
    folder: Path, scalars: Sequence[Mapping[str, float]], budget: int
) -> dict[str, gallery.Gallery]:
    """Read the last picture that compares, the teacher's, and as many grids as then fit."""
    found = gallery.find(folder)
    kimg_of = {int(row["step"]): row["kimg"] for row in scalars}
    taken = {
        kind: gallery.take(found[kind][-1:], int(_SHARE * budget), kimg_of)
        for kind in ("teacher", "comparison")
    }
    left = budget - gallery.total(taken.values())
    return {**taken, "samples": gallery.take(found["samples"], left, kimg_of)}
