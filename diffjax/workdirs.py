"""A run's work directory, looked at before anything is computed."""

import os
import tempfile
from pathlib import Path


def make_writable(workdir: str | os.PathLike[str]) -> Path:
    """Makes a work directory if needed, and sees that files can be written in it.

    Args:
      workdir: local, or mounted.

    Returns:
      Its path.

    Raises:
      ValueError: if it is a URL.
      OSError: if it can't be made or written to, with what would do.
    """
    if "://" in os.fspath(workdir):
        raise ValueError(
            f"{os.fspath(workdir)} is a URL: mount the store and name the mounted path"
        )
    path = Path(workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".writable-") as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        raise OSError(
            f"workdir={path} can't be written to ({error.strerror}): name another --workdir, or "
            "mend its permissions or its disk"
        ) from error
    return path
