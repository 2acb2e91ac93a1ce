"""The benchmarks that judge and steer: they are right about what they are given."""

import argparse
import dataclasses
import gzip
import importlib.util
import json
import math
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import (
    cifar,
    cifar_picture,
    cifar_report,
    measuring,
    precision,
    profile,
    relations,
    schedule,
    turns,
)
from diffjax.files import images
from diffjax.runs import checks
from tests.runs.test_train import ROOT, load_config

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None,
    reason="matplotlib isn't installed: diffjax[plot]",
)


def python(name, code, **kwargs):
    return schedule.Step(name, ("-c", code), f"{name}/result", **kwargs)


def study(steps, tmp_path, gpus=("0", "1")):
    return schedule.Schedule(
        steps, {step.name: tmp_path / step.result for step in steps}, list(gpus)
    )


def writing(path, first="pass"):
    """Code that does something first, and then writes which GPUs it was given."""
    gpus = "os.environ['CUDA_VISIBLE_DEVICES']"
    return f"import os, pathlib; {first}; pathlib.Path({str(path)!r}).write_text({gpus})"


def _meeting(path, other):
    """Code that writes its result only once the other one has begun."""
    return f"""
import os, time
open({str(path.parent / "begun")!r}, "w").close()
deadline = time.time() + 60
while not os.path.exists({str(other.parent / "begun")!r}):
    assert time.time() < deadline
    time.sleep(0.05)
open({str(path)!r}, "w").close()
"""


class TestStudy:
    def test_steps_run_after_what_they_need_and_only_once(self, tmp_path, capsys):
        first, second = tmp_path / "first/result", tmp_path / "second/result"
        steps = [
            python(
                "second",
                writing(second, f"assert os.path.exists({str(first)!r})"),
                after=("first",),
            ),
            python("first", writing(first), gpus=2),
        ]
        runs = study(steps, tmp_path)
        runs.run(tmp_path)
        assert runs.failed == []
        assert first.read_text() == "0,1"
        assert second.read_text() in ("0", "1")
        capsys.readouterr()
        study(steps, tmp_path).run(tmp_path)
        assert "started" not in capsys.readouterr().out

    def test_numbers_of_gpus_count_among_those_that_are_visible(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-ab")
        path = tmp_path / "both/result"
        study([python("both", writing(path), gpus=2)], tmp_path).run(tmp_path)
        assert path.read_text() == "4,GPU-ab"
        for gpus in (("2",), ("0", "GPU-ab")):
            with pytest.raises(SystemExit, match=r"--gpus=.*CUDA_VISIBLE_DEVICES=4,GPU-ab has no"):
                study([], tmp_path, gpus)

    def test_each_step_has_its_share_of_the_cores(self, tmp_path, monkeypatch):
        monkeypatch.setattr(turns.os, "cpu_count", lambda: 32)
        monkeypatch.setenv("MKL_NUM_THREADS", "7")
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        names = [f"{each}_NUM_THREADS" for each in ("OMP", "OPENBLAS", "MKL")]
        code = f"import os; open('{{}}', 'w').write(' '.join(map(os.environ.get, {names})))"
        weights = {"shared": 0.25, "whole": 1.0, "both": 1.0}
        steps = [
            python(name, code.format(tmp_path / name / "result"), weight=weight)
            for name, weight in weights.items()
        ]
        steps[-1] = dataclasses.replace(steps[-1], gpus=2)
        study(steps, tmp_path).run(tmp_path)
        found = {name: (tmp_path / name / "result").read_text() for name in weights}
        assert found == {"shared": "4 4 7", "whole": "16 16 7", "both": "32 32 7"}
        assert turns.threads(0.001)["OMP_NUM_THREADS"] == "1"

    def test_a_failure_is_named_and_what_needs_it_is_not_run(self, tmp_path, capsys):
        steps = [
            python("bad", "raise SystemExit('the reason')"),
            python("next", "pass", after=("bad",)),
        ]
        runs = study(steps, tmp_path)
        runs.run(tmp_path)
        assert runs.failed == ["bad"]
        out = capsys.readouterr().out
        assert "the reason" in out
        assert "next: not run; it needs bad" in out

    def test_light_steps_share_a_gpu_and_heavy_ones_wait(self, tmp_path):
        a, b, c = (tmp_path / name / "result" for name in "abc")
        both = [str(a), str(b)]

        steps = [
            python("a", _meeting(a, b), weight=0.5),
            python("b", _meeting(b, a), weight=0.5),
            python("c", writing(c, f"assert all(map(os.path.exists, {both}))"), weight=0.7),
        ]
        runs = study(steps, tmp_path, gpus=["0"])
        runs.run(tmp_path)
        assert runs.failed == []
        assert c.read_text() == "0"

    @pytest.mark.parametrize("whole", [False, True])
    def test_steps_spread_unless_a_heavier_one_waits(self, tmp_path, whole):
        a, b, c = (tmp_path / name / "result" for name in "abc")
        both = [str(a), str(b)]
        steps = [python(name, writing(path), weight=0.5) for name, path in (("a", a), ("b", b))]
        if whole:
            steps.append(python("c", writing(c, f"assert all(map(os.path.exists, {both}))")))
            steps[-1] = dataclasses.replace(steps[-1], after=("a", "b"))
        study(steps, tmp_path).run(tmp_path)
        assert [a.read_text(), b.read_text()] == (["0", "0"] if whole else ["0", "1"])

    def test_at_the_end_of_time_steps_are_told_to_stop(self, tmp_path, capsys):
        code = (
            "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); time.sleep(10**6)"
        )
        study([python("long", code)], tmp_path).run(tmp_path, seconds=2.0)
        assert "long: stopped; the same command goes on" in capsys.readouterr().out

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_that_ends_the_program_stops_its_steps_first(self, tmp_path, capsys, number):
        begun = tmp_path / "begun"
        code = (
            "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); "
            f"open({str(begun)!r}, 'w').close(); time.sleep(10**6)"
        )
        runs = study([python("long", code)], tmp_path)

        def strike():
            while not begun.exists():
                time.sleep(0.05)
            os.kill(os.getpid(), number)

        before = signal.getsignal(signal.SIGTERM)
        interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs ignore it
        thread = threading.Thread(target=strike)
        thread.start()
        try:
            with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt):
                runs.run(tmp_path)
        finally:
            signal.signal(signal.SIGINT, interrupted)
        thread.join()
        assert "long: stopped; the same command goes on" in capsys.readouterr().out
        assert signal.getsignal(signal.SIGTERM) == before


