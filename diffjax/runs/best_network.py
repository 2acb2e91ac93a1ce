"""The best network of a run, by a metric, kept beside the latest checkpoint.

`W/best/<step>/` is a denoiser's folder, as `network_folder.save_denoiser` writes it, with
`metric.json` in it: the metric's name, its value, the step and kimg.
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffjax.files import writing
from diffjax.interfaces import Params
from diffjax.models import network_folder

FOLDER = "best"
_METRIC_FILE = "metric.json"


class BestNetwork:
    """The network with the best value so far; one process of a run alone may use it.

    Attributes:
      directory: `W/best`.
    """

    def __init__(self, directory: Path, *, metric: str, higher_is_better: bool) -> None:
        """Go on from the network that is there.

        Args:
          directory: the folder, which is made when there is something to keep.
          metric: name of the value. A network kept by another one gives way to the first offered.
          higher_is_better: whether larger values are better.
        """
        self.directory = directory
        self._metric, self._higher_is_better = metric, higher_is_better
        kept = [record for record in _records(directory) if record["metric"] == metric]
        self._best = max((self._score(record["value"]) for record in kept), default=-math.inf)

    def offer(
        self,
        step: int,
        kimg: float,
        value: float,
        init_kwargs: Mapping[str, Any],
        params: Params,
        *,
        classes: tuple[int, ...] = (),
    ) -> bool:
        """Keep a network if it is better than the one before, which then goes.

        Args:
          step: updates done.
          kimg: thousands of images made.
          value: of the metric; NaN is never better.
          init_kwargs: of the denoiser, as `save_denoiser` takes them.
          params: its parameters, which this process can read.
          classes: that it was trained on, as `save_denoiser` takes them.

        Returns:
          Whether it was kept.
        """
        if not self._score(value) > self._best:
            return False
        self._best = self._score(value)
        folder = self.directory / str(step)
        shutil.rmtree(folder, ignore_errors=True)
        network_folder.save_denoiser(folder, init_kwargs, params, classes=classes)
        record = {"metric": self._metric, "value": value, "step": step, "kimg": kimg}
        # Written last: a folder without it was not finished.
        writing.write_text(folder / _METRIC_FILE, json.dumps(record) + "\n")
        for other in self.directory.iterdir():
            if other != folder:
                shutil.rmtree(other)
        return True

    def _score(self, value: float) -> float:
        return value if self._higher_is_better else -value


def find_best(workdir: Path) -> tuple[Path, dict[str, Any]]:
    """Find the best network of a run, and read its `metric.json`.

    Args:
      workdir: of the run.

    Raises:
      FileNotFoundError: none was kept.
    """
    records = _records(workdir / FOLDER)
    if not records:
        raise FileNotFoundError(
            f"{workdir / FOLDER} holds no network: train with config.evaluate.best set to one of "
            "evaluate.metrics."
        )
    # More than one only if a run was killed between writing one and deleting the other.
    record = max(records, key=lambda record: record["step"])
    return workdir / FOLDER / str(record["step"]), record


def _records(directory: Path) -> list[dict[str, Any]]:
    files = sorted(directory.glob(f"*/{_METRIC_FILE}"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]
