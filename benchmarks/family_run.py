"""Runs of one row of `benchmarks.family`, by one program: it is compiled once for all of them.

    python -m benchmarks.family_run --jobs=runs/family/steps/sid/jobs.json --output=runs/family

`benchmarks.family` writes the jobs and starts this. A finished run is a line of `results.jsonl`,
and isn't run again.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import family_jobs, measuring, turns
from benchmarks.family_jobs import Job, Study
from benchmarks.family_measures import GRID_SEED, SAMPLES_SEED, Measures
from benchmarks.family_program import Program, with_factors
from diffjax import methods
from diffjax.distributed import numerics, preemption, sharding
from diffjax.runs import building, roles
from diffjax.training import checkpointing

# Of runs so short nothing is kept but their numbers and a grid.
PASSING = "rates"


class StoppedError(Exception):
    """The process was told to stop."""


def run(
    study: Study,
    program: Program,
    measures: Measures,
    job: Job,
    output: Path,
    stop: preemption.Preemption,
) -> dict[str, Any]:
    """Run a job to its end.

    Args:
      study: that it is part of.
      program: its row's.
      measures: what to measure by.
      job: the run.
      output: the study's folder.
      stop: told to stop.

    Returns:
      Its curve and seconds.

    Raises:
      StoppedError: if told to stop; what is worth it was saved, and the same call goes on.
    """
    exp, mesh = program.exp, program.mesh
    key, student = numerics.key(job.seed), exp.method.samples_from
    per_update = program.an_update[student]
    total = max(1, round(1000 * job.kimg / per_update))
    stops = {max(1, round(total * i / study.points)) for i in range(1, study.points + 1)}
    others = dict.fromkeys(program.networks, job.rate / study.rate)
    folder, name = _checkpoints(output, study, job, per_update), job.label(study)
    whole_name = family_jobs.name_of(name, job.kimg, job.decay_kimg)
    made_by = {"made_by": [job.kimg, job.decay_kimg]}
    keeps = job.stage != PASSING
    with checkpointing.Checkpointer(folder, keep=1, read_only=not keeps) as kept:
        if kept.latest_step() is None:
            state, so_far = program.first_state(job.seed), _nothing()
        else:
            state, so_far = exp.restore(kept, mesh)
            so_far = _without_end(so_far)
        step = int(state.step)
        while step < total and not so_far["failed"]:
            if stop.requested():
                if keeps and step:
                    kept.save_and_wait(step, state, so_far | made_by)
                raise StoppedError
            count = min(study.updates_per_call, min(s for s in stops if s > step) - step)
            rates = {**others, student: others[student] * _decayed(job, step * per_update / 1000)}
            state = with_factors(state, rates)
            with turns.turn():
                start = time.perf_counter()
                state, sums = jax.block_until_ready(program.call(state, program.inputs, key, count))
                seconds = time.perf_counter() - start
            so_far["gpu_seconds"] += seconds
            so_far["seconds"].append(seconds / count)
            step += count
            so_far["skipped"] += int(sums.skipped)
            if int(sums.skipped_in_a_row) >= (exp.update.max_skipped_in_a_row or math.inf):
                so_far["failed"] = "updates weren't finite"
            if step in stops or so_far["failed"]:
                params = exp.averaged(state)
                measured = measures.distance(program.measured, params)
                point = {
                    "kimg": step * per_update / 1000,
                    "fake_kimg": step * program.an_update.get("fake_score", 0) / 1000,
                    "gpu_seconds": so_far["gpu_seconds"],
                    **measured,
                }
                so_far["curve"].append(point)
                if point["distance"] is None:
                    so_far["failed"] = so_far["failed"] or "samples hold NaN"
                print(name, point, flush=True)
                family_jobs.add_point(study, job, point, output)
                if keeps and step < total and not so_far["failed"]:
                    # A machine that is lost says nothing first.
                    kept.save_and_wait(step, state, so_far | made_by)
        params = exp.averaged(state)
        measures.write_grid(output / "grids" / f"{whole_name}.png", program.shown, params)
        so_far |= measures.diversity(program.measured, params)
        # The state of a run that broke down may have stopped counting before its call ended.
        if keeps and step > (kept.latest_step() or 0):
            kept.save_and_wait(step, state, _without_end(so_far) | made_by)
    if keeps:
        folder = output / "students" / whole_name
        if not folder.exists():
            card = exp.card(round(1000 * job.kimg))
            exp.save_network(folder, exp.init_kwargs, params, card=card, classes=exp.classes)
    return so_far


def _checkpoints(output: Path, study: Study, job: Job, per_update: float) -> Path:
    """Find the folder of a run's checkpoints: that of another length of it, if on this one's way.

    A run that is longer than this one, or whose rate has fallen already, isn't.
    """
    folder = output / "runs" / job.label(study) / "checkpoints"
    with checkpointing.Checkpointer(folder, read_only=True) as kept:
        step = kept.latest_step()
        if step is None:
            return folder
        own = [job.kimg, job.decay_kimg]
        kimg, decay_kimg = made_by = kept.meta(step).get("made_by", own)
    other = dataclasses.replace(job, kimg=kimg, decay_kimg=decay_kimg)
    steady = step * per_update / 1000 <= min(job.steady_kimg(), other.steady_kimg())
    is_on_way = step <= max(1, round(1000 * job.kimg / per_update)) and steady
    if is_on_way or made_by == own:
        return folder
    return folder.parent.with_name(family_jobs.name_of(job.label(study), *own)) / folder.name


def _nothing() -> dict[str, Any]:
    return {
        "curve": [],
        "gpu_seconds": 0.0,
        "seconds": [],
        "skipped": 0,
        "failed": "",
    }


def _without_end(so_far: dict[str, Any]) -> dict[str, Any]:
    return {name: so_far[name] for name in _nothing()}


def _decayed(job: Job, kimg: float) -> float:
    """Factor on the generator's rate after so many thousand images."""
    return min(1.0, (job.kimg - kimg) / job.decay_kimg) if job.decay_kimg else 1.0


