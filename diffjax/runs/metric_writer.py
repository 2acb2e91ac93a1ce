"""A metric writer of the user's, by the interface of `clu.metric_writers`.

`config.metric_writer` names a function of (work directory, config as a dict), "module:function",
that returns one. It gets every line of `metrics.jsonl` and `timing.jsonl` and every picture,
besides the files of a run, and can't make it fail.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffjax.runs import user_function
from diffjax.runs.user_function import RefusedError

FIELD = "config.metric_writer"
_METHODS = ("write_scalars", "write_images", "flush", "close")


def load(name: str) -> Callable[[str, dict[str, Any]], Any] | None:
    """Import the function; None of "".

    Args:
      name: "module:function".

    Raises:
      RefusedError: in one line, if there is none.
    """
    return user_function.load(name, field=FIELD) if name else None


def make(name: str, workdir: str, config: Mapping[str, Any]) -> Any:
    """Make the writer of a run; None of "".

    Args:
      name: "module:function".
      workdir: of the run.
      config: of the run.

    Raises:
      RefusedError: in one line, if that fails or what comes isn't a metric writer.
    """
    function = load(name)
    if function is None:
        return None
    try:
        writer = function(workdir, dict(config))
    except Exception as error:  # a user's function may fail in any way
        text = " ".join(str(error).split())
        raise RefusedError(f"{FIELD}={name!r} fails with {type(error).__name__}: {text}") from error
    lacking = [method for method in _METHODS if not callable(getattr(writer, method, None))]
    if lacking:
        raise RefusedError(
            f"{FIELD}={name!r} returned {type(writer).__name__}, which lacks "
            f"{', '.join(lacking)}: a clu.metric_writers.MetricWriter is needed"
        )
    return writer


class Guarded:
    """Writer whose first failure is told, and after which nothing more goes there."""

    def __init__(self, writer: Any, report: Callable[[str], None]) -> None:
        """Write nothing yet.

        Args:
          writer: of the user's; None takes nothing.
          report: takes a line on a failure.
        """
        self._writer, self._report = writer, report

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers of an update."""
        self._do("write_scalars", step, dict(numbers))

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Write a picture of an update, [H, W, C] uint8, as a batch of one."""
        self._do("write_images", step, {name: picture[None]})

    def close(self) -> None:
        """Flush and close."""
        self._do("flush")
        self._do("close")
        self._writer = None

    def _do(self, method: str, *arguments: Any) -> None:
        if self._writer is None:
            return
        try:
            getattr(self._writer, method)(*arguments)
        except Exception as error:  # a user's writer may fail in any way
            self._writer = None
            text = " ".join(str(error).split())
            self._report(
                f"warning: the metric writer's {method} fails with {type(error).__name__}: {text}; "
                "nothing more goes there, and the run's own files have all"
            )
