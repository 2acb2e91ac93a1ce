"""One update on several devices, in miniature, and the runner of such cases."""

import contextlib
import dataclasses
import gzip
import json
import sys
import time
import types

import jax
import pytest

from benchmarks import measuring, scale, scale_case, scale_report, step
from benchmarks.scale import Subject
from benchmarks.scale_case import PUBLISHED, TOTAL, Case
from diffjax.convert import teacher as teachers

WORKER = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1].partition("=")[2])
case = json.loads((folder / "case.json").read_text())
does = dict(each.split("=") for each in case["changes"])["does"]
if does == "dies":
    print("W0 RESOURCE_EXHAUSTED: Out of memory while trying to allocate 81.9GiB.")
    sys.exit("at the end")
time.sleep(60 * (does == "compiles"))
(folder / "compiled").touch()
sys.stdin.readline()
time.sleep(60 * (does == "hangs"))
result = {"images_per_second": 100.0 * case["gpus"], "compile_seconds": 1.0, "share_of_peak": None,
          "memory_gib": [1.0, 3.0], "planned_gib": None, "collectives": None}
if case["profiled"]:
    result["profile"] = None
(folder / "result.json").write_text(json.dumps(result))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The runner, whose cases do what their field `does` says instead of measuring anything."""
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(scale, "WORKER", (sys.executable, str(tmp_path / "worker.py")))
    monkeypatch.setattr(scale, "_TURN_SECONDS", 0.5)

    def run(*does, gpus=1, profile=False, **options):
        cases = [
            Case("sid_x", "float32", 8, 1, gpus, changes=(f"does={each}",), profiled=profile)
            for each in does
        ]
        scale.execute(cases, tmp_path, cache=tmp_path / "cache", **options)
        return {each["changes"][0][5:]: each for each in scale.read(tmp_path)}

    return run


def test_a_case_that_fails_is_a_row_and_the_rest_goes_on(run, tmp_path):
    rows = run("dies", "hangs", "works", case_seconds=1)
    assert rows["works"]["images_per_second"] == 100
    assert "Out of memory while trying to allocate 81.9GiB" in rows["dies"]["failed"]
    assert rows["hangs"]["failed"] == "it didn't end within 1 s of its turn"
    table = scale_report.report(scale.read(tmp_path))
    assert "| failed: it didn't end within 1 s of its turn |" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_what_has_a_row_is_not_run_again(run, tmp_path):
    run("works", "dies")
    written = (tmp_path / "results.jsonl").read_text()
    run("works", "dies")
    assert (tmp_path / "results.jsonl").read_text() == written
    run("works", "dies", retry=True)
    first, second, third = (tmp_path / "results.jsonl").read_text().splitlines()
    assert json.loads(third)["name"] == json.loads(second)["name"] != json.loads(first)["name"]
    assert run("works", profile=True)["works"]["profile"] is None  # which it lacked


def test_what_was_timed_in_another_way_is_run_again(tmp_path, monkeypatch):
    """A case's name tells neither updates a call nor the folder of its config."""
    started = []
    monkeypatch.setattr(scale, "_started", lambda cases, *_: started.extend(cases) or NOTHING)
    case = Case("sid_x", "float32", 8, 1, 1, changes=("a=1",), updates_per_call=4)
    told = {"name": case.name, **dataclasses.asdict(case), "images_per_second": 1.0}
    scale.measuring.add_line(told, str(tmp_path / "results.jsonl"))
    scale.execute([case], tmp_path, cache=tmp_path)
    assert not started
    others = [
        dataclasses.replace(case, updates_per_call=8),
        dataclasses.replace(case, repeats=9),
        dataclasses.replace(case, config="mine/sid_x.py"),
    ]
    for other in others:
        assert other.name == case.name
        scale.execute([other], tmp_path, cache=tmp_path)
    assert started == others


NOTHING = contextlib.nullcontext([])


def test_time_that_is_up_leaves_what_has_compiled(run, capsys):
    start = time.monotonic()
    rows = run("compiles", "works", minutes=2 / 60)
    assert rows.keys() == {"works"}
    assert time.monotonic() - start < 20
    told = capsys.readouterr().out
    assert "no time left to compile it" in told
    assert told.rstrip().endswith("time is up; the same command goes on")
    assert run("hangs", "works", minutes=2 / 60, case_seconds=60).keys() == {"works"}


