"""The config of a run, kept in its work directory, so that no other one goes on there unnoticed."""

import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffjax.files import json_values, writing
from diffjax.runs import bases, checks, provenance, ranges

FILE = "config.json"
_RESULTS = ("checkpoints", "metrics.jsonl")

# Fields, and groups of them, that may change from one run to the next in a work directory, for
# they don't decide what is trained.
FREE = {
    "duration_kimg": "a longer run goes on",
    "log_kimg": "only how often is told",
    "grid_kimg": "only how often pictures are made",
    "checkpoint_kimg": "only how often is saved",
    "keep_checkpoints": "what is kept, not what is trained",
    "grid": "pictures",
    "sample": "pictures",
    "evaluate": "measurements",
    "decoder": "pictures and measurements",
    "heun": "how a denoiser is sampled, for pictures and measurements",
    "mesh": "checkpoints open on any; the mathematics is the same",
    "max_skipped_in_a_row": "when to give up",
    "updates_per_call": "the same updates, in larger portions",
    "compile_apart": "the same updates, up to rounding, in several programs",
    "rematerialize": "the same updates, in less memory",
    "metric_writer": "only where is told",
    "compilation_cache": "the same updates, compiled sooner",
    "watchdog": "when a run is given up",
    "distributed": "how processes find each other",
    "deterministic": "the same updates, up to the order of sums",
}


def save(workdir: Path, config: ConfigDict) -> None:
    """Write `config.json`, which `load` reads back.

    Raises:
      ValueError: naming a field whose value can't be written.
      OSError: if the file can't be written.
    """
    writing.write_text(workdir / FILE, json_values.dumps("config", config.to_dict()))


def load(workdir: Path) -> ConfigDict:
    """Read the config of a run, in today's fields and locked; tuples have become lists.

    Raises:
      FileNotFoundError: if none was written there.
      ValueError: if the file isn't one.
    """
    path = workdir / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it to go on without it") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} isn't a config: delete it to go on without it")
    return checks.upgraded(ConfigDict(json_values.decode(values))).lock()


def changes(
    old: ConfigDict, new: ConfigDict, *, is_free: Callable[[str], bool] | None = None
) -> list[str]:
    """List the fields that decide what is trained and differ, as `field: old -> new`.

    A field that one of them lacks, since it is new, has the value of the method's base there.

    Args:
      old: of a run, in today's fields.
      new: likewise.
      is_free: tells which fields may differ; None is those of `FREE`.
    """
    is_free = is_free or _is_free
    before, after = (bases.flat(config.to_dict()) for config in (old, new))
    if "method" in before and before["method"] == after.get("method"):
        base = bases.fields(after["method"])
        if all(any(name.startswith("edm2.") for name in each) for each in (before, after)):
            base |= bases.flat({"edm2": bases.edm2_fields(after["method"])})
        before, after = base | before, base | after
    return [
        f"{name}: {_shown(before, name)} -> {_shown(after, name)}"
        for name in sorted(before.keys() | after.keys())
        if not is_free(name) and _shown(before, name) != _shown(after, name)
    ]


def check_unchanged(workdir: Path, config: ConfigDict) -> None:
    """Check that a config is the one that was run in a work directory, if one was.

    What inputs hold, where that was kept, is compared by `provenance.check` instead of their names.

    Raises:
      ValueError: naming each field that differs and isn't in `FREE`.
    """
    if not (workdir / FILE).exists() or not has_begun(workdir):
        return
    kept = provenance.load(workdir)
    by_content = kept.inputs if kept else {}
    different = [
        change
        for change in changes(load(workdir), config)
        if change.partition(":")[0] not in by_content
    ]
    if different:
        raise ValueError(
            f"{workdir} is of a run with another config ({'; '.join(different)}): name another "
            "--workdir, or go on there all the same with --allow_changed_config"
        )


def has_begun(workdir: Path) -> bool:
    """Tell whether a run left something in a work directory that another config could spoil.

    One that got no further than its first update, such as one whose batch is too large, didn't.
    """
    return any(_has_content(workdir / name) for name in _RESULTS)


# Fields that decide which images a trained network makes, of given arguments.
OF_THE_IMAGES = ("method", "init_sigma", "dtype", "generator.steps", "generator.step_sigmas")
# Those of a teacher's, as it is sampled for comparison.
OF_THE_TEACHERS_IMAGES = (
    "heun",
    *(f"guidance.{name}" for name in ("teacher", "interval", "negative", "null")),
)
# Fields, and groups of them, that decide the arguments too.
OF_THE_NETWORK = (*OF_THE_IMAGES, "network", "conditional")
_ONLY_IN_TRAINING = ("network.dropout",)


def check_same_network(
    workdir: Path,
    config: ConfigDict,
    *,
    fields: Collection[str] = OF_THE_NETWORK,
    besides: Iterable[str] = (),
) -> None:
    """Check that a run's network would be asked as it was trained, if its config was kept.

    Args:
      workdir: of the run.
      config: by which its network would be asked.
      fields: those, and groups of them, that count.
      besides: what else differs, a text each.

    Raises:
      ValueError: naming each field that decides its images and differs.
    """
    different = list(besides)
    if (workdir / FILE).exists():
        different += changed_fields(workdir, config, fields)
    if different:
        raise ValueError(
            f"{workdir} is of a run with another config ({'; '.join(different)}), whose network "
            "would make other images: give the run's own values, or --allow_changed_config to have "
            "it so"
        )


def changed_fields(workdir: Path, config: ConfigDict, fields: Collection[str]) -> list[str]:
    """List which of some fields, and groups of them, differ from those of a run.

    Args:
      workdir: of the run, whose config was kept.
      config: another one.
      fields: their names.
    """
    return [
        change
        for change in changes(load(workdir), config, is_free=lambda name: name in _ONLY_IN_TRAINING)
        if (name := change.partition(":")[0]) in fields or name.partition(".")[0] in fields
    ]


def _has_content(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0


def _is_free(field: str) -> bool:
    # What earlier configs said of the teacher follows from its name.
    return field in FREE or field.split(".")[0] in FREE or field in ranges.OF_THE_TEACHER


def _shown(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        return "none"
    return json_values.dumps(name, fields[name], indent=None).strip()
