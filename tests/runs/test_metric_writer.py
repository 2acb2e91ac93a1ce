"""A metric writer of the user's: what it gets, and that it can't make a run fail."""

import json
import sys
import types

import numpy as np
import pytest

from diffjax.runs import bases, checks, metric_writer, saved_config, user_function
from diffjax.runs.logger import RunLogger

PICTURE = np.zeros((3, 4, 1), np.uint8)


class Writer:
    """The interface of clu.metric_writers, as far as it is used, which may fail at a method."""

    def __init__(self, fails_at: str = "") -> None:
        self.calls, self.fails_at = [], fails_at

    def __getattr__(self, method):
        if method not in ("write_scalars", "write_images", "flush", "close"):
            raise AttributeError(method)

        def call(*arguments):
            self.calls.append((method, *arguments))
            if method == self.fails_at:
                raise ConnectionError("no\nnetwork")

        return call


@pytest.fixture
def module(monkeypatch):
    """A module of the user's, by the name of my_writer."""
    made = types.ModuleType("my_writer")
    monkeypatch.setitem(sys.modules, "my_writer", made)
    return made


def write(folder, writer, capsys):
    with RunLogger(folder, total_kimg=1.0, writer=writer) as logger:
        for step in (1, 2):
            logger.write_scalars(step, step / 10, {"loss": float("nan")}, {"seconds": 2.0})
            logger.write_image(step, step / 10, "samples", PICTURE)
    return [line for line in capsys.readouterr().out.splitlines() if "writer" in line]


def test_it_gets_all_numbers_and_pictures(tmp_path, capsys):
    writer = Writer()
    assert write(tmp_path, writer, capsys) == []
    methods = [call[0] for call in writer.calls]
    assert methods == ["write_scalars", "write_scalars", "write_images"] * 2 + ["flush", "close"]
    _, step, numbers = writer.calls[0]
    assert step == 1
    assert np.isnan(numbers["loss"])
    assert writer.calls[1] == ("write_scalars", 1, {"seconds": 2.0})
    _, step, pictures = writer.calls[2]
    assert (step, pictures["samples"].shape) == (1, (1, 3, 4, 1))


@pytest.mark.parametrize("method", ["write_scalars", "write_images", "flush", "close"])
def test_what_fails_is_told_once_and_the_files_have_all(tmp_path, capsys, method):
    writer = Writer(fails_at=method)
    (line,) = write(tmp_path / "failing", writer, capsys)
    assert f"warning: the metric writer's {method} fails with ConnectionError: no network" in line
    assert [call[0] for call in writer.calls].count(method) == 1
    assert write(tmp_path / "without", None, capsys) == []
    for name in ("metrics.jsonl", "timing.jsonl", "samples/samples_000000.png"):
        without = (tmp_path / "without" / name).read_bytes()
        assert (tmp_path / "failing" / name).read_bytes() == without


def test_the_function_gets_the_folder_and_the_config(module):
    module.make = lambda *arguments: setattr(module, "got", arguments) or Writer()
    assert isinstance(metric_writer.make("my_writer:make", "runs/x", {"seed": 3}), Writer)
    assert module.got == ("runs/x", {"seed": 3})
    assert metric_writer.make("", "runs/x", {}) is None


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda workdir: None, r"fails with TypeError"),
        (lambda workdir, config: config["x"], r"fails with KeyError: 'x'"),
        (lambda workdir, config: None, r"returned NoneType, which lacks write_scalars, write_im"),
    ],
)
def test_one_that_cant_be_is_refused_in_a_line(module, function, said):
    module.make = function
    with pytest.raises(user_function.RefusedError, match=said) as caught:
        metric_writer.make("my_writer:make", "runs/x", {})
    assert str(caught.value).startswith("config.metric_writer='my_writer:make' ")
    assert "\n" not in str(caught.value)
    with pytest.raises(user_function.RefusedError, match="no_such"):
        metric_writer.load("my_writer:no_such")


def test_the_field_is_checked_and_earlier_runs_go_on(tmp_path):
    config = bases.distillation("sid")
    config.teacher = "digits"
    config.metric_writer = "not a function"
    with pytest.raises(ValueError, match=r"config.metric_writer='not a function': a function"):
        checks.check(config)
    config.metric_writer = ""
    saved_config.save(tmp_path, config)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["metric_writer"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert saved_config.load(tmp_path).metric_writer == ""
    config.metric_writer = "my_writer:make"
    saved_config.check_unchanged(tmp_path, config)
