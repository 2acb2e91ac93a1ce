"""The wheel, built from the source archive, installed and run where there is no checkout."""

import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support import compiling

ROOT = Path(__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILT_FROM = ["diffjax", "configs", "pyproject.toml", "setup.py", "MANIFEST.in"]
BUILT_FROM += ["README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"]


def files_of(folder: str) -> dict[str, bytes]:
    """Path -> content of a folder of the checkout, without what Python leaves there."""
    paths = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    kept = (path for path in paths if "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)): path.read_bytes() for path in kept}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What is built from: a copy, since building leaves files there."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    """A folder with the source archive, and with the wheel that was built from it alone."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", f"--outdir={folder}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A virtual environment with the wheel, which sees what this one has besides diffjax."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True, env=outside())
    # After the wheel, so that pip doesn't find this one's. A .pth file over there isn't followed,
    # and so neither is an editable install's.
    (packages,) = folder.glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(here))
    return folder


def outside() -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "XLA_FLAGS": f"{compiling.flags(1)} {compiling.QUICK}",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def run(*command, folder) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=outside(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_extra_is_documented():
    page = (ROOT / "docs/start.md").read_text()
    for extra in DECLARED["optional-dependencies"]:
        assert f"\n| `{extra}` |" in page


@pytest.mark.slow
def test_the_wheel_has_all_that_a_checkout_runs_with(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        holds = {name: archive.read(name) for name in archive.namelist()}
    configs = {f"diffjax/{name}": content for name, content in files_of("configs").items()}
    wanted = files_of("diffjax") | configs
    assert "diffjax/py.typed" in wanted
    assert "diffjax/assets/digits/denoiser.json" in wanted
    assert "diffjax/configs/sid_digits.py" in wanted
    found = {name: content for name, content in holds.items() if ".dist-info/" not in name}
    assert sorted(found) == sorted(wanted)
    assert found == wanted


@pytest.mark.slow
def test_metadata(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
        licence = archive.read(name.replace("METADATA", "licenses/LICENSE"))
    assert metadata["Name"] == "diffjax"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload(decode=True).decode() == (ROOT / "README.md").read_text()
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert set(metadata.get_all("Classifier")) >= {"Typing :: Typed"}
    assert metadata.get_all("Project-URL")
    assert set(metadata.get_all("Provides-Extra")) == set(DECLARED["optional-dependencies"])


@pytest.mark.slow
def test_the_source_archive_holds_what_it_is_built_from_and_no_more(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        tops = {name.split("/")[1] for name in opened.getnames() if "/" in name}
    assert tops == {*BUILT_FROM, "PKG-INFO", "setup.cfg", "diffjax.egg-info"}


@pytest.mark.slow
def test_an_editable_install_stays_a_path(source, tmp_path):
    """Of the checkout, where configs lie at the top: a folder named diffjax doesn't hide it."""
    code = (
        "import sys, build, build.env\n"
        "with build.env.DefaultIsolatedEnv() as environment:\n"
        "    builder = build.ProjectBuilder.from_isolated_env(environment, sys.argv[1])\n"
        "    environment.install(builder.build_system_requires)\n"
        "    environment.install(builder.get_requires_for_build('editable'))\n"
        "    builder.build('editable', sys.argv[2])\n"
    )
    done = run(sys.executable, "-c", code, source, tmp_path, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert [Path(name).suffix for name in names] == [".pth"]
        assert archive.read(names[0]).decode().strip() == str(source)


@pytest.mark.slow
def test_the_main_job_runs_by_name_from_anywhere(installed, tmp_path):
    """With the teacher that is shipped, by the command that is installed, to its end."""
    done = run(
        installed / "bin" / "diffjax",
        "--config=sid_digits",
        "--config.duration_kimg=0.256",
        "--config.evaluate.every_kimg=0",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    workdir = tmp_path / "runs" / "sid_digits"
    (line,) = (workdir / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 4
    assert (workdir / "network").is_dir()
    assert list((workdir / "samples").glob("*.png"))


@pytest.mark.slow
def test_configs_by_name_and_by_path(installed, tmp_path):
    (package,) = installed.glob("lib/python*/site-packages/diffjax")
    main = (installed / "bin" / "python", "-m", "diffjax.main")
    named = run(*main, "--config=di_cifar", "--mode=show", folder=tmp_path)
    by_path = run(*main, f"--config={package}/configs/di_cifar.py", "--mode=show", folder=tmp_path)
    assert named.returncode == 0, named.stderr
    assert "edm-cifar10-32x32-uncond-vp" in named.stdout
    assert by_path.stdout == named.stdout
    wrong = run(*main, "--config=configs/sid_digits.py", folder=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.endswith("did you mean --config=sid_digits?\n")
    told = run(installed / "bin" / "diffjax", "--help", folder=tmp_path)
    assert "--config" in told.stdout
    assert not any(tmp_path.iterdir())
