"""What a folder of `benchmarks.family` holds runs of: a file a teacher, which no other may change.

Several processes may share a folder, each with rows, stages or a teacher of its own.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import family_jobs, turns
from benchmarks.family_jobs import Study
from diffjax.files import digests, writing
from diffjax.runs import networks

_ELSE = "name another folder"
_DEFAULT = object()  # of a field that a row doesn't change


def keep(study: Study, rows: Iterable[str], output: Path) -> None:
    """Write down what a study and its rows are, unless the folder holds other ones.

    What folders of before don't tell is taken to be as it is now.

    Args:
      study: whose runs are to be added.
      rows: methods and variants.
      output: the folder, which is made if needed.

    Raises:
      OSError: if teacher or data can't be read, or the file can't be written.
      ValueError: in one line, naming what differs.
    """
    own = contents(study)  # first, since it may download the teacher
    told = dataclasses.asdict(study) | {"teacher": study.name, "data": Path(study.data).name}
    told = json.loads(json.dumps(told))  # tuples as lists, as they are read again
    settings = json.loads(json.dumps({name: family_jobs.changes_of(name) for name in rows}))
    path = output / f"study_{study.name}.json"
    output.mkdir(parents=True, exist_ok=True)
    with turns.alone(output / ".studies.lock"):
        before = _read(path)
        kept = before.pop("rows", {})
        known = before.pop("contents", own)
        if before and (name := next((n for n in told if told[n] != before.get(n)), "")):
            raise ValueError(
                f"--output={output} holds runs with {name}={before.get(name)!r}, not "
                f"{told[name]!r}: {_ELSE}"
            )
        if name := next((name for name in own if own[name] != known.get(name)), ""):
            raise _other(output, study, name)
        for other in output.glob("study_*.json"):
            _check_data(output, study, own, _read(other))
        for row in settings.keys() & kept.keys():
            _check_row(output, row, kept[row], settings[row])
        text = json.dumps({**told, "contents": own, "rows": {**kept, **settings}})
        writing.write_text(path, text)


def contents(study: Study) -> dict[str, str]:
    """Tell by digests what teacher and data are, whatever they are called and wherever they lie.

    Args:
      study: whose they are.

    Raises:
      OSError: if one can't be read, or the teacher can't be downloaded.
      ValueError: if the teacher's folder is damaged.
    """
    found = {"teacher": networks.content(study.teacher)}
    if (data := Path(study.data)).exists():
        found["data"] = digests.of_path(data)
    return {name: str(each["sha256"]) for name, each in found.items()}


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _other(output: Path, study: Study, name: str) -> ValueError:
    value = getattr(study, name)
    return ValueError(
        f"--output={output} holds runs of another {Path(value).name} than --{name}={value}: {_ELSE}"
    )


def _check_data(output: Path, study: Study, own: dict[str, str], other: dict[str, Any]) -> None:
    """Refuse data that another teacher's runs know by the same name, as the reference's file is."""
    known = other.get("contents", {}).get("data")
    is_alike = Path(other.get("data", "")).stem == Path(study.data).stem
    if is_alike and known is not None and "data" in own and known != own["data"]:
        raise _other(output, study, "data")


def _check_row(output: Path, row: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    for field in sorted(before.keys() | now.keys()):
        values = before.get(field, _DEFAULT), now.get(field, _DEFAULT)
        if values[0] != values[1]:
            had, has = ("its default" if each is _DEFAULT else repr(each) for each in values)
            raise ValueError(
                f"--output={output} holds runs of {row} with {field}={had}, not {has}: {_ELSE}"
            )
