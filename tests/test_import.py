"""`import diffjax` costs nothing, and names what a library user needs."""

import doctest
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import diffjax

ROOT = Path(__file__).parents[1]
MODULES = [name for name in diffjax.__all__ if not name.startswith("__")]


def printed(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def libraries_after(statement: str) -> set[str]:
    """Libraries that a new interpreter has loaded, besides the standard one."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    loaded = {name.partition(".")[0] for name in json.loads(printed(code))}
    return loaded - set(sys.stdlib_module_names)


def test_importing_diffjax_imports_no_library():
    assert libraries_after("import diffjax") <= libraries_after("") | {"diffjax"}
    code = "import diffjax, sys; print(sorted(n for n in sys.modules if n.startswith('diffjax')))"
    assert printed(code) == "['diffjax']\n"


def test_importing_losses_imports_jax_chex_and_numpy_alone():
    allowed = libraries_after("import jax, chex, numpy") | {"diffjax"}
    assert libraries_after("import diffjax.losses") <= allowed
    assert libraries_after("import diffjax; diffjax.losses") <= allowed


@pytest.mark.parametrize("name", MODULES)
def test_each_name_loads_when_it_is_asked_for(name):
    for code in (
        f"import diffjax; print(diffjax.{name}.__name__)",
        f"from diffjax import {name}; print({name}.__name__)",
    ):
        assert printed(code) == f"diffjax.{name}\n"


def test_what_there_is_can_be_listed():
    assert {"losses", "methods", "metrics", "models", "noise", "samplers"} <= set(MODULES)
    assert set(diffjax.__all__) <= set(dir(diffjax))
    assert "importlib" not in dir(diffjax)
    assert diffjax.__all__ == sorted(diffjax.__all__)
    with pytest.raises(AttributeError, match="module 'diffjax' has no attribute 'lossses'"):
        _ = diffjax.lossses


def test_the_docstring_runs_and_tells_of_every_module():
    results = doctest.testmod(diffjax)
    assert (results.failed, results.attempted) == (0, 5)
    for name in MODULES:
        assert f"\n    {name} " in diffjax.__doc__
    assert "python -m diffjax.main --config=configs/sid_digits.py" in diffjax.__doc__
    assert (ROOT / "configs/sid_digits.py").exists()


def test_the_version_can_be_read_without_an_import():
    """As setuptools does, by its text."""
    (line,) = [
        line
        for line in (ROOT / "diffjax/__init__.py").read_text().splitlines()
        if line.startswith("__version__")
    ]
    assert line == f'__version__ = "{diffjax.__version__}"'


NAMESPACE = """
import sys
from importlib.machinery import PathFinder
package, parent = sys.argv[1:]
sys.path[:] = [parent, *(path for path in sys.path if path not in ("", package))]
class Late:  # as an editable install finds a package, after the folders of the path
    def find_spec(self, name, path=None, target=None):
        if name.startswith("diffjax.") and name.count(".") == 1:
            return PathFinder.find_spec(name, [f"{package}/diffjax"])
sys.meta_path.insert(0, Late())
import diffjax
assert diffjax.__file__ is None
from diffjax.convert import teacher
from diffjax.training import failures
print(teacher.describe("digits")["img_resolution"], failures.versions()["diffjax"])
"""


def test_a_folder_of_the_packages_name_does_not_hide_its_files(tmp_path):
    """As where a script lies in the parent folder of a checkout."""
    (tmp_path / "diffjax" / "docs").mkdir(parents=True)
    command = [sys.executable, "-I", "-c", NAMESPACE, str(ROOT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == f"8 {diffjax.__version__}\n", done.stderr


def test_a_zipped_package_says_what_it_lacks(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in (ROOT / "diffjax").rglob("*.py"):
            archive.write(path, path.relative_to(ROOT))
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'all.zip')!r})\n"
        "from diffjax.convert import teacher\n"
        "teacher.describe('digits')\n"
    )
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "'digits' comes with diffjax, but " in done.stderr
    assert "all.zip/diffjax/assets isn't there" in done.stderr