def test_a_whole_name_is_one_step_and_the_beginning_of_one_all_that_begin_so():
    every = [python(name, "") for name in ("run", "run_distance", "sweep_a", "sweep_b", "other")]
    names = [step.name for step in cifar.chosen(every, ["run", "sweep"])]
    assert names == ["run", "sweep_a", "sweep_b"]


def test_a_student_that_goes_further_starts_from_itself():
    steps = {step.name: step for step in cifar.steps(Path("/d"), Path("/o"), gpus=3)}
    student = "sid_alpha1.2"
    for before, name in (
        (student, f"{student}_further"),
        (f"{student}_further", f"{student}_annealed"),
    ):
        step = steps[name]
        assert (step.gpus, step.after[-1]) == (3, before)
        assert f"--config.generator.initial=/o/{before}/network" in step.arguments
        assert "--config.teacher=/o/teacher_small/network" in step.arguments
        decays = any("decay_kimg" in argument for argument in step.arguments)
        assert decays == name.endswith("annealed")


def test_a_study_with_a_teacher_of_its_own_trains_none_for_the_students():
    steps = list(cifar.steps(Path("/d"), Path("/o"), teacher=Path("/mine")))
    students = [s for s in steps if s.name.startswith(("sid_", "diff_"))]
    assert len(students) == 10
    for step in students:
        assert "--config.teacher=/mine" in step.arguments
        assert "teacher_small" not in step.after


def test_the_study_changes_fields_that_are_there_to_allowed_values():
    for step in cifar.steps(Path("/data.zip"), Path("/output")):
        configs = [a for a in step.arguments if a.startswith("--config=")]
        if not configs:
            continue
        config = load_config(Path(configs[0].partition("=")[2]).stem)
        for argument in step.arguments:
            if argument.startswith("--config."):
                field, _, value = argument.removeprefix("--config.").partition("=")
                group, _, name = field.rpartition(".")
                owner = config[group] if group else config
                kind = type(owner[name])
                owner[name] = eval(value) if kind is tuple else kind(value)
        checks.check(config)


