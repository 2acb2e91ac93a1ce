"""Provenance of a run: what its inputs held, in `inputs.json`, since a path tells only where.

Beside the inputs it keeps the arguments of the run's network, which sampling compares.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffjax.distributed import runtime
from diffjax.files import digests, download, json_values, writing
from diffjax.models.guidance import NEGATIVE
from diffjax.runs import checks, networks
from diffjax.runs.experiment import Experiment

FILE = "inputs.json"
# Of an entry, what says where it lies or how it is made, and not what it is.
_NOT_CONTENT = ("source", "modified", "code")
# Start of the fields of what samples are measured by, which decides nothing that is trained.
_MEASURED = "evaluate."


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Inputs of a run, and the arguments of its network.

    Attributes:
      network: what makes the network that is sampled, as `Experiment.init_kwargs` has it.
      inputs: of each input by its field in a config: `source`, as the config names it, and what is
        there, as `files.digests` describes it.
    """

    network: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Differences:
    """Differences between the inputs of two starts of a run, a line each.

    Attributes:
      decisive: of those that decide what is trained.
      harmless: of others, and of what only lies elsewhere.
    """

    decisive: list[str]
    harmless: list[str]


def load(workdir: Path) -> Provenance | None:
    """Read what a run's inputs held; None if it began before that was kept.

    Raises:
      ValueError: if the file is damaged.
    """
    path = workdir / FILE
    try:
        values = json_values.decode(json.loads(path.read_text(encoding="utf-8")))
        network, inputs = values["network"], values["inputs"]
        if not all(isinstance(each["source"], str) for each in inputs.values()):
            raise ValueError("an input without a source")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete it to go on with the inputs as they are now"
        ) from error
    return Provenance(network, inputs)


def save(workdir: Path, provenance: Provenance) -> None:
    """Write `inputs.json`, which `load` reads back.

    Raises:
      OSError: if the file can't be written.
    """
    values = dataclasses.asdict(provenance)
    writing.write_text(workdir / FILE, json_values.dumps("provenance", values))


def check(
    config: ConfigDict, exp: Experiment, workdir: Path, *, has_begun: bool, allow_changed: bool
) -> tuple[Provenance, list[str]]:
    """Look at a run's inputs in all its processes, and compare them with those it began with.

    Args:
      config: of the run.
      exp: built from it.
      workdir: of the run.
      has_begun: whether something was trained there.
      allow_changed: whether other inputs are told instead of refused.

    Returns:
      The inputs as they are now, and lines to tell.

    Raises:
      OSError: if an input isn't there.
      ValueError: naming the inputs that decide what is trained and aren't what they were, or that
        this process and the main one read differently.
    """
    before = load(workdir) if has_begun else None
    now = look(config, exp, before)
    differences = compare(before, now) if before else Differences([], [])
    if differences.decisive and not allow_changed:
        raise ValueError(
            f"{workdir} is of a run with other inputs ({'; '.join(differences.decisive)}): give it "
            "its own back, name another --workdir, or go on there all the same with "
            "--allow_changed_config"
        )
    check_processes_agree(now)
    notes = [f"warning: goes on with another {line}" for line in differences.decisive]
    notes += [f"note: {line}" for line in differences.harmless]
    if has_begun and before is None:
        notes.append(f"note: {workdir / FILE} is written now, of the inputs as they are now")
    if not has_begun:
        notes += _unknown_kinds(now)
    return now, notes


def look(config: ConfigDict, exp: Experiment, before: Provenance | None) -> Provenance:
    """Look at all inputs of a run, downloading those that are URLs.

    Args:
      config: of the run.
      exp: built from it.
      before: of an earlier start, whose entry is kept for an initial network that is gone, since
        who goes on doesn't need it.

    Raises:
      OSError: if an input isn't there.
      ValueError: if it is damaged.
    """
    known = before.inputs if before else {}
    found = {field: entry for field, entry in known.items() if field.startswith(_MEASURED)}
    if "teacher" in exp.inputs:
        found["teacher"] = {"source": config.teacher, **exp.inputs["teacher"].content()}
    if NEGATIVE in exp.inputs:
        source = config.guidance.negative
        found["guidance.negative"] = {"source": source, **exp.inputs[NEGATIVE].content()}
    for learner, network in exp.networks.items():
        is_student = learner == exp.method.samples_from
        field = "student" if is_student else f"{learner}.network"
        if content := network.content():
            found[field] = {"source": network.source, **content}
    if "data" in exp.inputs:
        source = config.get("dataset") or config.data
        found["dataset"] = {"source": source, **exp.inputs["data"].content()}
    if exp.initial:
        field = f"{exp.method.samples_from}.initial"
        try:
            found[field] = {"source": exp.initial, **networks.content(exp.initial)}
        except FileNotFoundError:
            if field not in known:
                raise
            found[field] = known[field]
    if config.evaluate.every_kimg:
        found |= measured(config)
    return Provenance(exp.init_kwargs, found)


