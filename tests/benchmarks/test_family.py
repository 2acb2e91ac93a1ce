"""The command that compares all methods of the family, in miniature."""

import contextlib
import dataclasses
import functools
import json
import shutil
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import diffjax
from benchmarks import (
    family,
    family_jobs,
    family_measures,
    family_plan,
    family_program,
    family_report,
    family_run,
    family_study,
    measuring,
    turns,
)
from benchmarks.family_jobs import Job, Study
from diffjax import methods
from diffjax.distributed import preemption
from diffjax.evaluation import evaluator
from diffjax.methods.score_distillation import ScoreDistillation
from diffjax.training import optimizer

BATCH = 8
KIMG = BATCH / 1000  # an update


@pytest.fixture(scope="module")
def study(teacher):
    return Study(
        teacher=str(teacher),
        data="digits",
        features="pixels",
        dtype="float32",
        batch_size=BATCH,
        updates_per_call=2,
        rate=1e-3,
        count=24,
        few=24,
        points=2,
    )


class StopAfter:
    """A preemption that is asked for at the n-th question."""

    def __init__(self, questions):
        self.left = questions

    def requested(self):
        self.left -= 1
        return self.left < 0


NEVER = StopAfter(10**6)


def result(name, rate, distance, *, stage="rates", teacher="tiny", kimg=128.0, seed=0):
    curve = [
        {"kimg": kimg / 2, "fake_kimg": kimg / 2, "gpu_seconds": 5.0, "distance": 2 * distance},
        {"kimg": kimg, "fake_kimg": kimg, "gpu_seconds": 10.0, "distance": distance},
    ]
    return {
        "teacher": teacher,
        **dataclasses.asdict(Job(name, rate, seed, kimg, 0.0, stage)),
        "curve": curve,
        "gpu_seconds": 10.0,
        "memory_gib": 3.0,
        "failed": "",
        "precision": 0.5,
        "recall": 0.25,
        "reads_data": False,
        "seconds_per_update": 0.02 if name == "diff_instruct" else 0.03,
        "tflop_per_update": 9.0 if name == "diff_instruct" else 11.0,
        "share_of_peak": 0.2,
        "compile_seconds": 30.0,
        "device": "a device",
        "jax": "0",
        "date": "a day",
    }


def test_all_methods_with_a_fake_score_take_part(study):
    names = family_jobs.names()
    assert {"sid", "diff_instruct", "dmd", "fgm", "sim", "moment_matching"} <= set(names)
    assert "denoising" not in names
    assert all(issubclass(methods.get(name), ScoreDistillation) for name in names)
    for name in names:
        config = family_jobs.config_of(study, name)
        assert config.generator.learning_rate == study.rate
        assert config.fake_score.learning_rate == 2 * study.rate
        assert set(family_jobs.CHANGES) <= set(names)
    assert set(names) <= set(family_report.TITLES)


def test_a_variant_is_a_row_of_its_own(study):
    config = family_jobs.config_of(study, "sid:alpha=0.5:fake_score.updates=2")
    assert (config.alpha, config.fake_score.updates) == (0.5, 2)
    assert family_report.title("sid:alpha=0.5") == "SiD, alpha=0.5"
    changed = dataclasses.replace(study, changes={"init_sigma": 3})
    assert family_jobs.config_of(changed, "dmd").init_sigma == 3.0
    small = family_jobs.config_of(study, "sid:network.model_channels=20")
    assert (small.student, small.network.model_channels) == ("network", 20)
    with pytest.raises(ValueError, match=r"network\.channels is no field"):
        family_jobs.config_of(study, "sid:network.channels=20")


