import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from diffjax.files.progress import ProgressLine, format_seconds
from diffjax.runs.logger import RunLogger, read_scalars


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """What a person sees: a carriage return and an erased line start the line anew."""
        return [line.split("\x1b[K")[-1] for line in self.getvalue().split("\n")]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def logger(workdir: Path, **kwargs: Any) -> RunLogger:
    return RunLogger(workdir, total_kimg=10, **{"stream": io.StringIO(), **kwargs})


def events(workdir: Path) -> Iterator[event_pb2.Event]:
    """Reads TensorBoard's files: length [8], checksum [4], event [length], checksum [4]."""
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            yield event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


class TestFiles:
    def test_one_json_object_a_line(self, tmp_path: Path) -> None:
        with logger(tmp_path) as log:
            log.write_scalars(5, 0.32, {"fake_loss": 0.1, "count": 3}, {"img_per_s": 12.5})
            log.write_scalars(10, 0.64, {"fake_loss": jnp.float32(0.1)})
        assert (tmp_path / "metrics.jsonl").read_text() == (
            '{"step": 5, "kimg": 0.32, "fake_loss": 0.1, "count": 3}\n'
            '{"step": 10, "kimg": 0.64, "fake_loss": 0.10000000149011612}\n'
        )
        assert (tmp_path / "timing.jsonl").read_text() == (
            '{"step": 5, "kimg": 0.32, "img_per_s": 12.5}\n'
        )

    def test_no_float_loses_precision(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        doubles = rng.standard_normal(100) * 10.0 ** rng.integers(-30, 30, 100)
        values: dict[str, Any] = {f"d{i}": x for i, x in enumerate(doubles)}
        values |= {f"f{i}": np.float32(x) for i, x in enumerate(doubles)}
        values["b"] = jnp.bfloat16(0.3)
        with logger(tmp_path) as log:
            log.write_scalars(1, 1 / 3, values)
        (line,) = read_scalars(tmp_path / "metrics.jsonl")
        assert line == {"step": 1, "kimg": 1 / 3, **{k: float(v) for k, v in values.items()}}

    def test_non_finite_numbers_are_valid_json(self, tmp_path: Path) -> None:
        values = {"a": float("nan"), "b": float("inf"), "c": jnp.float32(-jnp.inf)}
        with logger(tmp_path) as log:
            log.write_scalars(1, 0.0, values)
        text = (tmp_path / "metrics.jsonl").read_text()
        strict = json.loads(text, parse_constant=lambda name: pytest.fail(name))
        assert strict == {"step": 1, "kimg": 0.0, "a": "nan", "b": "inf", "c": "-inf"}
        (line,) = read_scalars(tmp_path / "metrics.jsonl")
        assert np.isnan(line["a"])
        assert (line["b"], line["c"]) == (float("inf"), -float("inf"))

    def test_a_line_is_there_at_once(self, tmp_path: Path) -> None:
        log = logger(tmp_path)
        log.write_scalars(1, 0.1, {"a": 1.0}, {"b": 2.0})
        assert len(read_scalars(tmp_path / "metrics.jsonl")) == 1
        assert len(read_scalars(tmp_path / "timing.jsonl")) == 1
        log.close()

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"loss": np.zeros(2)}, r"loss is float64 \[2\]: one number"),
            ({"loss": "low"}, "loss is <U3"),
            ({"step": 1.0}, "can't be called step"),
        ],
    )
    def test_what_is_no_scalar_is_refused(
        self, tmp_path: Path, values: dict[str, Any], message: str
    ) -> None:
        with logger(tmp_path) as log, pytest.raises(ValueError, match=message):
            log.write_scalars(1, 0.1, values)
        assert (tmp_path / "metrics.jsonl").read_text() == ""

    def test_other_processes_write_nothing(self, tmp_path: Path) -> None:
        stream = io.StringIO()
        with logger(tmp_path / "w", is_main=False, stream=stream) as log:
            log.compiling()
            log.write_scalars(1, 0.1, {"a": 1.0}, {"b": 1.0})
            log.write_image(1, 0.1, "samples", np.zeros((2, 2, 1), np.uint8))
            log.progress(1, 0.1, {"a": 1.0})
            log.note("hello")
            with log.paused():
                pass
        assert list(tmp_path.iterdir()) == []
        assert stream.getvalue() == ""

    def test_url_is_refused(self) -> None:
        with pytest.raises(ValueError, match="gs://bucket/run is a URL"):
            RunLogger("gs://bucket/run", total_kimg=1)


