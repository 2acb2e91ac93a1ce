"""Functions of the user's that a config names as "module:function"."""

import difflib
import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Folders where modules are looked for before Python's path.
_folders: list[str] = []


def look_in(folder: Path) -> None:
    """Look for modules in a folder first, such as a config file's.

    Args:
      folder: that is put on Python's path once a function is asked for, since its code may import
        from there at any time.
    """
    if str(folder.resolve()) not in _folders:
        _folders.append(str(folder.resolve()))


class RefusedError(ValueError):
    """Error of what a config names, which is refused before anything is computed."""

    exit_code = 2


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
      RefusedError: in one line, if there is no such module or function, or importing fails.
    """
    module_name, _, attribute = name.partition(":")
    if folder:
        look_in(Path(folder))
    sys.path[:0] = [each for each in reversed(_folders) if each not in sys.path]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0] and error.name != module_name:
            raise RefusedError(
                f"{field}={name!r}: {module_name} imports {error.name}, which isn't installed"
            ) from error
        stem = module_name.removesuffix(".py")
        hint = "" if stem == module_name else f"; a module has no .py: {stem}:{attribute}"
        raise RefusedError(
            f"{field}={name!r}: there is no module {error.name} beside the config file or on "
            f"Python's path{hint}"
        ) from error
    except Exception as error:  # a user's module may fail in any way
        text = " ".join(str(error).split())
        raise RefusedError(
            f"{field}={name!r}: importing {module_name} fails with {type(error).__name__}: {text}"
        ) from error
    _check_is_first(module, name, field)
    found = getattr(module, attribute, None)
    file = Path(getattr(module, "__file__", None) or module_name).name
    if found is None:
        public = [each for each in vars(module) if not each.startswith("_")]
        nearest = difflib.get_close_matches(attribute, public, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise RefusedError(f"{field}={name!r}: {file} has no {attribute}{hint}")
    if not callable(found):
        raise RefusedError(
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
      RefusedError: in one line.
    """
    function = load(name, field=field, folder=folder)
    try:
        return function(*arguments)
    except Exception as error:
        text = " ".join(str(error).split())
        raise RefusedError(f"{field}={name!r} fails with {type(error).__name__}: {text}") from error


def file_of(name: str) -> tuple[str, str]:
    """Name the file of a function's module, and give its SHA-256; ("", "") if there is none.

    Args:
      name: of a function that was imported.
    """
    module = sys.modules.get(name.partition(":")[0])
    path = Path(getattr(module, "__file__", None) or "")
    if not path.is_file():
        return "", ""
    return path.name, hashlib.sha256(path.read_bytes()).hexdigest()


def _check_is_first(module: Any, name: str, field: str) -> None:
    """Refuse a module that took the name of a file beside the config, such as Python's own."""
    found = getattr(module, "__file__", None)
    file = f"{name.partition(':')[0]}.py"
    first = next((path for each in sys.path if (path := Path(each) / file).is_file()), None)
    if first is not None and (found is None or not first.samefile(found)):
        raise RefusedError(
            f"{field}={name!r}: {first} isn't that module, which is {found or 'a part of Python'}; "
            "give the file another name"
        )
