"""Jobs of `benchmarks.family`: which method runs how, and what is known of those that ended."""

import ast
import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from benchmarks import measuring
from diffjax import methods
from diffjax.runs import bases, checks

TEACHER = "teacher"  # name of the row that measures it
# Published settings that differ from those of `Study.changes`, and fit runs so short: thousands of
# images within which the published phases of an adversarial method begin would be all there are.
# Greatest norms are those of `benchmarks.cifar`, without which SiD breaks down at these rates.
# DMD, DMD2, f-distill and SMD ask the generator's network at sigma 80, where it begins with the
# mean of all images, which runs so short don't leave behind: here they begin as SiD does. Their own
# beginning is a variant, "dmd:init_sigma=80.0".
CHANGES: dict[str, dict[str, Any]] = {
    "diff_instruct": {
        "init_sigma": 1.0,
        "generator.max_grad_norm": 100.0,
        "fake_score.max_grad_norm": 1000.0,
    },
    "sid": {"generator.max_grad_norm": 10_000.0, "fake_score.max_grad_norm": 1000.0},
    "sida": {"generator.frozen_kimg": 6.4, "gan_from_kimg": 12.8},
    "uni_instruct": {"generator.frozen_kimg": 6.4, "gan_from_kimg": 12.8},
}
GRID_COLUMNS = 10  # of the grids that runs leave
# Not of one step with a generator that is to have all of the data.
LEFT_OUT = ("sds",)


@dataclasses.dataclass(frozen=True)
class Study:
    """Settings that all runs share.

    Attributes:
      teacher: a name, or a folder.
      data: real images, to compare with and for methods that read them; a name or a file.
      features: that distances are of.
      dtype: of the networks' computation.
      batch_size: images an update.
      updates_per_call: of the compiled program.
      rate: the generator's learning rate in the program, which runs change by a factor.
      ratio: learning rates of the others over it.
      count: samples that a distance is of.
      few: samples and real images that precision and recall are of.
      points: measurements of a run.
      changes: of the config, field -> value. Those of `network.*` make the student one of our own
        networks, from fresh weights.
    """

    teacher: str
    data: str
    features: str
    dtype: str = "bfloat16"
    batch_size: int = 256
    updates_per_call: int = 50
    rate: float = 5e-5
    ratio: float = 2.0
    count: int = 10_000
    few: int = 10_000
    points: int = 4
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the teacher, whatever folder it lies in."""
        return Path(self.teacher).name


@dataclasses.dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
      name: of its row: a method, or "method:field=value" for a variant.
      rate: the generator's learning rate.
      seed: of the run.
      kimg: thousands of images that the generator is updated on.
      decay_kimg: thousands of these, the last, in which its rate falls to 0.
      stage: of the study.
    """

    name: str
    rate: float
    seed: int
    kimg: float
    decay_kimg: float = 0.0
    stage: str = ""

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.name.partition(":")[0]

    @property
    def changes(self) -> dict[str, Any]:
        """Fields of the config that make it a variant."""
        return dict(map(change, self.name.split(":")[1:]))

    def label(self, study: Study) -> str:
        """Name for files, which a longer run shares.

        Args:
          study: that it is part of.
        """
        return label(study.name, self.name, self.rate, self.seed)

    def steady_kimg(self) -> float:
        """Thousands of images after which the generator's rate falls; infinite where it doesn't."""
        return self.kimg - self.decay_kimg if self.decay_kimg else math.inf

    def is_done(self, study: Study, results: Iterable[Mapping[str, Any]]) -> bool:
        """Tell whether it has a result.

        Args:
          study: that it is part of.
          results: as `read` gives them.
        """
        own = dataclasses.asdict(self) | {"teacher": study.name}
        return any(own.items() <= each.items() for each in results)


def is_measured(study: Study, name: str, results: Iterable[Mapping[str, Any]]) -> bool:
    """Tell whether the teacher, or a variant of it, has a result.

    Args:
      study: whose teacher it is.
      name: "teacher", or that of the variant.
      results: as `read` gives them.
    """
    own = {"teacher": study.name, "name": name, "stage": TEACHER}
    return any(own.items() <= each.items() for each in results)


def done_of(jobs: Path) -> Path:
    """Name the file that is there once the jobs of a file have ended."""
    return jobs.with_name(jobs.stem.replace("jobs", "done", 1))