class TestResume:
    @staticmethod
    def write(workdir: Path, steps: range, resume_step: int | None) -> None:
        with logger(workdir, resume_step=resume_step) as log:
            for step in steps:
                log.write_scalars(step, step / 100, {"loss": 1 / (step + 3)}, {"rate": step * 2.0})

    @pytest.mark.parametrize("torn", ["", '{"step": 8, "kimg"', '{"step": 8', "\xff", "{}"])
    def test_equals_an_undisturbed_run(self, tmp_path: Path, torn: str) -> None:
        self.write(tmp_path / "whole", range(1, 13), None)
        self.write(tmp_path / "cut", range(1, 8), None)
        for name in ("metrics.jsonl", "timing.jsonl"):
            with (tmp_path / "cut" / name).open("a", encoding="latin-1") as file:
                file.write(torn)
        self.write(tmp_path / "cut", range(6, 13), 5)  # the checkpoint was of step 5
        for name in ("metrics.jsonl", "timing.jsonl"):
            whole = (tmp_path / "whole" / name).read_bytes()
            assert (tmp_path / "cut" / name).read_bytes() == whole
            assert len(whole.splitlines()) == 12

    def test_afresh_drops_the_earlier_run(self, tmp_path: Path) -> None:
        self.write(tmp_path, range(0, 5), None)
        self.write(tmp_path, range(0, 2), None)
        assert [line["step"] for line in read_scalars(tmp_path / "metrics.jsonl")] == [0, 1]

    def test_resuming_at_zero_keeps_the_line_of_step_zero(self, tmp_path: Path) -> None:
        self.write(tmp_path, range(0, 5), None)
        self.write(tmp_path, range(1, 3), 0)
        steps = [line["step"] for line in read_scalars(tmp_path / "metrics.jsonl")]
        assert steps == [0, 1, 2]

    def test_a_measurement_that_comes_again_stands_once(self, tmp_path: Path) -> None:
        """A run that was told to stop measures after it goes on, and is killed before it saves."""
        for killed in (True, False):
            with logger(tmp_path, resume_step=None if killed else 1) as log:
                if killed:
                    log.write_scalars(1, 0.1, {"loss": 0.5})
                log.write_scalars(1, 0.1, {"distance": 2.0})
        names = [tuple(line)[2:] for line in read_scalars(tmp_path / "metrics.jsonl")]
        assert names == [("loss",), ("distance",)]

    def test_a_damaged_line_is_named(self, tmp_path: Path) -> None:
        self.write(tmp_path, range(1, 4), None)
        path = tmp_path / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text(lines[0] + "what?\n" + lines[2])
        before = path.read_bytes()
        with pytest.raises(ValueError, match=r"line 2 of .*metrics\.jsonl"):
            logger(tmp_path, resume_step=2)
        assert path.read_bytes() == before

    def test_tensorboard_is_told_to_forget_later_steps(self, tmp_path: Path) -> None:
        self.write(tmp_path, range(6, 8), 5)
        starts = [e for e in events(tmp_path) if e.HasField("session_log")]
        assert [(e.step, e.session_log.status) for e in starts] == [(6, 1)]  # 1 is START


