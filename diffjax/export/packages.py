"""Packages that one format alone needs, asked for before anything is computed."""

import importlib.util

from diffjax.runs.user_function import RefusedError


def check(what: str, *names: str, install: str) -> None:
    """Check that packages are installed, without importing them.

    Args:
      what: what needs them, for the error.
      *names: of the packages, as they are imported.
      install: what `pip install` takes.

    Raises:
      RefusedError: naming those that are missing, and the command that installs them.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise RefusedError(
            f"{what} needs {' and '.join(missing)}, not installed here: pip install '{install}'"
        )
