"""Results and what made them: no result takes the place of another without a word.

Beside a result stands `<its name>.json`, which says what decides its content: the network by the
SHA-256 of its parameters, how it is asked, labels, seeds, counts. An evaluation has it inside. The
newest result has the plain name; one of something else, which was there, is kept under a name that
says what it was.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.distributed import runtime, sharding
from diffjax.files import json_values, writing
from diffjax.files.progress import say
from diffjax.interfaces import Params
from diffjax.models.guidance import Guided
from diffjax.runs import bases
from diffjax.runs.experiment import Experiment

MEASURED = "measured"
MEASURES_FILE = "measured.json"
_LONGEST_TAG = 60
_LONGEST_VALUE = 40

Record = dict[str, Any]


def asked(exp: Experiment, *, is_teacher: bool = False) -> Record:
    """Describe how an experiment's network is asked for samples.

    Args:
      exp: the experiment.
      is_teacher: describes how its teacher is asked instead.
    """
    if exp.is_one_step and not is_teacher:
        how: Record = {"init_sigma": exp.init_sigma}
        how |= {"sigmas": list(exp.sigmas)} if exp.sigmas else {}
    else:
        how = {"heun": dataclasses.asdict(exp.heun)}
        teacher = exp.method.networks.get("teacher")
        how |= {"guidance": teacher.record} if isinstance(teacher, Guided) else {}
    return {
        **how,
        "dtype": jnp.dtype(exp.denoiser.dtype if is_teacher else exp.sampled.dtype).name,
        "image_shape": list(exp.denoiser.shape),
        "label_dim": exp.denoiser.label_dim,
        **({"decoder": exp.decoder.record} if exp.decoder else {}),
    }


def sha256(params: Params) -> str:
    """SHA-256 of parameters, whatever devices they lie on; all processes must call it together.

    Args:
      params: tree of arrays.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(sharding.gather(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def network(exp: Experiment, params: Params, *, source: str, step: int | None) -> Record:
    """Describe a network and how it is asked; all processes must call it together.

    Args:
      exp: the experiment by which it is asked.
      params: of the network.
      source: what named it in the config.
      step: updates that it was trained for; None where that isn't known.

    Raises:
      ValueError: if processes have read different ones.
    """
    is_teacher = source == "teacher"
    record = {
        "source": exp.teacher if is_teacher else source,
        "step": step,
        "sha256": sha256(params),
        **asked(exp, is_teacher=is_teacher),
    }
    runtime.agree("the network", [record, exp.origin])
    return record


def folder(workdir: str, output: str) -> Path:
    """Find the folder that results go to, and check that it can be written to.

    Args:
      workdir: of the run.
      output: the folder; "" is the work directory.

    Raises:
      ValueError: if it is a URL.
      OSError: if it can't be written to, with what would do.
    """
    if output:
        return writing.make_writable(output, field="--output", instead="name another folder")
    return writing.make_writable(workdir, instead="name a folder for the results with --output")


@contextlib.contextmanager
def placed(path: Path, record: Mapping[str, Any]) -> Iterator[Path]:
    """Context with the path of a file or folder to write, which then comes to `path`, whole.

    Its record then stands beside it. For what lies at `path` before see `make_way`.

    Args:
      path: of the result.
      record: of the result.

    Raises:
      OSError: if it can't be written; what was there before stays.
    """
    room = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with writing.explained(path):
        try:
            room.mkdir(parents=True, exist_ok=True)
            yield room / path.name
            make_way(path, record)
            if path.is_dir():  # of the same result
                shutil.rmtree(path)
            os.replace(room / path.name, path)
        except OSError as error:  # which may name the file by its path in the room
            raise (error.__cause__ if isinstance(error.__cause__, OSError) else error) from None
        finally:
            shutil.rmtree(room, ignore_errors=True)
    writing.write_text(_beside(path), json_values.dumps("record", record))


def note_measure(workdir: Path, step: int, measured: Mapping[str, Any]) -> str:
    """Keep in `W/measured.json` from which update on a run's measurements are of which measure.

    Args:
      workdir: of the run.
      step: of the measurement; later entries are of what the run does again.
      measured: what it is measured with and against.

    Returns:
      A line that tells of a change; "" without one.

    Raises:
      OSError: if it can't be written.
    """
    path = workdir / MEASURES_FILE
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        kept = [entry for entry in entries if entry["from_step"] < step]
        before = kept[-1][MEASURED] if kept else None
    except (OSError, ValueError, KeyError, TypeError):
        kept, before = [], None
    different = {} if before is None else differences(before, measured)
    if before is not None and not different:
        return ""
    kept.append({"from_step": step, MEASURED: measured})
    writing.write_text(path, json_values.dumps("measures", kept))
    if not different:
        return ""
    return f"from update {step} on measurements are others ({shown(different)}): {path} tells"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Find where two records differ: dotted name -> (old, new), None where one has none.

    What has the same SHA-256 is the same, wherever it lies.

    Args:
      old: a record.
      new: another one.
    """
    before, after = (bases.flat(json_values.encode("record", each)) for each in (old, new))
    same = {
        name.removesuffix("sha256")
        for name, digest in before.items()
        if name.endswith("sha256") and digest and after.get(name) == digest
    }
    places = {f"{group}{field}" for group in same for field in ("name", "source", "step")}
    return {
        name: (before.get(name), after.get(name))
        for name in sorted((before.keys() | after.keys()) - places)
        if before.get(name) != after.get(name)
    }


def shown(different: Mapping[str, tuple[Any, Any]]) -> str:
    """Show differences in one line, `name: old -> new`, digests by their first digits."""
    return "; ".join(
        f"{name}: {_short(name, old)} -> {_short(name, new)}"
        for name, (old, new) in different.items()
    )


def read(path: Path) -> Record | None:
    """Read what made a result; None where it isn't known, as of files written before.

    Args:
      path: of the result, a file or a folder; a `.json` has its record inside.
    """
    holder = path if path.suffix == ".json" else _beside(path)
    try:
        record = json.loads(holder.read_text(encoding="utf-8"))
        if holder == path:
            record = record[MEASURED]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if isinstance(record, dict) else None


def make_way(path: Path, record: Mapping[str, Any]) -> None:
    """Keep what lies at a path under another name, and say so, unless it is the same result.

    Args:
      path: of a file or folder that is about to be written.
      record: of what will be written.

    Raises:
      OSError: if it can't be renamed.
    """
    if not path.exists():
        return
    old = read(path)
    if old is None:
        changed = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
        kept = keep_aside(path, changed, old)
        say(f"{path} doesn't say what made it: kept as {kept.name}")
    elif different := differences(old, record):
        kept = keep_aside(path, _tag(old, different), old)
        say(f"{path} was another result ({shown(different)}): kept as {kept.name}")


def keep_aside(path: Path, tag: str, record: Record | None) -> Path:
    """Rename a result, and its record with it, to a name that is free or holds the same.

    Args:
      path: of the result.
      tag: what its name gets.
      record: of the result; None where it isn't known.

    Returns:
      The new path.
    """
    stem, suffix = (path.name, "") if path.is_dir() else (path.stem, path.suffix)
    number = 1
    while True:
        again = f"-{number}" if number > 1 else ""
        target = path.with_name(f"{stem}_{tag}{again}{suffix}")
        if not target.exists():
            break
        if record is not None and read(target) == record:
            _remove(target)
            break
        number += 1
    with writing.explained(target):
        os.replace(path, target)
        if _beside(path).exists():
            os.replace(_beside(path), _beside(target))
    return target


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _tag(old: Record, different: Mapping[str, tuple[Any, Any]]) -> str:
    """Name what an earlier result had otherwise, short enough for a file's name."""
    digests = {name for name in different if name.endswith("sha256")}
    parts = []
    for name in sorted(different.keys() - digests) or sorted(digests):
        value, now = different[name]
        if value is not None:
            is_path = isinstance(value, str) and "/" in value
            text = _short(name, _end_of_path(value, now) if is_path else value)
            slug = re.sub(r"[^A-Za-z0-9._]+" if is_path else r"[^A-Za-z0-9.]+", "-", text)
            parts.append(f"{name.rpartition('.')[2]}{'-' * is_path}{slug.strip('-')}")
    tag = "_".join(parts)
    if 0 < len(tag) <= _LONGEST_TAG:
        return tag
    return hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()[:8]


def _end_of_path(path: str, other: Any) -> str:
    """Last part of a path, with as many before it as tell it from another."""
    parts = [part for part in path.split("/") if part]
    others = [part for part in str(other).split("/") if part]
    count = 1
    while count < len(parts) and parts[-count:] == others[-count:]:
        count += 1
    return "/".join(parts[-count:])


def _short(name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if name.endswith("sha256") and isinstance(value, str):
        return text[:8] or "none"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