class TestTensorBoard:
    def test_scalars_and_images(self, tmp_path: Path) -> None:
        picture = np.random.RandomState(0).randint(0, 256, (6, 5, 1)).astype(np.uint8)
        with logger(tmp_path) as log:
            log.write_scalars(3, 0.5, {"loss": 0.25}, {"rate": 8.0})
            log.write_image(3, 12.9, "samples", picture)
        found = {v.tag: (e.step, v) for e in events(tmp_path) for v in e.summary.value}
        assert found["loss"][0] == 3
        assert found["loss"][1].simple_value == 0.25
        assert found["rate"][1].simple_value == 8.0
        step, value = found["samples"]
        assert step == 3
        png = Image.open(io.BytesIO(value.image.encoded_image_string)).convert("L")
        np.testing.assert_array_equal(np.asarray(png), picture[..., 0])
        with Image.open(tmp_path / "samples" / "samples_000012.png") as png:
            np.testing.assert_array_equal(np.asarray(png), picture[..., 0])

    def test_pictures_of_one_thousand_images_stand_beside_each_other(self, tmp_path: Path) -> None:
        def names() -> list[str]:
            return sorted(path.name for path in (tmp_path / "samples").iterdir())

        for _ in range(2):  # of a run, and of it again
            for step, kimg in ((1, 12.0), (2, 12.032), (3, 12.5), (4, 13.0)):
                with logger(tmp_path) as log:
                    log.write_image(step, kimg, "samples", np.full((2, 2, 1), step, np.uint8))
            assert names() == [f"samples_0000{kimg}.png" for kimg in ("12.032", "12.500", 12, 13)]
        with Image.open(tmp_path / "samples" / "samples_000012.png") as png:
            assert np.asarray(png).max() == 1

    def test_needs_no_tensorflow_and_no_pytorch(self, tmp_path: Path) -> None:
        code = (
            "import sys, numpy as np\n"
            "sys.modules['tensorflow'] = sys.modules['torch'] = None\n"  # importing them fails
            "from diffjax.runs.logger import RunLogger\n"
            "log = RunLogger(sys.argv[1], total_kimg=1)\n"
            "log.write_scalars(1, 1, {'a': np.float32(1)})\n"
            "log.write_image(1, 1, 'a', np.zeros((2, 2, 3), np.uint8))\n"
            "log.close()\n"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
        assert sum(1 for _ in events(tmp_path)) >= 3

    def test_leaves_pytorch_alone_where_it_is_installed(self, tmp_path: Path) -> None:
        (tmp_path / "torch.py").write_text("Tensor = object\n")
        code = (
            "import sys, diffjax.runs.train\n"
            "assert 'torch' not in sys.modules\n"
            "import torch\n"
            "assert torch.Tensor is object\n"
        )
        path = os.pathsep.join([str(tmp_path), os.getcwd()])
        subprocess.run(
            [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path}
        )


class TestProgressLine:
    def test_first_update_is_not_timed(self) -> None:
        stream, clock = io.StringIO(), Clock()
        line = ProgressLine(100.0, stream=stream, interval=0, clock=clock)
        line.compiling()
        clock.now += 60  # compiling
        line.update(1, 1.0, {"fake": 0.5, "gen": -0.25, "|Δ|": 0.001234567})
        assert line.images_per_second is None
        clock.now += 2
        line.update(2, 2.0, {"fake": 0.5, "gen": -0.25, "|Δ|": 0.001234567})
        assert line.images_per_second == 500.0
        assert stream.getvalue().splitlines() == [
            "compiling ...",
            "  1.0%  step 1  kimg 1.0/100.0  fake 0.5  gen -0.25  |Δ| 0.001235",
            "  2.0%  step 2  kimg 2.0/100.0  500 img/s  3m 16s left"
            "  fake 0.5  gen -0.25  |Δ| 0.001235",
        ]

    def test_rate_is_a_moving_average_without_pauses(self) -> None:
        clock = Clock()
        line = ProgressLine(1e6, stream=io.StringIO(), interval=0, clock=clock)
        for step in range(30):  # 100 img/s
            line.update(step, step * 1.0, {})
            clock.now += 10
        assert line.images_per_second == pytest.approx(100)
        clock.now += 500  # an evaluation
        line.leave_out(500)
        for step in range(30, 50):  # 1000 img/s, for as long as the window
            line.update(step, step * 1.0, {})
            clock.now += 1
        assert line.images_per_second == pytest.approx(1000)

    def test_evaluation_is_shown_until_the_next(self) -> None:
        stream = io.StringIO()
        line = ProgressLine(10, stream=stream, interval=0)
        line.update(1, 1.0, {}, {"fid": 12.345678})
        line.update(2, 2.0, {})
        line.update(3, 3.0, {}, {"fid": 11.0})
        assert [text.split("  fid ")[1] for text in stream.getvalue().splitlines()] == [
            "12.35",
            "12.35",
            "11",
        ]

    def test_a_file_gets_a_line_every_interval_and_the_last(self) -> None:
        stream, clock = io.StringIO(), Clock()
        line = ProgressLine(10.0, stream=stream, interval=30, clock=clock)
        for step in range(11):
            line.update(step, float(step), {})
            clock.now += 12
        steps = [text.split()[2] for text in stream.getvalue().splitlines()]
        assert steps == ["0", "3", "6", "9", "10"]
        assert "\r" not in stream.getvalue()
        assert stream.getvalue().splitlines()[-1].startswith("100.0%")

    def test_a_terminal_shows_one_line_and_the_notes(self) -> None:
        stream = Terminal()
        line = ProgressLine(10.0, stream=stream, interval=1e9)
        line.compiling()
        line.update(1, 1.0, {"fake": 0.5})
        line.note("saved step 1")
        line.update(2, 2.0, {})
        line.update(3, 3.0, {})
        line.end()
        line.end()
        first, second, rest = stream.screen()
        assert first == "saved step 1"
        assert second.startswith(" 30.0%  step 3")
        assert rest == ""

    def test_a_narrow_terminal_is_not_overrun(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "30")
        stream = Terminal()
        line = ProgressLine(10.0, stream=stream, interval=0)
        line.update(1, 1.0, {f"loss{i}": 1.0 for i in range(9)})
        assert len(stream.screen()[-1]) == 29

    def test_a_stream_that_knows_ascii_only(self) -> None:
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        ProgressLine(10.0, stream=stream, interval=0).update(1, 1.0, {"|Δ|": 0.5})
        assert stream.buffer.getvalue().endswith(b"|?| 0.5\n")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.6, "1m 00s"), (61, "1m 01s"), (3599, "59m 59s"), (3725, "1h 02m 05s")],
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_run_logger_shows_progress_and_notes(tmp_path: Path) -> None:
    stream = io.StringIO()
    with logger(tmp_path, stream=stream, interval=0) as log:
        log.compiling()
        log.progress(1, 5.0, {"gen": 1.0}, {"fid": 3.0})
        log.note("checkpoint 1")
        with log.paused():
            pass
        log.progress(2, 10.0, {"gen": 1.0})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "compiling ..."
    assert lines[1] == " 50.0%  step 1  kimg 5.0/10.0  gen 1  fid 3"
    assert lines[2] == "checkpoint 1"
    assert lines[3].startswith("100.0%  step 2")
    log.close()
