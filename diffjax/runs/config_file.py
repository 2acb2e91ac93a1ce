"""Config files: Python files whose `get_config()` gives a ConfigDict."""

import contextlib
import os
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

_CHECKOUT = Path(__file__).parents[2]  # has configs/, unlike an installed package's


class ConfigFileError(Exception):
    """A file that gives no config, told in one line.

    Its cause is what the file's own code raised, if it did.
    """


def load(name: str) -> ConfigDict:
    """Run a config file.

    Args:
      name: path, with `:argument` at its end if `get_config` takes one.

    Returns:
      What `get_config` returned; of a frozen config, a copy that can be changed.

    Raises:
      ConfigFileError: if there is no file, or it gives no config.
    """
    path, _, argument = name.partition(":")
    if not Path(path).is_file():
        ours = _CHECKOUT / path
        where = f"; {ours} is one" if ours.is_file() else ""
        raise ConfigFileError(f"there is no config file {path} in {os.getcwd()}{where}")
    with importing_from(Path(path).resolve().parent):
        try:
            get_config = runpy.run_path(path).get("get_config")
            if get_config is None:
                raise ConfigFileError(f"{path} defines no get_config()")
            config = get_config(argument) if argument else get_config()
        except ConfigFileError:
            raise
        except (Exception, SystemExit) as error:  # a config file may fail in any way
            raise ConfigFileError(f"{path} fails with {_described(error)}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigFileError(
            f"get_config() of {path} returned {type(config).__name__} instead of a ConfigDict"
        )
    return ConfigDict(config) if isinstance(config, FrozenConfigDict) else config


@contextlib.contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Search a config's folder for modules, as for a script, so that it can import neighbours."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have done so
            sys.path.remove(str(folder))


def _described(error: BaseException) -> str:
    # ConfigDict lists a whole config where a field is misspelt; "Did you mean" comes after it.
    text = re.sub(r" Other fields present: \"\{.*\}\"(\\n)?", " ", str(error), flags=re.DOTALL)
    return f"{type(error).__name__}: {text}"
