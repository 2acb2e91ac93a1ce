"""Configs by name, wherever diffjax lies."""

import shutil
from pathlib import Path

import pytest

from diffjax.runs import config_file
from tests.support.processes import ROOT

OWN = {path.stem: path for path in (ROOT / "configs").glob("*.py")}
NONE = "there is no config file {name} in {here}"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(name):
    with pytest.raises(config_file.ConfigFileError) as caught:
        config_file.find(name)
    return str(caught.value)


def test_a_checkout_has_all_of_its_configs(here):
    assert config_file.packaged() == OWN
    assert {"sid_digits", "di_digits", "teacher_digits"} <= set(OWN)


@pytest.mark.parametrize("name", ["sid_digits", "di_refine_stylegan2_cifar_cond"])
def test_a_name_is_the_file(here, name):
    assert config_file.find(name) == config_file.find(f"{name}:argument") == OWN[name]
    assert config_file.load(name) == config_file.load(str(OWN[name]))


def test_a_path_is_itself(here):
    (here / "configs").mkdir()
    for path in ("mine.py", "configs/sid_digits.py", "sid_digits.py", "a.b"):
        Path(path).write_text("")
        assert config_file.find(path) == config_file.find(f"{path}:argument") == Path(path)


def test_what_lies_in_the_working_directory(here):
    """A name is diffjax's beside a file NAME.py and a folder NAME; a file NAME is itself."""
    (here / "sid_digits.py").write_text("")
    (here / "di_digits").mkdir()
    (here / "teacher_digits").write_text("")
    for name in ("sid_digits", "di_digits"):
        assert config_file.find(name) == OWN[name]
    assert config_file.find("teacher_digits") == Path("teacher_digits")


@pytest.mark.parametrize("name", ["sid_digit", "sid-digits", "SID_digits", "sid_digits_"])
def test_a_name_misspelt_is_told_the_nearest(here, name):
    wanted = NONE.format(name=name, here=here)
    assert (
        refusal(name) == f"{wanted}, and no config of that name: did you mean --config=sid_digits?"
    )


@pytest.mark.parametrize("name", ["configs/sid_digits.py", "sid_digits.py", "configs/sid_digit.py"])
def test_a_path_as_in_a_checkout_is_told_the_name(here, name):
    wanted = NONE.format(name=name, here=here)
    assert refusal(name) == f"{wanted}: did you mean --config=sid_digits?"


def test_other_names(here):
    assert refusal("other/sid_digits.py") == NONE.format(name="other/sid_digits.py", here=here)
    assert refusal("nothing.py") == NONE.format(name="nothing.py", here=here)
    listed = refusal("zzz").partition("; there are ")[2]
    assert listed.split(", ") == sorted(OWN)
    (here / "zzz.py").write_text("")
    assert refusal("zzz").endswith("did you mean --config=zzz.py?")
    (here / "zzz_0.1.py").write_text("")
    assert refusal("zzz_0.1").endswith("did you mean --config=zzz_0.1.py?")


@pytest.mark.parametrize("kind", ["wheel", "checkout", "neither"])
def test_where_configs_lie(tmp_path, monkeypatch, kind):
    """In a wheel beside the modules; a folder configs/ of someone else's is left alone."""
    package = tmp_path / "site" / "diffjax"
    package.mkdir(parents=True)
    folder = package / "configs" if kind == "wheel" else package.parent / "configs"
    shutil.copytree(ROOT / "configs", folder, ignore=shutil.ignore_patterns("__pycache__"))
    if kind == "checkout":
        (package.parent / "pyproject.toml").write_text("")
    monkeypatch.setattr(config_file, "_PACKAGE", package)
    found = {} if kind == "neither" else {name: folder / f"{name}.py" for name in OWN}
    assert config_file.packaged() == found
    if kind == "neither":
        assert refusal("sid_digits").endswith("no config of that name")
