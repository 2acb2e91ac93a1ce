"""The best network of a run, by a metric, kept beside the latest checkpoint.

`W/best/<step>/` is a network's folder, as `Experiment.save_network` writes it, with
`metric.json` in it: the metric's name, its value, the step and kimg, and what it was measured with
and against. One that was measured otherwise is kept beside, as `W/best_<metric>_step<step>/`.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffjax.files import json_values, writing
from diffjax.files.progress import say
from diffjax.interfaces import Params
from diffjax.models import network_folder
from diffjax.models.model_card import ModelCard
from diffjax.runs import results

FOLDER = "best"
_METRIC_FILE = "metric.json"


class BestNetwork:
    """The network with the best value so far; one process of a run alone may use it.

    Attributes:
      directory: `W/best`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        metric: str,
        higher_is_better: bool,
        measured: Mapping[str, Any] | None = None,
        save: Callable[..., None] = network_folder.save_denoiser,
        report: Callable[[str], None] = say,
    ) -> None:
        """Go on from the network that is there.

        Args:
          directory: the folder, which is made when there is something to keep.
          metric: name of the value.
          higher_is_better: whether larger values are better.
          measured: what values are measured with and against, such as `Evaluator.record`. What
            was kept by another metric or measure can't be compared, and is kept aside.
          save: writes a network, called as `save_denoiser` is.
          report: is told what is done with it.
        """
        self._save = save
        self.directory = directory
        self._metric, self._higher_is_better = metric, higher_is_better
        self._measured = None if measured is None else json_values.encode("measured", measured)
        kept = _records(directory)
        if why := next(filter(None, map(self._incomparable, kept)), ""):
            aside = set_aside(directory)
            report(f"{directory} can't be compared ({why}): kept as {aside.name}")
            kept = []
        if measured is not None and any("measured" not in record for record in kept):
            report(
                f"{directory} doesn't say what it was measured against, as it is of an earlier "
                f"version: it is compared by the metric's name, {metric}, alone"
            )
        self._best = max((self._score(record["value"]) for record in kept), default=-math.inf)

    def offer(
        self,
        step: int,
        kimg: float,
        value: float,
        init_kwargs: Mapping[str, Any],
        params: Params,
        card: ModelCard | None = None,
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
          card: what it is.
          classes: that it was trained on, as `save_denoiser` takes them.

        Returns:
          Whether it was kept.
        """
        if not self._score(value) > self._best:
            return False
        self._best = self._score(value)
        folder = self.directory / str(step)
        shutil.rmtree(folder, ignore_errors=True)
        self._save(folder, init_kwargs, params, card=card, classes=classes)
        record = {"metric": self._metric, "value": value, "step": step, "kimg": kimg}
        if self._measured is not None:
            record["measured"] = self._measured
        # Written last: a folder without it was not finished.
        writing.write_text(folder / _METRIC_FILE, json.dumps(record) + "\n")
        for other in self.directory.iterdir():
            if other != folder:
                shutil.rmtree(other)
        return True

    def _incomparable(self, record: Mapping[str, Any]) -> str:
        """Say why a kept value and the next can't be compared; "" if they can."""
        if record["metric"] != self._metric:
            return f"metric: {record['metric']} -> {self._metric}"
        if self._measured is None or "measured" not in record:
            return ""
        return results.shown(results.differences(record["measured"], self._measured))

    def _score(self, value: float) -> float:
        return value if self._higher_is_better else -value


def has_one(directory: Path) -> bool:
    """Tell whether a folder, `W/best`, holds a network that was finished."""
    return bool(_records(directory))


def set_aside(directory: Path) -> Path:
    """Keep the best network under a name of its own, and return that.

    Args:
      directory: `W/best`, with a network in it.

    Raises:
      OSError: if it can't be renamed.
    """
    record = _newest(_records(directory))
    return results.keep_aside(directory, f"{record['metric']}_step{record['step']}", None)


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
            "evaluate.metrics, and evaluate.every_kimg over 0."
        )
    record = _newest(records)
    return workdir / FOLDER / str(record["step"]), record


def _newest(records: list[dict[str, Any]]) -> dict[str, Any]:
    # More than one only if a run was killed between writing one and deleting the other.
    return max(records, key=lambda record: record["step"])


def _records(directory: Path) -> list[dict[str, Any]]:
    files = sorted(directory.glob(f"*/{_METRIC_FILE}"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]