def changes_of(name: str, of_all: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Fields of the config that a row changes: the method's, those of all rows, the variant's own.

    Args:
      name: of the row.
      of_all: those of all rows.
    """
    job = Job(name, 0.0, 0, 0.0)
    return {**CHANGES.get(job.method, {}), **(of_all or {}), **job.changes}


def label(teacher: str, name: str, rate: float, seed: int) -> str:
    """Name of a run for files.

    Args:
      teacher: its name.
      name: of the row.
      rate: the generator's.
      seed: of the run.
    """
    return file_name(f"{teacher}_{name}_{rate:g}_{seed}")


def file_name(name: str) -> str:
    """Name of one file for what a row is called, values that are paths included."""
    return name.replace(":", "_").replace("/", "_")


def name_of(label: str, kimg: float, decay_kimg: float) -> str:
    """Name of a run of a label for files that no other length of it shares."""
    return f"{label}_{kimg:g}kimg" + (f"_decay{decay_kimg:g}" if decay_kimg else "")


def grid_of(output: Path, result: Mapping[str, Any]) -> Path:
    """Find the grid of a finished run in the study's folder."""
    own = label(result["teacher"], result["name"], result["rate"], result["seed"])
    whole = name_of(own, result.get("kimg", 0.0), result.get("decay_kimg", 0.0))
    path = output / "grids" / f"{whole}.png"
    return path if path.exists() else path.with_name(f"{own}.png")  # as studies used to name it


def change(text: str) -> tuple[str, Any]:
    """Read "field=value", the value being Python's or, failing that, a string.

    Args:
      text: of a command line.

    Raises:
      ValueError: without a field or a value.
    """
    field, _, value = text.partition("=")
    if not field or not value:
        raise ValueError(f"{text!r} isn't field=value")
    try:
        return field, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return field, value


def names() -> tuple[str, ...]:
    """List the methods that distil a teacher into a generator of one step, with a fake score."""
    found = {name: methods.get(name) for name in methods.names() if name not in LEFT_OUT}
    return tuple(
        name
        for name, method in found.items()
        if "teacher" in method.reads and method.sampled_by == "one_step"
    )


def config_of(study: Study, name: str) -> ConfigDict:
    """Make the config of a row.

    Args:
      study: that it is part of.
      name: of the row; "teacher", and variants of it, are taken for any method's.

    Raises:
      ValueError: naming the field that is wrong.
    """
    job = Job(name, study.rate, 0, 1.0)
    if job.method == TEACHER:
        job = dataclasses.replace(job, name=f"sid{name.removeprefix(TEACHER)}")
    method = methods.get(job.method)
    config = bases.distillation(job.method)
    changes = changes_of(job.name, study.changes)
    of_network = [field for field in changes if field.startswith("network.")]
    if of_network:
        values = {field.partition(".")[2]: changes.pop(field) for field in of_network}
        bases.with_network(config, **values)
    rates = {
        f"{each.optimizer or each.name}.learning_rate": study.rate
        * (1 if each.name == method.samples_from else study.ratio)
        for each in method.learners
        if each.is_network
    }
    own = {
        "teacher": study.teacher,
        "dtype": study.dtype,
        "batch_size": study.batch_size,
        "updates_per_call": study.updates_per_call,
        **rates,
        **({"data": study.data} if "data" in method.reads else {}),
        **changes,
    }
    for field, value in own.items():
        known = checks.get(config, field)
        config.update_from_flattened_dict(
            {field: float(value) if isinstance(known, float) else value}
        )
    checks.check(config)
    return config


def read(output: Path) -> list[dict[str, Any]]:
    """Read the results of a study, those of all teachers.

    Args:
      output: its folder.
    """
    return measuring.read_lines(output / "results.jsonl")


def add(output: Path, result: dict[str, Any]) -> None:
    """Add a finished run's result.

    Args:
      output: the study's folder.
      result: numbers and words.
    """
    measuring.add_line(result, str(output / "results.jsonl"))


def add_point(study: Study, job: Job, point: Mapping[str, Any], output: Path) -> None:
    """Keep a measurement as it comes: of a run that doesn't end nothing else may be left.

    Args:
      study: that the run is part of.
      job: the run.
      point: what was measured, and after how many images.
      output: the study's folder.
    """
    line = {"teacher": study.name, **dataclasses.asdict(job), "point": point}
    measuring.add_line(line, str(output / "points.jsonl"))


def distance(result: Mapping[str, Any]) -> float:
    """Distance at the end of a run; infinite where it broke down."""
    last = result["curve"][-1]["distance"] if result["curve"] else None
    return float("inf") if last is None or result["failed"] else float(last)


def longest(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choose the runs of the greatest length, since distances of others don't compare with theirs.

    Args:
      results: of runs.
    """
    lengths = [((each["kimg"], each["decay_kimg"]), each) for each in results]
    most = max((length for length, _ in lengths), default=None)
    return [each for length, each in lengths if length == most]
