"""Paths that start with a home directory, which shells leave as they are after `=`."""

import sys

import pytest

from diffjax import main
from diffjax.convert import __main__ as convert
from diffjax.evaluation import image_statistics
from diffjax.files import download, paths
from diffjax.runs import bases, checks
from diffjax.tools import replay


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_expanded(home):
    assert paths.expanded("~/runs/a") == f"{home}/runs/a"
    for path in ("digits", "a/~b", "https://x/~y", "", "./~"):
        assert paths.expanded(path) == path
    with pytest.raises(ValueError, match=r"~nobody-here/x: there is no such home directory"):
        paths.expanded("~nobody-here/x")


def test_every_path_of_a_config(home):
    config = bases.distillation("sid")
    config.teacher = config.generator.initial = "~/network"
    config.compilation_cache = config.evaluate.reference = config.sample.source = "~/x"
    upgraded = checks.upgraded(config)
    assert upgraded.teacher == upgraded.generator.initial == f"{home}/network"
    assert upgraded.compilation_cache == upgraded.sample.source == f"{home}/x"
    assert upgraded.evaluate.reference == f"{home}/x"
    config.evaluate.reference = "~nobody-here/x"
    with pytest.raises(
        ValueError, match=r"config\.evaluate\.reference=~nobody-here/x: there is no"
    ):
        checks.upgraded(config)


@pytest.mark.parametrize(
    ("workdir", "message"),
    [("", "--workdir is empty: name a folder"), ("~nobody-here/x", "--workdir=~nobody-here/x: th")],
)
def test_a_workdir_that_is_none(workdir, message, monkeypatch, capsys):
    arguments = ["main", "--config=configs/sid_digits.py", f"--workdir={workdir}"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        main._parse_flags(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    main.FLAGS["workdir"].unparse()


def test_commands(home, capsys):
    assert convert.main(["--source=~/none.pkl", f"--output={home}/out"]) == 1
    assert f"{home}/none.pkl" in capsys.readouterr().err
    for flag, given, said in (
        ("output", "", "--output is empty: name a file or folder"),
        ("output", "gs:/bucket/x", "--output=gs://bucket/x is a URL: mount the store"),
        ("source", " ", "--source is empty"),
        ("source", str(home), "is a folder: a config names a network's folder as it is"),
        ("source", "gs://bucket/x", "--source=gs://bucket/x is a URL"),
        ("source", "~nobody-here/x", "--source=~nobody-here/x: there is no such home"),
    ):
        arguments = {"source": "digits", "output": f"{home}/out", flag: given}
        assert convert.main([f"--{name}={value}" for name, value in arguments.items()]) == 1
        assert said in capsys.readouterr().err
    (home / "there.npz").write_text("")
    assert image_statistics.main(["--data=digits", "--output=~/there.npz"]) == 1
    assert f"{home}/there.npz is there already" in capsys.readouterr().err


def test_no_home_to_keep_downloads_in(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where no user is known
    monkeypatch.delenv("DIFFJAX_CACHE", raising=False)
    with pytest.raises(ValueError, match=r"x\.pkl is to be kept in ~/\.cache.*DIFFJAX_CACHE"):
        download.fetch("https://localhost/x.pkl")
    assert replay.main(["--workdir=~/x"]) == 1


def test_a_generator_that_never_learns_is_refused():
    config = bases.distillation("sid")
    config.teacher, config.duration_kimg, config.generator.frozen_kimg = "digits", 10.0, 10.0
    with pytest.raises(ValueError, match=r"frozen_kimg=10\.0 leaves the generator no time"):
        checks.check(config)