def described(
    study: Study, program: Program, job: Job, found: dict[str, Any], peak: float
) -> dict[str, Any]:
    """Make a result of what a run found: one line of `results.jsonl`.

    Args:
      study: that it is part of.
      program: its row's.
      job: the run.
      found: by `run`.
      peak: FLOP/s of the GPU's matrix products.
    """
    per_update = float(np.median(found["seconds"]))
    return {
        "teacher": study.name,
        **dataclasses.asdict(job),
        **{name: value for name, value in found.items() if name != "seconds"},
        "method": job.method,
        "changes": family_jobs.changes_of(job.name, study.changes),
        "reads_data": "data" in methods.get(job.method).reads,
        "rates": {
            name: job.rate * (1 if name == program.exp.method.samples_from else study.ratio)
            for name in program.networks
        },
        "images_an_update": program.an_update,
        "seconds_per_update": per_update,
        "tflop_per_update": program.flops / 1e12,
        "share_of_peak": program.flops / per_update / peak,
        "compile_seconds": program.compile_seconds,
        "memory_gib": program.memory_gib,
        **_where(),
    }


def _where() -> dict[str, str]:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "date": today}


def measure_teacher(study: Study, output: Path, name: str = family_jobs.TEACHER) -> None:
    """Measure the teacher by Heun's method, and add the result.

    Args:
      study: whose it is.
      output: the study's folder.
      name: "teacher", or a variant, such as a guided one.
    """
    exp = building.build(family_jobs.config_of(study, name))
    mesh = sharding.make_mesh(data=1)
    inputs = jax.device_put(exp.load_inputs(), sharding.replicated(mesh))
    measures = Measures(study, exp, mesh, output)
    (_, measured, params), *_ = exp.comparisons(inputs, seed=SAMPLES_SEED, mesh=mesh)
    (_, shown, _), *_ = exp.comparisons(inputs, seed=GRID_SEED, mesh=mesh)
    measures.compile(measured, shown, params)
    found = {**measures.distance(measured, params), **measures.diversity(measured, params)}
    grid = family_jobs.file_name(f"{study.name}_{name}.png")
    measures.write_grid(output / "grids" / grid, shown, params)
    result = {"teacher": study.name, "name": name, "stage": family_jobs.TEACHER}
    evaluations = {"evaluations": exp.teacher_evaluations}
    family_jobs.add(output, {**result, **found, **evaluations, **_where()})


def main() -> None:
    """Run the jobs of a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=Path, required=True, help="file of jobs")
    parser.add_argument("--output", type=Path, required=True, help="folder of the study")
    arguments = parser.parse_args()
    asked = json.loads(arguments.jobs.read_text(encoding="utf-8"))
    study, jobs = Study(**asked["study"]), [Job(**each) for each in asked["jobs"]]
    if not jax.config.jax_compilation_cache_dir:  # later stages have the same programs
        jax.config.update("jax_compilation_cache_dir", str(arguments.output / "compilation_cache"))
    with numerics.own(), preemption.Preemption() as stop:
        if work(study, jobs, arguments.output, stop):
            family_jobs.done_of(arguments.jobs).touch()


def work(study: Study, jobs: list[Job], output: Path, stop: preemption.Preemption) -> bool:
    """Run what has no result yet, and return whether all of it ended.

    Args:
      study: that the jobs are part of.
      jobs: of one row.
      output: the study's folder.
      stop: told to stop.
    """
    teachers = [job.name for job in jobs if job.method == family_jobs.TEACHER]
    if teachers or not jobs:
        for name in teachers or [family_jobs.TEACHER]:
            with _alone(study, name, output, stop) as is_first:
                if not is_first:
                    return False
                if not family_jobs.is_measured(study, name, family_jobs.read(output)):
                    measure_teacher(study, output, name)
        return True
    todo = [job for job in jobs if not job.is_done(study, family_jobs.read(output))]
    if not todo or stop.requested():
        return not todo
    program = Program(study, todo[0].name)
    program.warm_up()
    measures = Measures(study, program.exp, program.mesh, output)
    params = program.exp.averaged(program.first_state(0))
    measures.compile(program.measured, program.shown, params)
    with turns.turn():
        peak = measuring.matrix_peak(roles.DTYPES[study.dtype])
    for job in todo:
        with _alone(study, job.label(study), output, stop) as is_first:
            if not is_first:
                return False
            if job.is_done(study, family_jobs.read(output)):  # by another process, meanwhile
                continue
            try:
                found = run(study, program, measures, job, output, stop)
            except StoppedError:
                return False
            family_jobs.add(output, described(study, program, job, found, peak))
    return True


def _alone(
    study: Study, name: str, output: Path, stop: preemption.Preemption
) -> contextlib.AbstractContextManager[bool]:
    """Keep other processes off a run, whose checkpoints those of other stages share."""
    path = output / "locks" / family_jobs.file_name(f"{study.name}_{name}")
    return turns.alone(path, stop.requested)


if __name__ == "__main__":
    main()
