"""The evaluate mode: measures of a student, its teacher or another network."""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from diffjax.distributed import sharding
from diffjax.files import json_values, writing
from diffjax.files.progress import say
from diffjax.runs import building, checks, idle, joining, provenance, results, subjects


def evaluate(
    config: ConfigDict, workdir: str, *, allow_changed_config: bool = False, output: str = ""
) -> None:
    """Measure a student, its teacher or another network as `config.evaluate` says.

    `source` says what: see `subjects.find`. `seeds` measurements of `count` images each, no two of
    which share one, give mean and standard deviation. They are printed, and written with each
    value to `evaluation_<source>.json`, which says too what was measured, against what and with
    what. An earlier file there of something else is kept under another name.

    Args:
      config: of the run.
      workdir: of the run.
      allow_changed_config: asks a run's network also as another config says.
      output: folder to write to; "" is the work directory.

    Raises:
      ValueError: a metric without its reference, or a field that can't be followed.
      FileNotFoundError: nothing to evaluate.
      OSError: a folder that can't be written to, before anything is computed.
    """
    config = checks.upgraded(config)
    with joining.joined(config, "evaluate"):
        _evaluate(config, workdir, allow_changed_config, output)


def _evaluate(config: ConfigDict, workdir: str, allow_changed_config: bool, output: str) -> None:
    mesh = sharding.make_mesh(**config.mesh)
    exp = building.build(config)
    settings = config.evaluate
    building.check_evaluation(config, exp)
    idle.check(config, exp, Path(workdir))
    if exp.decoder is not None:
        exp.decoder.check()
    if not allow_changed_config:
        subjects.check(settings.source, Path(workdir), config, exp)
    folder = results.folder(workdir, output)
    subject = subjects.find(settings.source, Path(workdir), exp, settings.seed, mesh)
    exp = dataclasses.replace(exp, classes=subject.classes)
    if jax.process_count() > 1:
        provenance.check_processes_agree(provenance.Provenance({}, provenance.measured(config)))
    evaluator = building.make_evaluator(config, exp, mesh)
    record = {
        **evaluator.record,
        "network": results.network(exp, subject.params, source=settings.source, step=subject.step),
        "seeds": settings.seeds,
    }
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
        results.MEASURED: json_values.encode("record", record),
    }
    deviation = {}
    if settings.seeds > 1:
        deviation = {name: statistics.stdev(each) for name, each in values.items()}
        report |= {"standard_deviation": deviation, "values": values}
    shown = "  ".join(
        f"{name} {value:.5g}" + (f" ± {deviation[name]:.2g}" if deviation else "")
        for name, value in mean.items()
    )
    path = folder / f"evaluation_{subject.name}.json"
    results.make_way(path, record)
    writing.write_text(path, json.dumps(report, indent=2) + "\n")
    say(f"{subject.title}: {shown}")
    say(f"written to {path}")
