import functools

import pytest

from tests.support import running


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A function from a kind of run to the work directory of one that nothing happened to."""

    @functools.cache
    def workdir(kind="teacher"):
        path = tmp_path_factory.mktemp(kind)
        running.run_here(path, kind)
        return path

    return workdir
