"""The evaluate mode: measures of a student, its teacher or another network."""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from diffjax.distributed import sharding
from diffjax.files import writing
from diffjax.files.progress import say
from diffjax.runs import building, checks, joining, saved_config, subjects


def evaluate(config: ConfigDict, workdir: str, *, allow_changed_config: bool = False) -> None:
    """Measure a student, its teacher or another network as `config.evaluate` says.

    `source` says what: see `subjects.find`. `seeds` measurements of `count` images each, no two of
    which share one, give mean and standard deviation. They are printed, and written with each
    value to `evaluation_<source>.json` in the work directory.

    Args:
      config: of the run.
      workdir: of the run.
      allow_changed_config: asks a run's network also as another config says.

    Raises:
      ValueError: a metric without its reference, or a field that can't be followed.
      FileNotFoundError: nothing to evaluate.
    """
    config = checks.upgraded(config)
    with joining.joined(config):
        _evaluate(config, workdir, allow_changed_config)


def _evaluate(config: ConfigDict, workdir: str, allow_changed_config: bool) -> None:
    mesh = sharding.make_mesh(**config.mesh)
    exp = building.build(config)
    settings = config.evaluate
    building.check_evaluation(config)
    if settings.source in subjects.OF_THE_RUN and not allow_changed_config:
        saved_config.check_same_network(Path(workdir), config)
    writing.make_writable(workdir)
    subject = subjects.find(settings.source, Path(workdir), exp, settings.seed, mesh)
    exp = dataclasses.replace(exp, classes=subject.classes)
    evaluator = building.make_evaluator(config, exp, mesh)
    measured = [
        evaluator(subject.sampler, subject.params, label_dim=exp.denoiser.label_dim, repeat=repeat)
        for repeat in range(settings.seeds)
    ]
    if jax.process_index() != 0:
        return
    values = {name: [values[name] for values in measured] for name in measured[0]}
    mean = {name: statistics.fmean(each) for name, each in values.items()}
    report: dict[str, Any] = {
        "source": subject.title,
        "evaluations": subject.evaluations,
        "images": settings.count,
        "seeds": settings.seeds,
        **mean,
    }
    deviation = {}
    if settings.seeds > 1:
        deviation = {name: statistics.stdev(each) for name, each in values.items()}
        report |= {"standard_deviation": deviation, "values": values}
    shown = "  ".join(
        f"{name} {value:.5g}" + (f" ± {deviation[name]:.2g}" if deviation else "")
        for name, value in mean.items()
    )
    path = Path(workdir) / f"evaluation_{subject.name}.json"
    writing.write_text(path, json.dumps(report, indent=2) + "\n")
    say(f"{subject.title}: {shown}")
    say(f"written to {path}")
