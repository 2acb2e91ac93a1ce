"""A copy of examples/, whose modules and configs are found first."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

from diffjax.runs import user_function

EXAMPLES = Path(__file__).parents[2] / "examples"
MODULES = [path.stem for path in EXAMPLES.glob("*.py")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of examples/, without weights, where modules and configs are found first."""
    copied = tmp_path_factory.mktemp("copied") / "examples"
    shutil.copytree(EXAMPLES, copied, ignore=shutil.ignore_patterns("*.[mne]*", "__*"))
    before = list(sys.path)
    sys.path.insert(0, str(copied))
    for name in MODULES:
        sys.modules.pop(name, None)
    user_function.look_in(copied)
    yield copied
    user_function._folders.remove(str(copied.resolve()))
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.path[:] = before


@pytest.fixture(scope="module")
def trained(folder):
    """(name, arguments of its training) -> the example's module, trained once."""

    def made(name, *arguments):
        module = importlib.import_module(name)
        assert module.WEIGHTS.parent == folder
        if not module.WEIGHTS.exists():
            module.train(*arguments)
        return module

    return made
