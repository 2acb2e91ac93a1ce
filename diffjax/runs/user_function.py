"""Functions of the user's that a config names as "module:function"."""

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffjax.runs import config_file


def is_name(value: str) -> bool:
    """Tell "module:function" from a path, a URL or a name."""
    module, colon, function = value.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), function))


def load(name: str, *, field: str, folder: str = "") -> Callable[..., Any]:
    """Import a function, from beside the config file or from Python's path.

    Args:
      name: "module:function", the module's name dotted if it lies in a package.
      field: name of the setting, for errors.
      folder: of the config file, searched first; "" for none.

    Raises:
      ValueError: in one line, if there is no such module or function, or importing fails.
    """
    module_name, _, attribute = name.partition(":")
    with config_file.importing_from(Path(folder).resolve()):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name != module_name.partition(".")[0] and error.name != module_name:
                raise ValueError(
                    f"{field}={name!r}: {module_name} imports {error.name}, which isn't installed"
                ) from error
            raise ValueError(
                f"{field}={name!r}: there is no module {error.name} beside the config file or on "
                "Python's path"
            ) from error
        except Exception as error:  # a user's module may fail in any way
            text = " ".join(str(error).split())
            raise ValueError(
                f"{field}={name!r}: importing {module_name} fails with {type(error).__name__}: "
                f"{text}"
            ) from error
    found = getattr(module, attribute, None)
    file = Path(getattr(module, "__file__", None) or module_name).name
    if found is None:
        public = [each for each in vars(module) if not each.startswith("_")]
        nearest = difflib.get_close_matches(attribute, public, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"{field}={name!r}: {file} has no {attribute}{hint}")
    if not callable(found):
        raise ValueError(
            f"{field}={name!r}: {attribute} of {file} is {type(found).__name__}; a function is "
            "needed"
        )
    function: Callable[..., Any] = found
    return function


def call(name: str, *arguments: Any, field: str, folder: str = "") -> Any:
    """Import a function and call it; what it raises becomes one line.

    Args:
      name: likewise as for `load`.
      *arguments: of the function.
      field: name of the setting, for errors.
      folder: of the config file, which the function may import from too.

    Raises:
      ValueError: in one line.
    """
    function = load(name, field=field, folder=folder)
    with config_file.importing_from(Path(folder).resolve()):
        try:
            return function(*arguments)
        except Exception as error:
            text = " ".join(str(error).split())
            raise ValueError(
                f"{field}={name!r} fails with {type(error).__name__}: {text}"
            ) from error