class TestPlan:
    study = Study(teacher="some/tiny", data="digits", features="pixels")
    rows = ("diff_instruct", "dmd", "fgm", "sid", "sim")
    at_best = (("sid", 5e-5, 3.0), ("sim", 2e-5, 1.0), ("dmd", 5e-5, 2.0), ("fgm", 5e-5, 1.5))

    def results(self):
        best = [result(*each) for each in (*self.at_best, ("diff_instruct", 5e-5, 9.0))]
        worse = [result(name, 1.25e-4, 20.0) for name in self.rows]
        return [*worse, *best]

    def test_each_method_is_tried_at_each_rate_once(self):
        jobs = family_plan.plan("rates", self.study, self.rows, [])
        assert list(jobs) == list(self.rows)
        assert [job.rate for job in jobs["sid"]] == list(family_plan.RATES)
        assert {(job.kimg, job.seed, job.decay_kimg) for job in jobs["sid"]} == {(128.0, 0, 0.0)}
        left = family_plan.plan("rates", self.study, self.rows, self.results())
        assert [job.rate for job in left["sid"]] == [2e-5]
        assert [job.rate for job in left["sim"]] == [5e-5]

    def test_seeds_are_of_the_best_three_and_the_founders_at_their_best_rates(self):
        jobs = family_plan.plan("seeds", self.study, self.rows, self.results())
        assert list(jobs) == ["sim", "fgm", "dmd", "sid", "diff_instruct"]
        assert [(job.rate, job.seed) for job in jobs["sim"]] == [(2e-5, 1), (2e-5, 2)]

    def test_longer_runs_take_rates_from_another_teacher_and_end_in_a_decay(self):
        other = dataclasses.replace(self.study, teacher="small")
        once = family_plan.plan("once", other, self.rows, self.results())
        assert [job.rate for job in once["sim"]] == [2e-5]
        done = [
            result(name, rate, distance, stage="once", teacher="small", kimg=256.0)
            for name, rate, distance in (*self.at_best, ("diff_instruct", 5e-5, 9.0))
        ]
        jobs = family_plan.plan("long", other, self.rows, self.results() + done)
        assert list(jobs) == ["sim", "fgm", "dmd", "diff_instruct"]
        assert [(job.kimg, job.decay_kimg) for job in jobs["sim"]] == [(1000.0, 500.0)]

    def test_a_row_is_ready_when_its_rates_have_been_tried_and_a_choice_when_all_have(self):
        other = dataclasses.replace(self.study, teacher="small")
        missing = result("sim", 5e-5, 4.0)
        tried = [
            *self.results(),
            *(result(*each) for each in (("sid", 2e-5, 5.0), ("sim", 5e-5, 5.0))),
            *(result(name, 2e-5, 5.0) for name in ("dmd", "fgm", "diff_instruct")),
        ]
        known = [each for each in tried if (each["name"], each["rate"]) != ("sim", 5e-5)]
        rows = list(self.rows)
        assert family_plan.ready("rates", self.study, rows, []) == rows
        assert family_plan.ready("once", other, rows, known) == rows[:-1]
        assert family_plan.ready("seeds", self.study, rows, known) == []
        assert family_plan.ready("once", other, rows, [*known, missing]) == rows
        assert family_plan.ready("seeds", self.study, rows, [*known, missing]) == rows
        done = [result(name, 5e-5, 1.0, stage="once", teacher="small") for name in rows]
        assert family_plan.ready("long", other, rows, [*tried, *done[:-1]]) == []
        assert family_plan.ready("long", other, rows, [*tried, *done]) == rows

    def test_a_run_that_broke_down_is_no_best_one(self):
        broken = result("sim", 5e-5, 0.1) | {"failed": "samples hold NaN"}
        assert family_plan.best_rate([broken, *self.results()], "sim", "tiny") == 2e-5

    def test_a_row_that_broke_down_is_run_no_further(self):
        rates, rows = family_plan.RATES, ["sim", "sid"]
        results = [result("sim", rate, 0.1) | {"failed": "NaN"} for rate in rates]
        results += [result("sid", rate, 1.0) for rate in rates]
        assert list(family_plan.plan("seeds", self.study, rows, results)) == ["sid"]
        assert family_plan.best_rows(results, "rates", "tiny") == ["sid"]
        results.append(result("sid", 2e-5, 1.0, stage="once"))
        assert family_plan.ready("long", self.study, rows, results) == rows


def test_a_factor_on_the_rate_is_another_rate():
    params = {"w": jnp.arange(1.0, 5.0)}
    gradient = {"w": jnp.asarray([0.1, -2.0, 3.0, 0.0])}

    def after(made, state):
        for _ in range(3):
            updates, state = made.update(gradient, state, params)
        return optax.apply_updates(params, updates)

    rated = family_program.rated(optimizer.adam(1e-2, b1=0.5))
    state = rated.init(params)._replace(factor=jnp.float32(3))
    plain = optimizer.adam(3e-2, b1=0.5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        after(rated, state),
        after(plain, plain.init(params)),
    )


@pytest.fixture(scope="module")
def program(study):
    return family_program.Program(study, "diff_instruct")


@pytest.fixture
def programs(program, monkeypatch):
    """Rows whose program was asked for; all are given one, which is compiled already."""
    asked = []

    def give(study, name):
        asked.append(name)
        return program

    monkeypatch.setattr(family_run, "Program", give)
    return asked


def jobs_of(stage, kimg, rates=(1e-3,), decay=0.0):
    return [Job("diff_instruct", rate, 0, kimg * KIMG, decay * KIMG, stage) for rate in rates]