class TestReport:
    @pytest.fixture
    def output(self, tmp_path):
        """Curves that are exact powers: SiD's reaches 10 at 4 million images, the other's never."""
        (tmp_path / "teacher_small").mkdir()
        (tmp_path / "teacher_small/evaluation_student.json").write_text('{"fd_x_50k": 10.0}')
        for name, slope in (("sid_alpha1.2", -0.5), ("diff_instruct", -0.25)):
            (tmp_path / name).mkdir()
            rows = [
                {"step": k, "kimg": 250.0 * k, "fd_x_50k": 40 * (250 * k / 250) ** slope}
                for k in (1, 2, 4, 8)
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / name / "metrics.jsonl").write_text(text)
        return tmp_path

    def test_fit(self, output):
        line = cifar_report.fit(cifar_report.curve_of(output / "sid_alpha1.2"))
        assert line.slope == pytest.approx(-0.5)
        assert line.r2 == pytest.approx(1)
        assert line.images_at(10) == pytest.approx(4e6)
        assert cifar_report.Fit(0.1, 1.0, 1.0).images_at(1.0) == math.inf
        assert cifar_report.fit([(1.0, 2.0), (2.0, 1.0)]) is None

    def test_r2_of_scatter(self):
        rng = np.random.default_rng(0)
        curve = [(float(k), float(np.exp(0.05 * rng.standard_normal()))) for k in range(1, 200)]
        assert len(cifar_report.fitted(curve)) == 199
        assert abs(cifar_report.fit(curve).r2) < 0.1

    def test_a_fit_ends_where_training_broke_down(self):
        curve = [(100.0, 40.0), (200.0, 20.0), (400.0, 10.0), (800.0, 90.0), (1600.0, 5.0)]
        assert cifar_report.fitted(curve, skip_kimg=100.0) == curve[1:3]
        assert cifar_report.fit(curve).slope == pytest.approx(-1)

    def test_tables(self, output):
        text = cifar_report.report(output, 0.0)
        row = "| SiD, alpha 1.2 | 250,000 to 2,000,000 | -0.500 | 1.000 | 4,000,000 |"
        assert row in text
        # Diff-Instruct ends at 40 * 8 ** -0.25 = 23.8; SiD's 28.3 at 500 and 20 at 1000 thousand.
        assert "Diff-Instruct's best is 23.78, at 2,000 thousand images." in text
        assert "SiD, alpha 1.2 is there at 1,000 thousand." in text

    @staticmethod
    def go_further(output):
        for stage, rows in (
            ("further", [{"kimg": 250.0, "fd_x_50k": 11.0}, {"kimg": 500.0, "fd_x_50k": 12.0}]),
            ("annealed", [{"kimg": 250.0, "fd_x_50k": 9.0}]),
        ):
            folder = output / f"sid_alpha1.2_{stage}"
            folder.mkdir()
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def test_runs_that_go_further_count_on(self, output):
        assert cifar_report.later_curves(output, "sid_alpha1.2") == {}
        self.go_further(output)
        first, second = cifar_report.later_curves(output, "sid_alpha1.2").values()
        assert (first, second) == ([(2250, 11.0), (2500, 12.0)], [(2750, 9.0)])
        text = cifar_report.report(output, 0.0)
        assert "begun anew: 11.00 at 2,250,000, 12.00 at 2,500,000." in text
        assert "falling to 0: 9.00 at 2,750,000." in text
        assert text.count("It is at the teacher's distance") == 1
        assert "It is at the teacher's distance at 2,750,000 images." in text

    @needs_matplotlib
    def test_plot(self, output):
        self.go_further(output)
        figure = cifar_report.plot(output, 0.0)
        (axes,) = figure.axes
        assert axes.get_xlabel() == "generated images, thousands"
        assert axes.get_ylabel() == "fd_efficientnet_lite0_50k"
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")

        sid, diff_instruct = "SiD, alpha 1.2", "Diff-Instruct"
        points = {x.get_label(): x for x in axes.lines if x.get_marker() in "o^"}
        later = [f"{sid}, {stage}" for stage in cifar_report.LATER.values()]
        assert points.keys() == {sid, diff_instruct, *later}
        kimg = np.array([250, 500, 1000, 2000])
        for title, slope in ((sid, -0.5), (diff_instruct, -0.25)):
            xy = np.stack([kimg, 40 * (kimg / 250) ** slope], axis=1)
            np.testing.assert_allclose(points[title].get_xydata(), xy)
        shown = [points[label] for label in later]
        assert shown[0].get_xydata().tolist() == [[2250, 11], [2500, 12]]
        assert shown[1].get_xydata().tolist() == [[2750, 9]]
        assert [x.get_marker() for x in shown] == ["o", "^"]
        for x in shown:
            assert (x.get_color(), x.get_fillstyle()) == (points[sid].get_color(), "none")

        # Fits of exact powers go through the points; SiD's goes on to the teacher's distance.
        fits = {
            (x.get_color(), x.get_linestyle()): x for x in axes.lines if x.get_marker() not in "o^"
        }
        for title in (sid, diff_instruct):
            line, through = fits.pop((points[title].get_color(), "-")), points[title]
            np.testing.assert_allclose(line.get_xydata(), through.get_xydata())
        beyond = fits.pop((points[sid].get_color(), ":")).get_xydata()
        np.testing.assert_allclose(beyond, [[2000, 40 / 8**0.5], [4000, 10]])
        (teacher,) = fits.values()
        assert set(teacher.get_ydata()) == {10}
        (legend,) = figure.legends
        shown = {text.get_text() for text in legend.get_texts()}
        assert shown == {*points, "teacher, 35 evaluations"}

    @needs_matplotlib
    def test_the_plot_is_written_where_asked(self, output, monkeypatch, capsys):
        path = output / "docs" / "curves.png"
        arguments = ["cifar_report", f"--output={output}", f"--plot={path}"]
        monkeypatch.setattr(sys, "argv", arguments)
        cifar_report.main()
        assert Image.open(path).size == (900, 600)
        assert "| Diff-Instruct |" in capsys.readouterr().out

    def test_times_of_a_run_add_up(self, output):
        rows = [
            {"kimg": 10.0, "first_call_seconds": 60.0, "peak_memory_gib": 3.0},
            {"kimg": 20.0, "images_per_second": 1000.0, "peak_memory_gib": 3.0},
            {"kimg": 20.0, "evaluation_seconds": 7.0},
            {"kimg": 40.0, "images_per_second": 2000.0, "peak_memory_gib": 3.0},
            # Another start of the same run.
            {"kimg": 50.0, "first_call_seconds": 20.0, "peak_memory_gib": 3.0},
        ]
        (output / "sid_alpha1.2" / "timing.jsonl").write_text("\n".join(map(json.dumps, rows)))
        assert cifar_report.times(output / "sid_alpha1.2") == (80, 20, 7, 50_000)
        row = "| sid_alpha1.2 | 50,000 | 80 | 20 | 7 | 3.0 |"
        assert row in cifar_report.report(output, 0.0)

    def test_timing_is_the_median_of_what_was_written(self, output):
        rows = [
            {"step": 1, "first_call_seconds": 9.0},
            *({"images_per_second": r} for r in (1, 5, 6)),
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (output / "diff_instruct" / "timing.jsonl").write_text(lines)
        assert cifar_report.timing_of(output / "diff_instruct", "images_per_second") == 5
        assert math.isnan(cifar_report.timing_of(output / "sid_alpha1.2", "peak_memory_gib"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("fake_score.evry=2", r"--set fake_score\.evry=2: config\.fake_score\.evry is missing"),
        ("fake_score.every=two", r"--set fake_score\.every=two: "),
        ("fake_score.every", r"--set fake_score\.every: "),
        ("fake_score.every=0", r"config\.fake_score\.every=0: a whole number"),
    ],
)
def test_a_change_that_is_wrong_ends_in_one_line(change, message):
    parser = argparse.ArgumentParser()
    measuring.add_arguments(parser)
    path = ROOT / "configs/sid_digits.py"
    with pytest.raises(SystemExit, match=f"^error: {message}") as caught:
        measuring.config_of(parser.parse_args([f"--config={path}", "--set", change]))
    assert "\n" not in str(caught.value)


def test_differences_are_relative_to_what_a_curve_is_like():
    theirs = np.array([1.0, -1.0, 1.0, -1.0])
    np.testing.assert_allclose(precision.difference(theirs + 0.1, theirs, 2), 0.1)
    np.testing.assert_allclose(precision.difference(2 * theirs, theirs, 1), 1.0)
    assert len(precision.difference(theirs, theirs, 3)) == 2


def test_kernels_are_sorted_into_kinds(tmp_path):
    def title(pid, name, tid=0, kind="process_name"):
        return {"ph": "M", "pid": pid, "tid": tid, "name": kind, "args": {"name": name}}

    def kernel(name, milliseconds, pid=1, tid=7):
        return {"ph": "X", "pid": pid, "tid": tid, "name": name, "dur": milliseconds * 1e3}

    events = [
        title(1, "/device:GPU:0"),
        title(2, "/device:GPU:1"),
        title(3, "/host:CPU"),
        title(1, "Stream #7(Compute)", 7, "thread_name"),
        title(1, "XLA Ops", 8, "thread_name"),
        title(2, "Stream #7(Compute)", 7, "thread_name"),
        kernel("sm90_xmma_fprop_implicit_gemm_bf16", 5),
        kernel("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7", 3),
        kernel("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_30", 3),
        kernel("void cudnn::fusion::compute_dot_do_o_specialized<true, 128>(Params)", 1),
        kernel("_ZN5cudnn6fusion20convert_dq_to_16bitsILb1EEEvNS0_6ParamsE", 1),
        kernel("fmha_dgrad_v2_flash_attention_bf16_S_128_64_sm80_kernel", 1),
        kernel("input_reduce_fusion_12", 2),
        kernel("loop_add_fusion", 1),
        kernel("something_else_3", 4),
        kernel("something_else_3", 4, tid=8),
        kernel("loop_add_fusion", 9, pid=2),
        kernel("python", 9, pid=3),
    ]
    folder = tmp_path / "plugins" / "profile"
    folder.mkdir(parents=True)
    (folder / "host.trace.json.gz").write_bytes(
        gzip.compress(json.dumps({"traceEvents": events}).encode())
    )
    kinds = profile.by_kind(profile.kernel_seconds(tmp_path))
    assert kinds == Counter(
        {
            "matrix products and attention": pytest.approx(0.009),
            "convolutions, forward": pytest.approx(0.005),
            "something_else": pytest.approx(0.004),
            "fusions that end in reductions": pytest.approx(0.002),
            "other elementwise fusions": pytest.approx(0.001),
        }
    )
    with pytest.raises(FileNotFoundError, match="profile something first"):
        profile.kernel_seconds(tmp_path / "plugins" / "nothing")


class TestCifarPicture:
    @pytest.fixture
    def study(self, tmp_path):
        """Grids of 8 x 8 images, each of one colour that tells its place and its run."""
        self.tiles = {}
        for run, (name, kimg) in enumerate(
            [("sid_alpha1.2", 512), ("sid_alpha1.2_further", 128), ("diff_instruct", 512)]
        ):
            tiles = np.zeros((64, 32, 32, 3), np.uint8)
            tiles[..., 0], tiles[..., 1] = np.arange(64)[:, None, None], run
            self.tiles[name] = tiles
            (tmp_path / name).mkdir()
            (tmp_path / name / "metrics.jsonl").write_text(f'{{"kimg": {kimg}, "fd_x_50k": 9.0}}\n')
            for shown, when in ((tiles * 0, kimg // 2), (tiles, kimg)):
                grid = images.grid(shown, columns=8, padding=2)
                images.save_png(tmp_path / name / "samples" / f"samples_{when:06d}.png", grid)
        return tmp_path

    def test_a_panel_is_of_the_last_grid_of_the_last_run(self, study):
        caption, tiles = cifar_picture.student_panel(study, "sid_alpha1.2", 8, 32)
        assert caption == "SiD, alpha 1.2, one evaluation,\nafter 640,000 images"
        np.testing.assert_array_equal(
            tiles, self.tiles["sid_alpha1.2_further"][: 8 * cifar_picture.ROWS]
        )
        caption, tiles = cifar_picture.student_panel(study, "diff_instruct", 8, 32)
        assert "after 512,000" in caption
        np.testing.assert_array_equal(tiles, self.tiles["diff_instruct"][: 8 * cifar_picture.ROWS])

    def test_a_run_without_a_grid_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"run has no samples/samples_\*\.png"):
            cifar_picture.last_grid(tmp_path / "run", 8, 6, 32)


@needs_matplotlib
def test_the_figures_of_how_methods_relate(tmp_path):
    relations.draw_gans(tmp_path / "new" / "gans.png")
    relations.draw_points(tmp_path / "points.png")
    for path in (tmp_path / "new" / "gans.png", tmp_path / "points.png"):
        picture = np.asarray(Image.open(path).convert("L"))
        assert picture.shape[1] > 400
        assert picture.std() > 5
