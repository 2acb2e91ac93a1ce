"""Config files: Python files whose `get_config()` gives a ConfigDict, by path or by name."""

import contextlib
import difflib
import os
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

_PACKAGE = Path(__file__).parents[1]
# Parsers' words for a value that isn't of a field's type.
_NEEDED = {
    r"invalid literal for int\(\)": "a whole number",
    "could not convert string to float": "a number",
    r"\('Non-boolean argument": "True or False",
}


class ConfigFileError(Exception):
    """A file that gives no config, told in one line.

    Its cause is what the file's own code raised, if it did.
    """


def packaged() -> dict[str, Path]:
    """List diffjax's own configs.

    Returns:
      Name -> file. A wheel has them in the package, a checkout at its top.
    """
    folder = _PACKAGE / "configs"
    if not folder.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        folder = _PACKAGE.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def find(name: str) -> Path:
    """Find the file of a config.

    Args:
      name: path of a file, or one of diffjax's own configs by its name, such as "sid_digits";
        `:argument` at its end is left aside. A file of exactly that name comes first.

    Raises:
      ConfigFileError: if there is neither, with what may be meant.
    """
    path = Path(name.partition(":")[0])
    if path.is_file():
        return path
    own = packaged()
    is_name = path.name == str(path) and not path.suffix
    if is_name and path.name in own:
        return own[path.name]
    what = f"there is no config file {path} in {os.getcwd()}"
    if is_name:
        what += ", and no config of that name"
    if Path(f"{path}.py").is_file():  # also of a name with decimals, which are no ending
        raise ConfigFileError(f"{what}: did you mean --config={path}.py?")
    may_be_ours = is_name or str(path.parent) in (".", "configs")
    nearest = difflib.get_close_matches(path.stem.lower(), own, n=1) if may_be_ours else []
    if nearest:
        raise ConfigFileError(f"{what}: did you mean --config={nearest[0]}?")
    raise ConfigFileError(f"{what}; there are {', '.join(own)}" if is_name and own else what)


def load(name: str) -> ConfigDict:
    """Run a config file.

    Args:
      name: as `find` takes it, with `:argument` at its end if `get_config` takes one.

    Returns:
      What `get_config` returned; of a frozen config, a copy that can be changed.

    Raises:
      ConfigFileError: if there is no file, or it gives no config.
    """
    path = find(name)
    argument = name.partition(":")[2]
    with importing_from(path.resolve().parent):
        try:
            get_config = runpy.run_path(str(path)).get("get_config")
            if get_config is None:
                raise ConfigFileError(f"{path} defines no get_config()")
            config = get_config(argument) if argument else get_config()
        except ConfigFileError:
            raise
        except (Exception, SystemExit) as error:  # a config file may fail in any way
            raise ConfigFileError(f"{path} fails with {_described(error).rstrip('.')}") from error
    if config is None:
        raise ConfigFileError(f"get_config() of {path} returns nothing: end it with return config")
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


def mistyped(text: str) -> str:
    """Say of a flag's value that was no number, or neither true nor false, what is needed.

    Args:
      text: an error's, in the words of a parser; others stay.
    """
    for pattern, needed in _NEEDED.items():
        text = re.sub(f": {pattern}.*", f": {needed} is needed", text)
    return text


def _described(error: BaseException) -> str:
    # ConfigDict lists a whole config where a field is misspelt; "Did you mean" comes after it.
    text = re.sub(r" Other fields present: \"\{.*\}\"(\\n)?", " ", str(error), flags=re.DOTALL)
    return f"{type(error).__name__}: {text}"