def measured(config: ConfigDict) -> dict[str, dict[str, Any]]:
    """Look at what samples are measured with, by its fields."""
    fields = ("evaluate.reference", "evaluate.features_weights")
    sources = {field: source for field in fields if (source := checks.get(config, field))}
    return {field: {"source": source, **_content_of(source)} for field, source in sources.items()}


def compare(before: Provenance, now: Provenance) -> Differences:
    """Compare the inputs of two starts of a run.

    An input that only one of them has is another config's matter, and none here.

    Args:
      before: of the earlier start.
      now: of this one.
    """
    found = Differences([], [])
    for field in before.inputs.keys() & now.inputs.keys():
        old, new = before.inputs[field], now.inputs[field]
        moved = old["source"] != new["source"]
        where = f"{old['source']} -> {new['source']}" if moved else new["source"]
        if changed := _changed_code(old, new):
            found.harmless.append(f"{field}: {where}, whose code has changed: {changed}")
        if not same(old, new):
            lines = found.harmless if field.startswith(_MEASURED) else found.decisive
            lines.append(f"{field}: {where}, {_described(old)} -> {_described(new)}")
        elif moved:
            found.harmless.append(f"{field}: {where}, of the same content")
        elif _is_in_doubt(old, new):
            found.harmless.append(
                f"{field}: {where}, of another date, {old['modified']} -> {new['modified']}, and "
                f"of the same content as far as {new['hashed']} of {new['bytes']} bytes tell"
            )
    return Differences(sorted(found.decisive), sorted(found.harmless))


def same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Tell whether two inputs have the same content, or the same name where they are only named."""
    if "sha256" not in old or "sha256" not in new:
        return bool(old["source"] == new["source"])
    return _content(old) == _content(new)


def check_processes_agree(now: Provenance) -> None:
    """Check in all processes of a run that they read the same as the main one.

    Raises:
      ValueError: in all of them, if one doesn't.
    """
    inputs = {name: {**_content(e), "code": e.get("code")} for name, e in now.inputs.items()}
    text = json_values.dumps("inputs", {"network": dict(now.network), "inputs": inputs})
    shown = "; ".join(f"{name}: {_described(entry)}" for name, entry in now.inputs.items())
    runtime.agree(f"what is read ({shown})", text)


def _changed_code(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Name the files of a user's functions that have changed, with their digests."""
    before, after = old.get("code", {}), new.get("code", {})
    return ", ".join(
        f"{file} (SHA-256 {before[file][:12]} -> {after[file][:12]})"
        for file in sorted(before.keys() & after.keys())
        if before[file] != after[file]
    )


def _unknown_kinds(now: Provenance) -> list[str]:
    taken_for = {"teacher": "a denoiser", "initial": "a network to be asked at config.init_sigma"}
    return [
        f"note: config.{field}={entry['source']} doesn't say whether it is a denoiser or a "
        f"student; it is taken for {taken_for[field.rpartition('.')[2]]}"
        for field, entry in now.inputs.items()
        if field.rpartition(".")[2] in taken_for and not networks.says_its_kind(entry["source"])
    ]


def _content_of(source: str) -> Mapping[str, Any]:
    """Describe a file, folder or URL; a name says all there is to know."""
    if "://" in source or "#" in source:
        return digests.of_file(download.fetch(source))
    path = Path(source)
    return digests.of_path(path) if path.exists() else {}


def _content(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in _NOT_CONTENT}


def _is_in_doubt(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    in_part = new.get("hashed", 0) < new.get("bytes", 0)
    return bool(in_part and old.get("modified") != new.get("modified"))


def _described(entry: Mapping[str, Any]) -> str:
    size = f"{entry['bytes']} bytes, " if "bytes" in entry else ""
    code = "".join(f", {file} {digest[:12]}" for file, digest in entry.get("code", {}).items())
    return (f"{size}SHA-256 {entry['sha256'][:12]}" if "sha256" in entry else "by name") + code
