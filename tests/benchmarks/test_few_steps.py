"""The command that compares students of a few steps and scales of guidance, in miniature."""

import dataclasses
import json
import sys

import pytest
from PIL import Image

from benchmarks import family, family_jobs, family_run, few_steps
from benchmarks.family_jobs import TEACHER, Job, Study
from diffjax.runs import networks

BATCH, KIMG = 8, 0.016  # two updates


@pytest.fixture(scope="module")
def study(teacher):
    return Study(
        teacher=str(teacher),
        data="digits",
        features="pixels",
        dtype="float32",
        batch_size=BATCH,
        updates_per_call=2,
        count=24,
        few=24,
        points=1,
        changes={"guidance.null": "zeros", "heun.steps": 2},
    )


class Never:
    def requested(self):
        return False


def test_rows_are_of_steps_and_of_scales():
    found = few_steps.rows((1, 2, 4), (1.0, 1.5), equal=True)
    assert found["teacher"] == ["teacher", "teacher:guidance.teacher=1.5"]
    *steps, last = found["student"]
    assert steps == ["sid", "sid:generator.steps=2", "sid:generator.steps=4"]
    assert Job(last, 0, 0, 0).changes == {
        "guidance.teacher": 1.5,
        "guidance.fake_training": 1.5,
        "guidance.fake_loss": 1.5,
        "fake_score.label_dropout": 0.1,
    }
    plain = few_steps.rows((1,), (2.0,))["student"]
    assert plain == ["sid", "sid:guidance.teacher=2.0"]


def test_what_has_a_result_is_not_run_again(study):
    names = few_steps.rows((1, 2), (1.0, 2.0))
    jobs = few_steps.plan(study, names, KIMG, [])
    order = ["teacher", "sid", names["teacher"][1], *names["student"][1:]]  # by turns
    assert [job.name for job in jobs] == order
    done = [{"teacher": study.name, "name": TEACHER, "stage": TEACHER}]
    done.append({"teacher": study.name, **dataclasses.asdict(jobs[-1])})
    left = few_steps.plan(study, names, KIMG, done)
    assert [job.name for job in left] == [order[2], order[1], order[3]]


def result(name, distance, **more):
    measured = {"precision": 0.5, "recall": 0.25, "device": "a device", "jax": "0", "date": "a day"}
    return {"teacher": "tiny", "name": name, "stage": few_steps.STAGE, **measured, **more} | (
        {"distance": distance}
        if name.startswith(TEACHER)
        else {"curve": [{"kimg": 64.0, "distance": distance}], "gpu_seconds": 9.0, "failed": ""}
    )


def test_the_table_and_the_picture(tmp_path, monkeypatch, capsys):
    results = [
        result("teacher:guidance.teacher=2.0", 3.0, stage=TEACHER, evaluations=70),
        result("sid:generator.steps=2", 2.5, rate=1e-4, seed=0),
        result("sid:guidance.teacher=1.5:guidance.fake_loss=1.5", None, rate=1e-4, seed=0),
    ]
    for each in results:
        family_jobs.add(tmp_path, each)
    label = family_jobs.label("tiny", results[1]["name"], 1e-4, 0)
    for name in ("tiny_teacher_guidance.teacher=2.0", label):
        (tmp_path / "grids").mkdir(exist_ok=True)
        Image.new("RGB", (320, 320)).save(tmp_path / "grids" / f"{name}.png")
    picture = tmp_path / "picture.png"
    monkeypatch.setattr(sys, "argv", ["few_steps", f"--output={tmp_path}", f"--picture={picture}"])
    few_steps.main()
    rows = capsys.readouterr().out.splitlines()
    assert rows[2:5] == [
        "| teacher | - | 2 | 70 | - | 3.00 | 0.500 | 0.250 | - |",
        "| student | 2 | 1 | 2 | 64,000 | 2.50 | 0.500 | 0.250 | 9 |",
        "| student | 1 | 1.5, of the fake score too | 1 | 64,000 | nan | 0.500 | 0.250 | 9 |",
    ]
    assert Image.open(picture).height > 2 * 128


def test_what_differs_in_more_than_the_scale_is_no_line_of_it():
    both = "sid:guidance.teacher=2.0:guidance.fake_training=2.0:guidance.fake_loss=2.0"
    results = [
        result("teacher:guidance.teacher=2.0", 3.0, stage=TEACHER, evaluations=70),
        *(result(name, 1.0) for name in ("sid", "sid:generator.steps=2", both)),
        result("sid:guidance.teacher=2.0", 2.0),
        result("sid:guidance.teacher=2.0", 4.0) | {"curve": [{"kimg": 32.0, "distance": 4.0}]},
        result("sid", 9.0, stage="rates"),  # of benchmarks.family
        result("dmd", 9.0, stage="once"),
    ]
    shown = few_steps.in_order(results)
    assert len(shown) == 6
    lines = few_steps.lines(shown)
    one = "student, one step, 64 thousand images"
    assert {label: len(own) for label, own in lines.items()} == {
        "teacher": 1,
        one: 2,
        f"{one}, fake score guided too": 2,
        "student, one step, 32 thousand images": 1,
    }


@pytest.mark.slow
def test_runs_are_measured_and_keep_their_students(study, tmp_path):
    names = {"teacher": ["teacher:guidance.teacher=2.0"], "student": ["sid:generator.steps=2"]}
    for job in few_steps.plan(study, names, KIMG, []):
        family.step(study, few_steps.STAGE, job.name, [job], tmp_path)
        folder = tmp_path / "steps" / f"tiny_steps_{job.name}".replace(":", "_")
        (told,) = folder.glob("jobs_*.json")
        asked = json.loads(told.read_text())
        jobs = [Job(**each) for each in asked["jobs"]]
        assert family_run.work(Study(**asked["study"]), jobs, tmp_path, Never())
    results = family_jobs.read(tmp_path)
    assert not few_steps.plan(study, names, KIMG, results)
    assert results[0]["evaluations"] == 6  # of Heun's 3, with a class and without
    rows = few_steps.report(results).splitlines()
    assert rows[2].startswith("| teacher | - | 2 | 6 | - |")
    assert rows[3].startswith("| student | 2 | 1 | 2 | 16 |")
    (folder,) = (tmp_path / "students").iterdir()
    assert networks.trained(str(folder), field="test").card.sigmas == (2.5, 1.25)
    assert len(list((tmp_path / "grids").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--teacher is needed with --data"),
        (["--teacher=no/such"], "no/such"),
        (["--teacher=digits"], "has learnt no condition that stands for none"),
        (["--teacher=digits", "--steps=1.5"], "whole numbers are needed"),
    ],
)
def test_what_can_not_be_run_is_refused(arguments, message, tmp_path, monkeypatch, capsys):
    given = ["few_steps", f"--output={tmp_path}", "--data=digits", "--features=pixels"]
    monkeypatch.setattr(sys, "argv", [*given, *arguments])
    with pytest.raises(SystemExit):
        few_steps.main()
    assert message in capsys.readouterr().err
