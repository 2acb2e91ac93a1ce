"""Paths, comparisons, errors and quiet logs of all that reads and writes with Orbax."""

import logging as python_logging
import os
import re
from pathlib import Path
from typing import Any

import jax
from absl import logging

from diffjax.files import paths

PathLike = str | os.PathLike[str]


class SaveError(OSError):
    """Error of a failed write of arrays, which leaves earlier files as they were."""


def one_line(error: BaseException) -> str:
    """Shorten an error to one line of at most 200 characters, which may be its type's name."""
    text = " ".join(str(error).split()) or type(error).__name__
    if number := re.search(r"os_error_code='(\d+)'", text):  # TensorStore's, after long paths
        text = os.strerror(int(number.group(1)))
    elif isinstance(error, OSError) and error.strerror:  # without "[Errno 28]"
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    return text if len(text) <= 200 else text[:197] + "..."


def local_path(path: PathLike) -> Path:
    """Return a path on a mounted file system, absolute.

    Raises:
      ValueError: if the path is a URL.
    """
    return Path(paths.local(path)).absolute()


def differing_arrays(stored: Any, expected: Any) -> str:
    """Name in one line the arrays that differ in name or shape between two trees; "" if none."""
    have, want = _shapes(stored), _shapes(expected)
    differences = (
        [f"{name} is missing" for name in sorted(want.keys() - have.keys())]
        + [f"{name} isn't expected" for name in sorted(have.keys() - want.keys())]
        + [
            f"{name} has shape {have[name]} instead of {want[name]}"
            for name in sorted(want.keys() & have.keys())
            if have[name] != want[name]
        ]
    )
    more = [f"and {len(differences) - 8} more"] if len(differences) > 8 else []
    return "; ".join(differences[:8] + more)


def array_names(tree: Any) -> frozenset[str]:
    """Return the names of a tree's arrays, which are paths, such as "params/layer/kernel"."""
    return frozenset(_shapes(tree))


def check_same_arrays(path: Path, stored: Any, expected: Any) -> None:
    """Check that stored arrays have the expected names and shapes.

    Args:
      path: of the stored arrays, for the message.
      stored: tree of arrays or of their descriptions.
      expected: tree of arrays or of their descriptions.

    Raises:
      ValueError: naming the arrays that differ.
    """
    if differences := differing_arrays(stored, expected):
        raise ValueError(f"{path} holds another model's arrays: {differences}")


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if hasattr(leaf, "shape")  # Orbax's lists of arrays have leaves for empty nodes too
    }


class _OrbaxChatter(python_logging.Filter):
    """Filter of what Orbax logs below the level of a warning, and errors that it raises besides."""

    def filter(self, record: python_logging.LogRecord) -> bool:
        orbax = f"{os.sep}orbax{os.sep}checkpoint{os.sep}"
        is_chat = record.levelno < python_logging.WARNING or bool(record.exc_info)
        return not is_chat or orbax not in record.pathname


class _AsyncioChatter(python_logging.Filter):
    """Filter of what asyncio logs of Orbax's failed writes, one of which Orbax raises."""

    def filter(self, record: python_logging.LogRecord) -> bool:
        text = record.getMessage()
        is_chat = "exception was never retrieved" in text or "destroyed but it is pending" in text
        return not is_chat or "orbax" not in text


_CHATTER_FILTER = _OrbaxChatter()
_ASYNCIO_FILTER = _AsyncioChatter()


def quieten_orbax() -> None:
    """Keep Orbax's own log lines, and errors that it raises besides, off the screen."""
    # Neither does anything the second time.
    logging.get_absl_logger().addFilter(_CHATTER_FILTER)
    python_logging.getLogger("asyncio").addFilter(_ASYNCIO_FILTER)