def test_each_process_sees_its_gpus(monkeypatch, tmp_path):
    case = Case("sid_x", "float32", 8, 1, gpus=2, first=1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--a=b")
    found = scale.environment_of(case, tmp_path)
    assert found["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert found["XLA_FLAGS"] == "--a=b --xla_gpu_autotune_level=2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert scale.environment_of(case, tmp_path)["CUDA_VISIBLE_DEVICES"] == "6,7"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES=4,6 has no number '2'"):
        scale.environment_of(case, tmp_path)


def test_the_most_telling_comes_first():
    subjects = [Subject("sid_cifar", 256), Subject("sid_imagenet64", 128, ("attention=cudnn",))]
    cases = scale.plan(subjects, [1, 2], dtype="bfloat16", each=True, profile=True)
    told = [(c.config[4:], c.gpus, c.first, c.batch_size, c.fsdp) for c in cases]
    assert told[:6] == [
        ("cifar", 1, 0, 256, False),
        ("cifar", 2, 0, 512, False),
        ("imagenet64", 1, 0, 128, False),
        ("imagenet64", 2, 0, 256, False),
        ("imagenet64", 2, 0, 256, True),
        ("cifar", 2, 0, 512, True),
    ]
    (published,) = (c for c in cases if c.same == PUBLISHED)
    assert (published.batch_size, published.accumulation, published.gpus) == (8192, 32, 2)
    assert [c.batch_size for c in cases if c.same == TOTAL] == [256, 128] * 2
    assert [c.first for c in cases if c.first] == [1, 1]
    assert [c.profiled for c in cases] == [True] * 6 + [False] + [True] * 2 + [False] * 4
    assert len({c.name for c in cases}) == len(cases)
    assert all(set(c.changes) <= {"attention=cudnn"} for c in cases)


@pytest.mark.parametrize("text", ["sid_cifar", "sid_cifar:0", "sid_cifar:a", "sid_cifar:8:dtype"])
def test_a_subject_that_is_none(text):
    with pytest.raises(scale.argparse.ArgumentTypeError, match=r"is needed|isn't FIELD=VALUE"):
        scale.subject(text)


def test_an_update_on_two_devices(teacher, tmp_path):
    case = Case("sid_digits", "float32", 8, 1, 2, fsdp=True, updates_per_call=1, repeats=1)
    case = dataclasses.replace(case, changes=(f"teacher={teacher}",), profiled=True)
    waited = []
    result = scale_case.measure(case, tmp_path, lambda: waited.append(True))
    assert waited == [True]
    assert result["images_per_second"] == pytest.approx(8 / result["seconds_per_update"])
    assert result["skipped"] == 0
    assert result["memory_gib"] is result["profile"] is None  # of a CPU
    assert 0 < result["planned_gib"] < 1
    params = jax.tree.leaves(teachers.load(str(teacher)).params)
    gradients = 2 * 4 * sum(leaf.size for leaf in params)
    counted = result["collectives"]
    assert counted["all-reduce"]["bytes"] == pytest.approx(gradients, rel=0.05)
    assert counted["all-gather"]["bytes"] > gradients
    told = {"name": case.name, **dataclasses.asdict(case), **result}
    line = scale_report.report([json.loads(json.dumps(told))]).splitlines()[2]
    assert "| 2 | split |" in line
    assert f"{result['planned_gib']:.2f} planned" in line


def test_efficiency_is_against_one_gpu_alone():
    def row(gpus, rate, same=scale.A_GPU, batch=None, accumulation=1, **options):
        case = Case(
            "sid_x", "bfloat16", batch or 8 * gpus, accumulation, gpus, same=same, **options
        )
        result = {"images_per_second": rate, "compile_seconds": 60.4, "share_of_peak": 0.5}
        result |= {"memory_gib": [1.0, 3.0], "planned_gib": 2.0, "collectives": {}}
        result["collectives"] = {"all-reduce": {"count": 2, "bytes": 3 * 10**9}}
        return {"name": case.name, **dataclasses.asdict(case), **result}

    rows = [row(1, 100.0), row(1, 110.0, first=1), row(2, 205.8), row(2, 168.0, TOTAL, batch=8)]
    rows.append(row(2, 189.0, PUBLISHED, batch=64, accumulation=4))
    lines = scale_report.report(rows).splitlines()
    found = {tuple(line.split(" | ")[1:4]): line.split(" | ")[5:] for line in lines[2:]}
    assert found["16", "a GPU", "2"] == [
        *("205.8", "1.96", "98.0%", "50%", "3.0", "2 all-reduce 3", "60 |")
    ]
    assert found["8", "in all", "2"][1:3] == ["1.60", "80.0%"]
    assert found["64 in 4", "published", "2"][1:3] == ["1.80", "90.0%"]
    assert found["8", "a GPU", "1, number 1"][2] == "104.8%"


def test_memory_is_read_before_the_peak_takes_its_own(monkeypatch, tmp_path):
    order = []

    def told(name, value):
        return lambda *_: order.append(name) or value

    compiled = step.Compiled(None, True, 1.0, 2.0)
    monkeypatch.setattr(step, "compile_update", told("compile", compiled))
    monkeypatch.setattr(
        step, "Running", lambda *_: types.SimpleNamespace(seconds=seconds, skipped=0)
    )
    monkeypatch.setattr(measuring, "matrix_peak", told("peak", 1e12))
    monkeypatch.setattr(measuring.runtime, "peak_memory_gib", told("memory", 3.0))
    monkeypatch.setattr(scale_case, "peaks", told("memories", [3.0]))
    seconds = told("seconds", [1.0])
    scale_case.measure(Case("teacher_digits", "float32", 8, None, 1), tmp_path)
    assert order[:5] == ["compile", "seconds", "memories", "memory", "peak"]


def test_a_profile_tells_what_collectives_cost(tmp_path):
    """Two updates: convolutions 0 to 10 ms, a collective 8 to 14, another kernel 20 to 24."""
    titles = [("process_name", "/device:GPU:0"), ("thread_name", "Stream #7(Compute)")]
    events = [
        {"ph": "M", "pid": 1, "tid": 7, "name": kind, "args": {"name": name}}
        for kind, name in titles
    ]
    runs = [("sm90_fprop", 0, 10), ("ncclDevKernel_AllReduce", 8, 6), ("loop_fusion_1", 20, 4)]
    for name, start, milliseconds in runs:
        times = {"ts": start * 1e3, "dur": milliseconds * 1e3}
        events.append({"ph": "X", "pid": 1, "tid": 7, "name": name, **times})
    text = json.dumps({"traceEvents": events}).encode()
    (tmp_path / "host.trace.json.gz").write_bytes(gzip.compress(text))
    found = scale_case.summary(tmp_path, updates=2)
    kinds = {
        "convolutions, forward": 0.005,
        "collectives": 0.003,
        "other elementwise fusions": 0.002,
    }
    assert found.pop("kinds") == pytest.approx(kinds)
    assert found == pytest.approx({"collectives_alone": 0.002, "idle": 0.003, "span": 0.012})