def test_runs_of_one_program_and_how_they_go_on(study, programs, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    # Rates in one program, each a result; a second call has nothing to do.
    rates = jobs_of("rates", 4, rates=(1e-3, 1e-1))
    for _ in range(2):
        assert family_run.work(study, rates, whole, NEVER)
    assert programs == ["diff_instruct"]
    low, high = family_jobs.read(whole)
    assert [point["kimg"] for point in low["curve"]] == [2 * KIMG, 4 * KIMG]
    assert low["curve"][-1]["distance"] != high["curve"][-1]["distance"]
    assert low["rates"] == {"generator": 1e-3, "fake_score": 2e-3}
    assert 0 <= low["precision"] <= 1
    assert low["share_of_peak"] > 0
    assert not (whole / "students").exists()

    # A longer run has the same first measurement; one that was stopped goes on.
    once, longer = jobs_of("once", 4), jobs_of("long", 8, decay=4)
    assert family_run.work(study, once, whole, NEVER)
    assert family_run.work(study, longer, whole, NEVER)
    *_, short, long = family_jobs.read(whole)
    numbers = [[point["distance"] for point in each["curve"]] for each in (low, short, long)]
    assert numbers[0] == numbers[1] == numbers[2][:2]
    assert [point["kimg"] for point in long["curve"]] == [2 * KIMG, 4 * KIMG, 8 * KIMG]
    assert not family_run.work(study, longer, parts, StopAfter(2))
    assert family_jobs.read(parts) == []
    assert family_run.work(study, longer, parts, NEVER)
    (resumed,) = family_jobs.read(parts)
    assert resumed["curve"][-1]["distance"] == long["curve"][-1]["distance"]
    assert len(list((whole / "students").iterdir())) == 2


def test_a_run_whose_process_is_lost_goes_on_from_its_last_measurement(
    study, program, programs, tmp_path, monkeypatch
):
    (job,), update = jobs_of("once", 8), program.call
    steps = []

    def lost(state, *arguments):
        steps.append(int(state.step))
        if steps == [0, 0, 2, 4]:  # the first warms up, the last comes after a measurement
            raise OSError("the machine is gone")
        return update(state, *arguments)

    monkeypatch.setattr(program, "call", lost)
    with pytest.raises(OSError, match="gone"):
        family_run.work(study, [job], tmp_path, NEVER)
    assert family_jobs.read(tmp_path) == []
    (line,) = measuring.read_lines(tmp_path / "points.jsonl")
    assert (line["name"], line["kimg"]) == ("diff_instruct", 8 * KIMG)
    before = len(steps)
    assert family_run.work(study, [job], tmp_path, NEVER)
    assert steps[before:] == [0, 4, 6]  # the first warms up
    (found,) = family_jobs.read(tmp_path)
    assert [point["kimg"] for point in found["curve"]] == [4 * KIMG, 8 * KIMG]
    lines = measuring.read_lines(tmp_path / "points.jsonl")
    assert [line["point"] for line in lines] == found["curve"]


def test_runs_that_share_a_gpu_take_turns(study, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-ab/1/0")
    order = []

    def named(name):
        def body():
            with turns.turn():
                order.append(name)

        return threading.Thread(target=body)

    def waits(thread):
        thread.start()
        thread.join(0.2)
        return thread.is_alive()

    second, both = named("second"), named("both")
    with turns.turn():
        assert waits(second)
        order.append("first")
        # Another GPU is free; both aren't.
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        assert not waits(named("another"))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-ab/1/0,0")
        assert waits(both)
    second.join()
    both.join()
    assert order[:2] == ["first", "another"]
    assert sorted(order[2:]) == ["both", "second"]
    # One that is named twice is waited for once; none are none, whatever the host has.
    for given, found in (("1,0,1", ["0", "1"]), ("", ["none"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert turns.gpus() == found
        assert not waits(named(given))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert turns.gpus()
    arguments = (study, ["diff_instruct"], tmp_path, family_plan.RATES, family_plan.KIMG, 2)
    assert {each.weight for each in family.steps("rates", *arguments)} == {0.5}


def test_samples_that_hold_nan_are_told_by_the_measures_alone(study, program, tmp_path):
    measures = family_measures.Measures(study, program.exp, program.mesh, tmp_path)
    params = program.exp.averaged(program.first_state(0))
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    measures.compile(program.measured, program.shown, broken)
    assert measures.distance(program.measured, broken) == {"distance": None}


def test_the_host_measures_while_another_run_has_the_gpu(study, program, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    measures = family_measures.Measures(study, program.exp, program.mesh, tmp_path)
    params = program.exp.averaged(program.first_state(0))
    measures.compile(program.measured, program.shown, params)
    seen = []

    def is_free():
        def body():
            with turns.turn():
                pass

        other = threading.Thread(target=body, daemon=True)
        other.start()
        other.join(0.2)
        return not other.is_alive()

    def watched(name):
        inner = getattr(evaluator.Evaluator, name)

        def call(*args, **kwargs):
            seen.append((name, is_free()))
            return inner(*args, **kwargs)

        monkeypatch.setattr(evaluator.Evaluator, name, call)

    watched("collect")
    watched("values")
    measures.distance(program.measured, params)
    assert seen == [("collect", False), ("values", True)]
    seen.clear()
    measures.diversity(program.measured, params)  # whose neighbours the GPU finds
    assert seen == [("collect", False), ("values", False)]


def test_flops_are_those_of_the_passes_that_a_method_needs(program):
    passes = program.flops / BATCH / measuring.forward_flops(program.exp.denoiser)
    assert 8.5 < passes < 9.1


def test_a_run_that_breaks_down_is_a_result(study, programs, tmp_path):
    (job,) = jobs_of("rates", 12, rates=(float("inf"),))
    assert family_run.work(study, [job], tmp_path, NEVER)
    (found,) = family_jobs.read(tmp_path)
    assert found["failed"] == "updates weren't finite"
    assert found["skipped"] == 10
    assert family_jobs.distance(found) == float("inf")
    assert "Diff-Instruct" in family_report.report([found])


def test_a_run_that_broke_down_within_a_call_is_a_result_of_each_length(study, programs, tmp_path):
    """Its state stops counting before the call ends."""
    for kimg, stage in ((14, "once"), (20, "long")):
        (job,) = jobs_of(stage, kimg, rates=(float("inf"),))
        assert family_run.work(study, [job], tmp_path, NEVER)
    once, long = family_jobs.read(tmp_path)
    assert (once["stage"], long["stage"]) == ("once", "long")
    assert once["failed"] == long["failed"] == "updates weren't finite"


class _Inline:
    """A step's process, run within this one."""

    def __init__(self, arguments):
        flags = dict(each[2:].split("=", 1) for each in arguments if each.startswith("--"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["family_run", *[f"--{k}={v}" for k, v in flags.items()]])
            patch.setattr(preemption, "Preemption", lambda: NEVER_ENTERED)
            family_run.main()

    def poll(self):
        return 0


class _Entered(StopAfter):
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


NEVER_ENTERED = _Entered(10**6)


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["family", *flags])
    family.main()


def test_the_command_in_miniature(teacher, programs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(family.schedule, "_launch", lambda step, *_: _Inline(step.arguments))
    output = tmp_path / "study"
    flags = [
        f"--output={output}",
        f"--teacher={teacher}",
        "--data=digits",
        "--features=pixels",
        "--dtype=float32",
        f"--batch_size={BATCH}",
        "--updates_per_call=2",
        "--count=24",
        "--few=24",
        "--points=2",
        "--rates=1e-4,1e-3",
        "--kimg=0.016,0.016,0.016,0.032",
        "--only=diff_instruct",
        "--set=heun.steps=2",
    ]
    picture = f"--picture={tmp_path / 'new' / 'grids.png'}"
    run(monkeypatch, *flags, "--stages=teacher,rates", picture)
    out = capsys.readouterr().out
    assert "| distance after 16 images | rate 0.0001 | rate 0.001 |" in out
    assert "| the teacher, 3 evaluations |" in out
    assert [each["stage"] for each in family_jobs.read(output)] == ["teacher", "rates", "rates"]
    assert np.asarray(Image.open(tmp_path / "new" / "grids.png")).shape[1] > 2 * 10 * 64
    # What is done isn't run again, and other settings don't mix with these.
    monkeypatch.setattr(family.schedule, "_launch", None)
    run(monkeypatch, *flags, "--stages=teacher,rates")
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *flags, "--count=48")
    assert ended.value.code == 2
    assert "holds runs with count=24, not 48: name another folder" in capsys.readouterr().err


def test_rows_wait_for_rates_that_another_process_tries(tmp_path, monkeypatch, capsys):
    """Of three rows one is known, one becomes so while the first runs, and one never does."""
    study = Study(teacher="small", data="digits", features="pixels")
    rows, begun = ["sid", "sim", "fgm"], []
    family_jobs.add(tmp_path, result("sid", 1e-4, 3.0))

    class Process:
        """Its first look at itself is when the other process ends."""

        def __init__(self, step, *_):
            (told,) = (tmp_path / "steps" / step.name).glob("jobs_*.json")
            jobs = json.loads(told.read_text())["jobs"]
            begun.extend((job["name"], job["rate"]) for job in jobs)
            self.done = tmp_path / step.result

        def poll(self):
            if not self.done.exists():
                self.done.touch()
                family_jobs.add(tmp_path, result("sim", 1e-4, 3.0))
            return 0

    monkeypatch.setattr(family.schedule, "_launch", Process)
    call = functools.partial(family.execute, study, ["once", "long"], rows, tmp_path, gpus=["0"])
    assert call(rates=[1e-4], wait=True, minutes=0.05) == []
    assert begun == [("sid", 1e-4), ("sim", 1e-4)]
    out = capsys.readouterr().out
    assert "once: fgm wasn't begun; what it waits for isn't known" in out
    assert "long" not in out


def test_a_row_that_fails_keeps_no_stage_waiting(tmp_path, monkeypatch, capsys):
    study = Study(teacher="small", data="digits", features="pixels")
    for name in ("sid", "sim"):
        family_jobs.add(tmp_path, result(name, 1e-4, 3.0))

    class Process:
        def __init__(self, step, *_):
            self.code = int(step.name == "small_once_sim")
            (tmp_path / "steps" / step.name / "log.txt").touch()
            if not self.code:
                (tmp_path / step.result).touch()
                if "once" in step.name:
                    once = {"stage": "once", "teacher": "small", "kimg": 256.0}
                    family_jobs.add(tmp_path, result("sid", 1e-4, 3.0, **once))

        def poll(self):
            return self.code

    monkeypatch.setattr(family.schedule, "_launch", Process)
    call = functools.partial(family.execute, study, ["once", "long"], gpus=["0"], wait=True)
    assert call(["sid", "sim"], tmp_path, rates=[1e-4], minutes=1) == ["small_once_sim"]
    assert "small_long_sid: done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data=no.zip"], "--data=no.zip: no such file"),
        (["--data=digits", "--teacher=digit"], "--teacher='digit' is unknown"),
        (["--data=digits", "--only=sdi"], "--only=sdi: 'sdi' isn't one of diff_instruct"),
        (["--data=digits", "--only=sid:alhpa=1"], "sid:alhpa=1: config.alhpa is missing"),
        (["--data=digits", "--only=sid:alpha"], "sid:alpha: 'alpha' isn't field=value"),
        (["--data=digits", "--set=batch_size"], "--set: 'batch_size' isn't field=value"),
        (["--data=digits", "--rates=fast"], "argument --rates: 'fast': positive numbers"),
        (["--data=digits", "--kimg=1,2"], "argument --kimg: '1,2': four are needed"),
        (["--data=digits", "--points=0"], "argument --points: '0': a whole number of at least 1"),
        (["--data=digits", "--stages=rate"], "argument --stages: 'rate' is no stage: teacher, "),
        ([], "has no results; --data=… makes them"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(family.schedule, "Schedule", None)
    teacher = ["--teacher=digits"] if not any("teacher" in each for each in flags) else []
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, f"--output={tmp_path / 'study'}", *teacher, *flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "study" / "results.jsonl").exists()


def test_tables_say_what_was_measured():
    results = [
        *(result("sid", 5e-5, 4.0 + seed, seed=seed, stage="seeds") for seed in (0, 1, 2)),
        result("sid", 2e-5, 8.0),
        result("diff_instruct", 5e-5, 6.0),
        result("diff_instruct", 5e-5, 3.0, teacher="small", kimg=256.0, stage="once"),
    ]
    text = family_report.report(results)
    row = "| SiD | - | 5e-05 | 128,000 | 128,000 | 3 | 5.00 (4.00 to 6.00) | 0.500 (0.500 to 0.500)"
    assert row in text
    assert "| SiD | 30.0 | 1.50 | 11 | 1.22 | 0.20 | 3.0 | 30 |" in text
    assert text.index("Teacher tiny.") < text.index("Teacher small.")
    best = family_report.best_runs([each for each in results if each["teacher"] == "tiny"])
    assert list(best) == ["sid", "diff_instruct"]


def test_runs_of_unequal_length_are_not_compared():
    """A short run at a rate that is no good is better than a shorter one at a good rate, and so."""
    short = [result("sid", 5e-5, 9.0, kimg=64.0), result("sid", 2e-5, 3.0, kimg=64.0)]
    long = [result("sid", 5e-5, 4.0), result("fgm", 5e-5, 6.0)]
    assert family_plan.best_rate([*short, *long], "sid", "tiny") == 5e-5
    assert family_plan.best_rows(
        [*short, *long, result("dmd", 5e-5, 1.0, kimg=64.0)], "rates", "tiny"
    ) == [
        "sid",
        "fgm",
    ]
    text = family_report.report([*short, *long])
    first, second = text.split("| distance after ")[1:]
    assert first.startswith("128,000 images | rate 5e-05 |\n|-|-|\n| SiD | 4.00 |\n| FGM | 6.00 |")
    assert second.startswith("64,000 images | rate 2e-05 | rate 5e-05 |\n|-|-|-|\n| SiD | 3.00 | 9")


def test_compiling_is_that_of_an_empty_cache():
    runs = [result("sid", 5e-5, 4.0), result("sid", 5e-5, 4.0, seed=1, stage="seeds")]
    runs += [runs[1] | {"seed": seed, "compile_seconds": 2.0} for seed in (2, 3)]
    assert "| 0.20 | 3.0 | 30 |" in family_report.report(runs)


def test_a_guided_teacher_is_named():
    measured = {"distance": 3.0, "precision": 0.5, "recall": 0.5, "evaluations": 70}
    guided = result("teacher:guidance.teacher=1.5", 0.0, 0.0, stage="teacher") | measured
    text = family_report.report([guided, result("sid", 5e-5, 4.0)])
    assert "| the teacher, guidance.teacher=1.5, 70 evaluations |" in text


def test_the_plot_has_a_panel_for_images_and_one_for_seconds(tmp_path, monkeypatch):
    axes = pytest.importorskip("matplotlib.axes", reason="no matplotlib: diffjax[plot]").Axes
    drawn, loglog = [], axes.loglog
    monkeypatch.setattr(axes, "loglog", lambda *a, **kw: drawn.append(a[1:]) or loglog(*a, **kw))
    teacher = {"teacher": "tiny", "name": "teacher", "stage": "teacher", "distance": 2.0}
    results = [teacher, result("sid", 5e-5, 4.0, stage="long"), result("sim", 5e-5, 3.0)]
    results += [result("sid", 5e-5, 7.0, stage="once", kimg=64), result("sid", 1e-4, 9.0, kimg=8)]
    family_report.plot(results, tmp_path / "new" / "plot.png")
    assert sorted(drawn[:3]) == [([32, 64], [14, 7]), ([64, 128], [6, 3]), ([64, 128], [8, 4])]
    picture = np.asarray(Image.open(tmp_path / "new" / "plot.png").convert("L"))
    assert picture.shape == (600, 1500)
    assert picture.std() > 5


def test_results_are_lines_of_json(tmp_path):
    family_jobs.add(tmp_path, {"name": "sid"})
    family_jobs.add(tmp_path, {"name": "dmd"})
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == family_jobs.read(tmp_path)


def test_half_a_line_is_none(tmp_path):
    """Of a process that was killed, or whose disk was full."""
    family_jobs.add(tmp_path, {"name": "sid"})
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"name": "dm')
    assert family_jobs.read(tmp_path) == [{"name": "sid"}]
    family_jobs.add(tmp_path, {"name": "fgm"})
    assert family_jobs.read(tmp_path) == [{"name": "sid"}, {"name": "fgm"}]


def job(kimg, decay=0.0, stage="once"):
    return Job("sid", 1e-3, 0, kimg, decay, stage)


@pytest.mark.parametrize(
    ("saved_by", "kimg", "asked", "goes_on"),
    [
        ((256.0, 0.0), 256, job(1000.0, 500.0), True),
        ((1000.0, 500.0), 700, job(1000.0, 500.0), True),
        ((1000.0, 500.0), 300, job(256.0), False),  # too far
        ((1000.0, 500.0), 1000, job(2000.0, 1000.0), False),  # its rate has fallen
        ((256.0, 0.0), 256, job(400.0, 200.0), False),  # it would have fallen since 200
    ],
)
def test_another_length_of_a_run_goes_on_only_where_it_is_on_the_way(
    saved_by, kimg, asked, goes_on, tmp_path, monkeypatch
):
    meta = {"made_by": list(saved_by)}
    kept = types.SimpleNamespace(latest_step=lambda: kimg, meta=lambda _: meta)
    opened = contextlib.nullcontext(kept)
    monkeypatch.setattr(family_run.checkpointing, "Checkpointer", lambda *_, **__: opened)
    folder = family_run._checkpoints(tmp_path, TestPlan.study, asked, per_update=1000)
    assert (folder == tmp_path / "runs" / "tiny_sid_0.001_0" / "checkpoints") == goes_on


def test_files_of_a_run_are_no_other_ones(tmp_path):
    runs = [{"teacher": "tiny", **dataclasses.asdict(job(*of))} for of in ((256.0,), (512.0, 256))]
    (tmp_path / "grids").mkdir()
    names = ["tiny_sid_0.001_0_256kimg.png", "tiny_sid_0.001_0_512kimg_decay256.png"]
    for name in names:
        (tmp_path / "grids" / name).touch()
    assert [family_jobs.grid_of(tmp_path, each).name for each in runs] == names
    path = "sid:generator.initial=runs/first/network"
    assert family_jobs.grid_of(tmp_path, runs[0] | {"name": path}).parent == tmp_path / "grids"
    made = family.step(TestPlan.study, "rates", path, [], tmp_path)
    assert (tmp_path / made.result).parent == tmp_path / "steps" / made.name
    extract = types.SimpleNamespace(name="pixels")
    for data, at in (("digits", 1.0), ("others", 2.0)):
        reference = tmp_path / f"reference_pixels_{data}.npz"
        np.savez(reference, mean=[at], cov=[[1.0]], rows=[[at]])
        study = dataclasses.replace(TestPlan.study, data=f"{data}.zip")
        assert family_measures._reference(study, None, extract, None, tmp_path).mean == at


def test_tables_and_pictures_of_partial_and_broken_results(tmp_path, monkeypatch, capsys):
    teacher = result("teacher", 0.0, 0.0, stage="teacher") | {"evaluations": 3}
    family_jobs.add(tmp_path, teacher | dict.fromkeys(("distance", "precision", "recall")))
    for stage in ("rates", "once"):  # of the same length: one run
        family_jobs.add(tmp_path, result("sid", 1e-3, 4.0, stage=stage))
    with pytest.raises(SystemExit, match=r"error: .*grids has no grid of these runs"):
        run(monkeypatch, f"--output={tmp_path}", "--picture=no.png")
    out = capsys.readouterr().out
    assert "| the teacher, 3 evaluations | | | | | | - | - | - | |" in out
    assert "| SiD | - | 0.001 | 128,000 | 128,000 | 1 | 4.00 | 0.500 | 0.250 | 10 |" in out


def test_settings_are_the_same_in_the_next_call(tmp_path, monkeypatch):
    monkeypatch.setattr(family.schedule.Schedule, "run", lambda *_: None)
    monkeypatch.setattr(family_report, "report", str)
    family_jobs.add(tmp_path, result("sid", 1e-3, 4.0))
    flags = [f"--output={tmp_path}", "--data=digits", "--teacher=digits", "--only=sid"]
    for _ in range(2):  # a tuple is a list in a file
        run(monkeypatch, *flags, "--stages=rates", "--rates=1,1", "--set=time_range=(0.1, 0.9)")
    told, again = (tmp_path / "steps").glob("*/jobs_*.json")
    assert told.read_text() == again.read_text()
    told = json.loads(told.read_text())
    assert len(told["jobs"]) == 1
    assert family_jobs.config_of(Study(**told["study"]), "sid").time_range == (0.1, 0.9)


def test_another_teacher_or_data_of_the_same_name_is_refused(
    teacher, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(family.schedule.Schedule, "run", lambda *_: None)
    monkeypatch.setattr(family_report, "report", str)
    own, other = tmp_path / "a" / "net", tmp_path / "b" / "net"
    shutil.copytree(teacher, own)
    shutil.copytree(Path(diffjax.__file__).parent / "assets" / "digits", other)
    files = [tmp_path / name / "real.zip" for name in "ab"]
    for content, file in zip((b"one", b"two"), files, strict=True):
        file.write_bytes(content)  # nobody looks into it before a run does
    output = tmp_path / "study"
    output.mkdir()
    family_jobs.add(output, result("sid", 1e-3, 4.0))

    def start(network, data):
        flags = [f"--teacher={network}", f"--data={data}", "--only=sid", "--stages=rates"]
        run(monkeypatch, f"--output={output}", *flags)

    for _ in range(2):
        start(own, files[0])
    path = output / "study_net.json"
    known = path.read_text()
    for network, data, message in (
        (other, files[0], f"holds runs of another net than --teacher={other}: name another folder"),
        (own, files[1], f"holds runs of another real.zip than --data={files[1]}: name another"),
    ):
        with pytest.raises(SystemExit):
            start(network, data)
        assert message in capsys.readouterr().err
        assert path.read_text() == known
    # A study of before knows no digests.
    path.write_text(json.dumps({k: v for k, v in json.loads(known).items() if k != "contents"}))
    start(own, files[0])
    assert path.read_text() == known


def test_runs_of_a_row_with_other_settings_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(family.schedule.Schedule, "run", lambda *_: None)
    monkeypatch.setattr(family_report, "report", str)
    family_jobs.add(tmp_path, result("sid", 1e-3, 4.0))

    def start(*rows):
        flags = ["--data=digits", "--teacher=digits", "--stages=rates", f"--only={','.join(rows)}"]
        run(monkeypatch, f"--output={tmp_path}", *flags)

    start("sid", "dmd:init_sigma=80.0")
    start("fgm")
    path = tmp_path / "study_digits.json"
    kept = json.loads(path.read_text())
    assert kept["rows"].keys() == {"sid", "dmd:init_sigma=80.0", "fgm"}
    for changes, message in (
        ({"sid": {"init_sigma": 1}}, "runs of sid with fake_score.max_grad_norm=1000.0, not its d"),
        ({"fgm": {"init_sigma": 1}}, "runs of fgm with init_sigma=its default, not 1: name anothe"),
    ):
        monkeypatch.setattr(family_jobs, "CHANGES", family_jobs.CHANGES | changes)
        with pytest.raises(SystemExit):
            start("sid", "fgm")
        assert message in capsys.readouterr().err.splitlines()[-1]
        monkeypatch.undo()
        monkeypatch.setattr(family.schedule.Schedule, "run", lambda *_: None)
        monkeypatch.setattr(family_report, "report", str)
    assert json.loads(path.read_text()) == kept
    # What a folder of before doesn't tell is taken as it is now.
    path.write_text(json.dumps({name: value for name, value in kept.items() if name != "rows"}))
    start("sid")
    assert json.loads(path.read_text())["rows"] == {"sid": kept["rows"]["sid"]}


def test_data_of_one_name_are_the_same_for_all_teachers(teacher, tmp_path, monkeypatch, capsys):
    """Their reference is one file."""
    monkeypatch.setattr(family.schedule.Schedule, "run", lambda *_: None)
    monkeypatch.setattr(family_report, "report", str)
    files = [tmp_path / "a" / "real.zip", tmp_path / "b" / "real.zip"]
    for content, file in zip((b"one", b"two"), files, strict=True):
        file.parent.mkdir()
        file.write_bytes(content)
    family_jobs.add(tmp_path, result("sid", 1e-3, 4.0))
    flags = [f"--output={tmp_path}", "--only=sid", "--stages=rates"]
    run(monkeypatch, *flags, f"--data={files[0]}", "--teacher=digits")
    run(monkeypatch, *flags, f"--data={files[0]}", f"--teacher={teacher}")
    other = tmp_path / "c" / "third"
    shutil.copytree(teacher, other)
    with pytest.raises(SystemExit):
        run(monkeypatch, *flags, f"--data={files[1]}", f"--teacher={other}")
    assert f"runs of another real.zip than --data={files[1]}: name" in capsys.readouterr().err


def test_calls_at_the_same_time_have_jobs_of_their_own(tmp_path):
    """Each reads and ends its own, though row and stage are one."""
    jobs = [job(256.0), job(512.0)]
    steps = [family.step(TestPlan.study, "once", "sid", [each], tmp_path) for each in jobs]
    for asked, made in zip(jobs, steps, strict=True):
        (path,) = (Path(each[7:]) for each in made.arguments if each.startswith("--jobs="))
        assert json.loads(path.read_text())["jobs"] == [dataclasses.asdict(asked)]
        assert family_jobs.done_of(path) == tmp_path / made.result
    assert steps[0].result != steps[1].result


def test_a_run_that_another_process_is_at_is_waited_for(study, programs, tmp_path, monkeypatch):
    (asked,) = jobs_of("once", 4)
    monkeypatch.setattr(family_run, "run", None)  # it isn't run again
    ended = []

    def work(stop):
        ended.append(family_run.work(study, [asked], tmp_path, stop))

    name = family_jobs.file_name(f"{study.name}_{asked.label(study)}")
    with turns.alone(tmp_path / "locks" / name):
        work(StopAfter(1))  # asked before it compiles, and told to stop as it waits
        assert ended == [False]
        other = threading.Thread(target=work, args=[NEVER])
        other.start()
        while len(programs) < 2:
            time.sleep(0.01)
        found = {"teacher": study.name, **dataclasses.asdict(asked)}
        family_jobs.add(tmp_path, found)
    other.join()
    assert ended == [False, True]
    assert family_jobs.read(tmp_path) == [found]


def test_a_teacher_is_measured_once_and_not_by_a_variant(study, tmp_path, monkeypatch):
    asked = []

    def measure(study, output, name):
        asked.append(name)
        family_jobs.add(output, {"teacher": study.name, "name": name, "stage": "teacher"})

    monkeypatch.setattr(family_run, "measure_teacher", measure)
    variant = Job("teacher:guidance.teacher=2.0", 0.0, 0, 0.0, 0.0, "teacher")
    arguments = (study, ["sid"], tmp_path, family_plan.RATES, family_plan.KIMG)
    assert family_run.work(study, [variant], tmp_path, NEVER)
    assert len(family.steps("teacher", *arguments)) == 1
    for _ in range(2):  # by processes that both found it missing
        assert family_run.work(study, [], tmp_path, NEVER)
    assert asked == [variant.name, "teacher"]
    assert family.steps("teacher", *arguments) == []


def test_what_is_timed_is_warm_and_its_memory_the_updates_alone(
    study, programs, program, tmp_path, monkeypatch
):
    """A process's first call loads its kernels, and measuring takes memory of its own."""
    order = []
    kept = program.call
    (asked,) = jobs_of("rates", 4)

    def call(*arguments):
        order.append("call")
        return kept(*arguments)

    def peak():
        order.append("memory")
        return float(len(order))

    def measures(*arguments):
        order.append("measures")
        return family_measures.Measures(*arguments)

    monkeypatch.setattr(program, "call", call)
    monkeypatch.setattr(family_program.runtime, "peak_memory_gib", peak)
    monkeypatch.setattr(family_run, "Measures", measures)
    assert family_run.work(study, [asked], tmp_path, NEVER)
    assert order == ["call", "memory", "measures", "call", "call"]
    (found,) = family_jobs.read(tmp_path)
    assert found["memory_gib"] == 2


def test_a_teacher_that_cannot_be_downloaded_is_one_line(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise ConnectionError("https://example.org/teacher.pkl can't be downloaded")

    monkeypatch.setattr(family_study.networks, "content", fail)
    monkeypatch.setattr(family.schedule, "Schedule", None)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, f"--output={tmp_path / 'study'}", "--teacher=digits", "--data=digits")
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("teacher.pkl can't be downloaded")
    assert not (tmp_path / "study").exists()
