"""Local paths as people write them."""

import os


def expanded(path: str) -> str:
    """Replace `~` and `~name` at the start of a path by that home, which shells leave after `=`.

    Args:
      path: of a file or folder, a URL, or a name; anything that doesn't start with `~` stays.

    Raises:
      ValueError: if there is no such home.
    """
    if not path.startswith("~"):
        return path
    full = os.path.expanduser(path)
    if full.startswith("~"):
        raise ValueError(f"{path}: there is no such home directory here; write the path out")
    return full
