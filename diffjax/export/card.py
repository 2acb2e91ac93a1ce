"""Model card of an exported file: what it is, of what it was made, and what it was measured by."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import jax

import diffjax
from diffjax.convert import catalogue
from diffjax.convert import teacher as teachers
from diffjax.export.function import Function
from diffjax.export.source import Source
from diffjax.files import json_values
from diffjax.interfaces import Params
from diffjax.runs import provenance, results, saved_config

UNKNOWN = "unknown: ask whoever made the teacher"
OWN_LICENCE = "Apache-2.0, as diffjax's code"


def describe(source: Source, params: Params, function: Function | None = None) -> dict[str, Any]:
    """Describe a network that is exported.

    Paths of the machine that it was made on are left out, but for their last part.

    Args:
      source: the network.
      params: of it.
      function: that the file holds, where it holds one.

    Returns:
      A JSON object: `network`, `parameters`, `sha256` of the arrays, `teacher` with its licence,
      `function` where there is one, and `config`, `trained` and `measures` as far as a run kept
      them.

    Raises:
      ValueError: if a file of the run is damaged.
    """
    workdir = source.workdir
    digest = results.sha256(params)
    config = saved_config.load(workdir).to_dict() if workdir else {}
    described = {
        "network": {**dataclasses.asdict(source.card), "classes": list(source.network.classes)},
        "arguments": dict(source.network.init_kwargs),
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
        "sha256": digest,
        "teacher": _teacher(source, config),
        "trained": _read(source.folder / "trained.json"),
        "measures": _measures(source, digest),
        "config": config,
        "written_by": {"diffjax": diffjax.__version__, "jax": jax.__version__},
    }
    if function is not None:
        described["function"] = {
            "inputs": [{**dataclasses.asdict(each)} for each in function.inputs],
            "output": {
                "shape": list(function.shape),
                "dtype": "float32",
                "holds": _held(source),
            },
        }
    encoded = json_values.encode("card", described)
    return {name: _without_folders(value) for name, value in encoded.items() if value}


def _held(source: Source) -> str:
    """Say what a student's samples are, as far as its network says it."""
    units = "samples in the teacher's units"
    if getattr(source.network.model, "is_latent", False):
        return f"{units}, latents of its autoencoder"
    return units if source.network.origin else f"{units}, images in [-1, 1]"


def path_of(output: Path) -> Path:
    """Name the card of an exported file, `FILE.json`."""
    return output.with_name(f"{output.name}.json")


def licence(teacher: str) -> str:
    """Tell the licence of a teacher's weights, by its name; `UNKNOWN` where only its maker knows.

    Args:
      teacher: as a config names it.
    """
    if teacher in teachers.SHIPPED:
        return OWN_LICENCE
    return catalogue.licence(teacher) or UNKNOWN


def _teacher(source: Source, config: Mapping[str, Any]) -> dict[str, Any]:
    """Name what the network was made of, each with its digest and licence."""
    names = {"name": config.get("teacher", ""), "student": config.get("student", "")}
    if not source.is_student and licence(source.network.source) != UNKNOWN:
        names["name"] = source.network.source  # it is the teacher itself
    if origin := source.network.origin:
        names = {"name": origin.teacher, "student": origin.student}
    kept = provenance.load(source.workdir) if source.workdir else None
    described: dict[str, Any] = {name: value for name, value in names.items() if value}
    if kept is not None and "teacher" in kept.inputs:
        described["sha256"] = kept.inputs["teacher"].get("sha256", "")
    licences = sorted({licence(name) for name in names.values() if name} or {UNKNOWN})
    return {**described, "licence": "; ".join(licences)}


def _measures(source: Source, digest: str) -> list[Any]:
    """Collect what was measured of these very arrays."""
    best = _read(source.folder / "metric.json")
    found = [best] if best else []
    if source.workdir is None:
        return found
    for path in sorted(source.workdir.glob("evaluation_*.json")):
        values = _read(path)
        network = (values.get(results.MEASURED) or {}).get("network") or {}
        if network.get("sha256") == digest:
            found.append(values)
    return found


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; {} where there is none."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it to go on without it") from error
    return values if isinstance(values, dict) else {}


def _without_folders(value: Any) -> Any:
    """Shorten absolute paths to their last part: the others are nobody else's business."""
    if isinstance(value, dict):
        return {key: _without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    return value
