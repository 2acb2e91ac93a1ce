"""Local paths as people write them."""

import os
import re
import urllib.parse

# Programs that mount a store, by the scheme of its URLs.
_MOUNTED_BY = {"gs": "gcsfuse", "s3": "mount-s3"}


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


def local(path: str | os.PathLike[str]) -> str:
    """Check that a path is of a file system, where all that is written is.

    Args:
      path: of a file or folder, which needn't be there.

    Returns:
      The path.

    Raises:
      ValueError: if it is a URL, such as an object store's, with what to do instead.
    """
    text = os.fspath(path)
    # With one slash as well, which is left of two where a path was joined.
    match = re.fullmatch(r"([A-Za-z][\w+.-]+):/+(.*)", text, re.DOTALL)
    if match is None:
        return text
    scheme, place = match[1].lower(), match[2].strip("/")
    if scheme == "file":
        raise ValueError(f"{text} is a URL: name the path, /{urllib.parse.unquote(place)}")
    bucket = place.partition("/")[0]
    by = f", as by `{_MOUNTED_BY[scheme]} {bucket} FOLDER`," if scheme in _MOUNTED_BY else ""
    raise ValueError(
        f"{match[1]}://{place} is a URL: mount the store{by} and name the mounted path"
    )
