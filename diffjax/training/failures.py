"""Updates that were left out: how a run tells of them, and the record of those that stopped it."""

import dataclasses
import json
import platform
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import diffjax
from diffjax.files import json_values, writing
from diffjax.training.metric_sums import MetricSums

RECORD_FILE = "failed_update.json"
_PACKAGE = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Origin:
    """Origin of a run's updates.

    Attributes:
      seed: of the run.
      config: of the run.
    """

    seed: int
    config: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class FailedUpdates:
    """Record of the updates that made a run stop, enough to do them again.

    Attributes:
      seed: of the run; the draws of step s come from `fold_in(key(seed), s)`.
      first_step: the first of the updates in a row that were left out.
      last_step: the last of them.
      checkpoint: step of the checkpoint that holds the state they met.
      not_finite: metrics that were not, in the call that ended the row.
      config: of the run.
      versions: of what computed it.
    """

    seed: int
    first_step: int
    last_step: int
    checkpoint: int
    not_finite: list[str]
    config: dict[str, Any]
    versions: dict[str, str]

    def write(self, workdir: Path) -> Path:
        """Write the record as a whole or not at all, and return its path."""
        path = workdir / RECORD_FILE
        writing.write_text(path, json_values.dumps("the record", dataclasses.asdict(self)))
        return path


def read(workdir: Path) -> FailedUpdates:
    """Read the record of a run that stopped.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it isn't what was written here.
    """
    path = workdir / RECORD_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} doesn't exist: only a run that stopped for numbers that are not finite has one"
        )
    try:
        return FailedUpdates(**json_values.decode(json.loads(path.read_text(encoding="utf-8"))))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} isn't a record of failed updates ({error})") from error


def versions() -> dict[str, str]:
    """List the versions and devices that decide how numbers round."""
    return {
        "diffjax": _own_version(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _own_version() -> str:
    # A folder of this name, seen before an editable install, hides the package's own names.
    own = vars(diffjax) if diffjax.__file__ else runpy.run_path(str(_PACKAGE / "__init__.py"))
    return str(own["__version__"])


def not_finite(totals: MetricSums) -> list[str]:
    """Name the metrics that were not finite in some update of a call."""
    return [name for name, count in totals.not_finite.items() if count]


def describe(totals: MetricSums, limit: int) -> str:
    """Describe the updates of a call that were left out, in one line.

    Args:
      totals: of the call, some update of which was skipped.
      limit: how many in a row stop the run.
    """
    count, names = int(totals.skipped), ", ".join(not_finite(totals))
    last = f"step {int(totals.last_skipped)}"
    which = (
        f"the update of {last} was" if count == 1 else f"{count} updates, the last of {last}, were"
    )
    return (
        f"warning: {which} left out, since these are not finite: {names} "
        f"({int(totals.skipped_in_a_row)} in a row; {limit} stop the run)"
    )


def message(failed: FailedUpdates, workdir: Path, suspects: Mapping[str, Any]) -> str:
    """Say in one line why a run stopped, what is kept, and what to change.

    Args:
      failed: the record.
      workdir: of the run.
      suspects: the settings that are mostly to blame, field -> value.
    """
    settings = ", ".join(f"{field}={value}" for field, value in suspects.items())
    return (
        f"the updates of steps {failed.first_step} to {failed.last_step} were left out, since "
        f"these were not finite: {', '.join(failed.not_finite)}. The state that they met is kept "
        f"as checkpoint {failed.checkpoint}; `python -m diffjax.tools.replay --workdir={workdir}` "
        "shows where it comes from. The same command would stop again: first change what is to "
        f"blame, most likely one of {settings}. If that doesn't help, the state itself has "
        "diverged: delete the newest checkpoints, to go on from one that has not. A changed config "
        "goes on there with --allow_changed_config."
    )
