"""Local paths as people write them."""

import os
import re
import urllib.parse

_IS_FETCHED = re.compile("https?://")
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


def named(path: str, *, flag: str) -> str:
    """Check that a flag of a command names a file or folder, and expand its home.

    Args:
      path: the flag's value; a web address stays as it is, for what may be fetched.
      flag: for the error, such as "--output".

    Raises:
      ValueError: of an empty value, a home that isn't there, or the URL of a store.
    """
    if not path.strip():
        raise ValueError(f"{flag} is empty: name a file or folder")
    try:
        return path if _IS_FETCHED.match(path) else local(expanded(path))
    except ValueError as error:
        raise ValueError(f"{flag}={error}") from None


def file_to_write(path: str, *, flag: str) -> str:
    """Check that a flag names a file, which a path that ends in a slash doesn't.

    Args:
      path: the flag's value.
      flag: for the error.

    Raises:
      ValueError: as for `named`, and of a folder.
    """
    if path.endswith(os.sep) or os.path.isdir(path):
        raise ValueError(f"{flag}={path} is a folder: name a file, such as in it")
    if "://" in path:  # web addresses too
        raise ValueError(f"{flag}={path} is a URL: name a file, and copy it from there")
    return named(path, flag=flag)


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
