import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffjax.convert import __main__ as command
from diffjax.convert import catalogue, edm, teacher
from diffjax.files import download
from diffjax.models import denoiser, network_folder
from tests.support import edm_cases, fabricate, golden_cases

ROOT = pathlib.Path(__file__).parents[2]
GENUINE = "edm_pickle_uncond"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "network.pkl"
    path.write_bytes(edm_cases.genuine_pickle(edm_cases.own(GENUINE)))
    return path


def run(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", "diffjax.convert", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def fail(capsys, source, output):
    """Runs a command that must fail in one line, and returns the line."""
    assert command.main([f"--source={source}", f"--output={output}"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    "name", golden_cases.cases("edm_pickle", precond=golden_cases.PRECONDS)[:1]
)
def test_the_command_writes_what_a_config_can_name(name, tmp_path):
    case = golden_cases.Case(name)
    source, output = tmp_path / "network.pkl", tmp_path / "teachers" / "small"
    source.write_bytes(edm_cases.genuine_pickle(case))
    result = run(f"--source={source}", f"--output={output}")
    assert result.returncode == 0, result.stderr
    assert str(output) in result.stdout

    kwargs = network_folder.load_denoiser_kwargs(output)
    assert kwargs == edm.read_pickle(source)[0]
    teacher = denoiser.from_edm_kwargs(kwargs)
    params = network_folder.load_params(output, teacher.abstract_params())
    expected = edm.to_denoiser(*edm.read_pickle(source))[1]
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    output = teacher(params, case["x"], case["sigma"], labels=case.labels)
    assert golden_cases.relative_l2(output, case.expected("D")) < case.output_bound


def test_a_student_is_said_to_be_one(source, tmp_path, capsys):
    output = tmp_path / "student"
    assert command.main([f"--source={source}", f"--output={output}", "--init_sigma=10"]) == 0
    card = network_folder.load_card(output)
    assert (card.kind, card.init_sigma, card.steps) == ("student", 10.0, 1)
    with pytest.raises(ValueError, match="is a student"):
        teacher.describe(str(output))
    name = "edm-cifar10-32x32-uncond-vp"
    for wrong, value, said in (
        (source, -1, "--init_sigma=-1: a pos"),
        (name, 2.5, "is a denoiser"),
    ):
        arguments = [f"--source={wrong}", f"--output={tmp_path / 'no'}", f"--init_sigma={value}"]
        assert command.main(arguments) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_failing_command_exits_with_one_line(tmp_path):
    bad = tmp_path / "bad.pkl"
    bad.write_bytes(fabricate.pickle_bytes(fabricate.Call("os.system", ("true",))))
    result = run(f"--source={bad}", f"--output={tmp_path / 'out'}")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith(f"error: {bad}: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_arguments_are_needed(tmp_path):
    result = run(f"--output={tmp_path / 'out'}")
    assert result.returncode == 2
    assert "--source" in result.stderr


def test_an_existing_folder_is_not_overwritten(source, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    (output / "precious").write_text("kept")
    assert f"{output} exists already" in fail(capsys, source, output)
    assert [path.name for path in output.iterdir()] == ["precious"]
    assert "exists already" in fail(capsys, source, source)


def test_an_output_that_cannot_be_made(source, capsys):
    assert "network.pkl" in fail(capsys, source, source / "inside")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.pkl", "absent.pkl: no such file"),
        ("folder/absent", "folder/absent: no such file"),
        ("edm-cifar10-uncond-vp", "the nearest is 'edm-cifar10-32x32-uncond-vp'"),
        ("http://example.com/x.pkl", "http://example.com/x.pkl: only https"),
        ("http://127.0.0.1:9/x.pkl", "refused"),
    ],
)
def test_sources_that_cannot_be_had(name, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    assert message in fail(capsys, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_arrays_that_do_not_fit_name_the_source(tmp_path, capsys):
    kwargs, state_dict = edm_cases.small_network()
    fewer = {name: state_dict[name] for name in list(state_dict)[1:]}
    path = tmp_path / "damaged.pkl"
    path.write_bytes(fabricate.edm_pickle(kwargs, fewer))
    line = fail(capsys, path, tmp_path / "out")
    assert line.startswith(f"error: {path}: ")
    assert f"{next(iter(state_dict))} is missing" in line
    assert not (tmp_path / "out").exists()


def test_a_released_name_is_fetched_from_its_url(source, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(download, "fetch", lambda url: fetched.append(url) or source)
    name = "edm-ffhq-64x64-uncond-vp"
    assert command.main([f"--source={name}", f"--output={tmp_path / 'out'}"]) == 0
    assert fetched == [catalogue.RELEASED[name].url]


def test_a_pickle_that_is_described_and_loaded_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "network.pkl"
    kwargs, state_dict = edm_cases.small_network()
    path.write_bytes(fabricate.edm_pickle(kwargs, state_dict))
    read, reads = edm.read_pickle, []
    monkeypatch.setattr(edm, "read_pickle", lambda p: reads.append(p) or read(p))
    assert teacher.describe(str(path)) == teacher.load(str(path)).init_kwargs
    assert len(reads) == 1
    teacher.describe(str(path))
    changed = {
        name: array if name.endswith("filter") else 2 * array for name, array in state_dict.items()
    }
    path.write_bytes(fabricate.edm_pickle(kwargs, changed))
    os.utime(path, (0, 0))  # another file has taken its place
    params = teacher.load(str(path)).params
    assert len(reads) == 3
    _, wanted = edm.to_denoiser(kwargs, changed)
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
