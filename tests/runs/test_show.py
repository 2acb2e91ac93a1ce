"""`--mode=show`: what a config resolves to, and who set it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffjax.runs import bases, show
from tests.runs.test_configs import NAMES, as_it_was, changed, fields, load

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command, where an accelerator that is asked for is an error."""
    return subprocess.run(
        [sys.executable, "-m", "diffjax.main", "--mode=show", *arguments],
        cwd=cwd,
        env={**os.environ, "JAX_PLATFORMS": "no_such_platform"},
        capture_output=True,
        text=True,
        check=False,
    )


def as_json(*arguments: str, cwd: Path = ROOT) -> dict[str, list]:
    result = run(*arguments, "--format=json", cwd=cwd)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout, parse_constant=pytest.fail)


@pytest.mark.parametrize("name", NAMES)
def test_all_fields_are_shown(name):
    shown = show.fields(load(name))
    assert {field: shown[field].value for field in shown} == bases.flat(load(name).to_dict())
    base = bases.fields(load(name).method)
    ours = [field for field in shown if not field.startswith("edm2.")]  # which few configs have
    assert ours == list(base)
    for field, (value, origin) in shown.items():
        is_of_base = field in base and value == base[field]
        assert origin == ("base" if is_of_base else "file"), field


def test_who_set_what():
    config = changed("sid_digits", seed=7, heun__steps=9)
    given = ["seed", "mesh.fsdp", "grid"]
    shown = show.fields(config, given)
    assert shown["seed"] == (7, "command line")
    assert shown["mesh.fsdp"] == (1, "command line")  # though that is its base's value
    assert shown["grid.columns"] == (10, "command line")  # with its group
    assert shown["grid_kimg"] == (12.8, "file")
    assert shown["heun.steps"] == (9, "file")
    assert shown["heun.s_max"] == (float("inf"), "base")
    assert shown["evaluate.metrics"] == (("fd", "precision", "recall"), "file")


@pytest.mark.parametrize("name", ["sid_digits", "teacher_digits", "di_cifar"])
def test_a_config_that_has_no_base(name):
    own, over_a_base = show.fields(as_it_was(name)), show.fields(load(name))
    extra = {"image_shape", "label_dim"} & set(own)
    assert "task" not in own
    assert {field: own[field] for field in over_a_base} == over_a_base
    assert set(own) - set(over_a_base) == extra
    assert {own[field].origin for field in extra} <= {"file"}


def test_fields_are_checked_first():
    with pytest.raises(ValueError, match=r"config\.alpha=nan: a finite number"):
        show.fields(changed("sid_digits", alpha=float("nan")))
    with pytest.raises(ValueError, match=r"config\.task='x' is unknown"):
        show.fields(changed("sid_digits", as_it_was, task="x"))


def test_text_is_one_field_a_line(capsys):
    show.show(load("sid_digits"), ["seed"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(fields(load("sid_digits")))
    as_pairs = [tuple(part.strip() for part in line.split("  # ")) for line in lines]
    assert as_pairs[:2] == [("method = 'sid'", "base"), ("teacher = 'digits'", "file")]
    assert ("seed = 0", "command line") in as_pairs
    assert ("heun.s_max = inf", "base") in as_pairs
    assert ("evaluate.metrics = ('fd', 'precision', 'recall')", "file") in as_pairs
    assert len({line.index("  # ") for line in lines}) == 1


def test_the_command_prints_one_json_object_and_touches_nothing(tmp_path):
    found = as_json(
        f"--config={ROOT}/configs/sid_imagenet64.py",
        "--config.batch_size=128",
        "--config.evaluate.metrics=('fid','is')",
        "--config.heun.s_max=inf",
        "--noconfig.deterministic",
        f"--workdir={tmp_path}/run",
        cwd=tmp_path,
    )
    assert found["batch_size"] == [128, "command line"]
    assert found["evaluate.metrics"] == [["fid", "is"], "command line"]
    assert found["heun.s_max"] == ["inf", "command line"]
    assert found["heun.s_min"] == [0.05, "file"]
    assert found["deterministic"] == [False, "command line"]
    assert found["seed"] == [0, "base"]
    assert list(found) == list(bases.fields("sid"))
    assert list(tmp_path.iterdir()) == []


def test_the_command_shows_a_file_of_a_users_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "inf = float('inf')\n"
        f"def get_config():\n    return ConfigDict({as_it_was('teacher_digits').to_dict()!r})\n"
    )
    found = as_json(f"--config={path}", cwd=tmp_path)
    assert found["method"] == ["denoising", "base"]
    assert found["network.channel_mult"] == [[1, 2], "file"]
    assert found["heun.s_max"] == ["inf", "base"]


def test_the_command_prints_text_and_tells_mistakes():
    result = run("--config=configs/sid_cifar.py")
    assert (result.returncode, result.stderr) == (0, "")
    assert "dropout = 0.13" in result.stdout
    wrong = run("--config=configs/sid_cifar.py", "--config.alpha=nan")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == "error: config.alpha=nan: a finite number is needed.\n"


def test_a_rate_is_a_number_or_a_word():
    flags = ["--config.generator.learning_rate=auto", "--config.fake_score.learning_rate=3e-4"]
    shown = as_json("--config=configs/sid_digits.py", *flags)
    assert shown["generator.learning_rate"] == ["auto", "command line"]
    assert shown["fake_score.learning_rate"] == [3e-4, "command line"]
