"""Snapshots of power-function averages, of which averages of other lengths are made afterwards.

`W/averages/<images>_<std>/` is a network's folder, as `Experiment.save_network` writes it, with
`average.json` in it: the images at which the average ends, its length σ_rel, and the update.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax.distributed import sharding
from diffjax.files import writing
from diffjax.interfaces import Params
from diffjax.runs import results
from diffjax.runs.experiment import Experiment
from diffjax.training import ema, layouts, power_ema
from diffjax.training.state import TrainState

FOLDER = "averages"
RECORD = "average.json"


class Snapshot(NamedTuple):
    """A snapshot that was finished.

    Attributes:
      folder: of the network.
      images: at which its average ends.
      std: σ_rel.
    """

    folder: Path
    images: int
    std: float


class Snapshots:
    """Writer of a run's snapshots; all processes call every method."""

    def __init__(
        self, workdir: Path, exp: Experiment, mesh: Mesh, report: Callable[[str], None]
    ) -> None:
        """Write nothing yet.

        Args:
          workdir: of the run.
          exp: the run; without power-function averages nothing is ever written.
          mesh: the devices.
          report: shows a line.
        """
        self._folder, self._exp, self._mesh, self._report = workdir / FOLDER, exp, mesh, report
        named = exp.update.averages.names(exp.method.samples_from)
        self._names = [name for name in named if ema.parted(name)[1] is not None]

    def begin(self, images: int) -> None:
        """Keep aside what a run wrote that went on from where this one is, or another did.

        Args:
          images: seen so far.
        """
        if not self._names or jax.process_index() != 0:
            return
        if any(each.images > images for each in found(self._folder)):
            aside = results.keep_aside(self._folder, "earlier", None)
            self._report(f"{self._folder} has averages of later updates: kept as {aside.name}")
            for each in found(aside):
                if each.images <= images:
                    self._folder.mkdir(exist_ok=True)
                    each.folder.rename(self._folder / each.folder.name)

    def write(self, state: TrainState, step: int, images: int) -> None:
        """Write the averages as they are now.

        Args:
          state: of the run.
          step: updates done.
          images: of these.

        Raises:
          SaveError: if one can't be written.
        """
        for name in self._names:
            params = jax.device_put(state.averages[name], sharding.replicated(self._mesh))
            if jax.process_index() == 0:
                std = ema.parted(name)[1]
                folder = self._folder / f"{images:010d}_{std:.3f}"
                shutil.rmtree(folder, ignore_errors=True)  # of before it was resumed
                exp = self._exp
                card = exp.card(images)
                exp.save_network(folder, exp.init_kwargs, params, card=card, classes=exp.classes)
                # Written last: a folder without it was not finished.
                record = {"images": images, "std": std, "step": step}
                writing.write_text(folder / RECORD, json.dumps(record) + "\n")


def check_kept(before: ConfigDict, now: ConfigDict) -> None:
    """Check that a run that goes on has kept the averages that its config asks for.

    Args:
      before: config of the run so far.
      now: config that it goes on by.

    Raises:
      ValueError: naming those that it hasn't kept.
    """
    had, wanted = (set(each.get("edm2", {}).get("power_stds", ())) for each in (before, now))
    if wanted - had:
        layouts.refuse_powers(sorted(wanted - had))


def found(folder: Path) -> list[Snapshot]:
    """List the snapshots in a folder, by images and length.

    Args:
      folder: `W/averages`.

    Raises:
      ValueError: naming a record that can't be read.
    """
    snapshots = []
    for path in sorted(folder.glob(f"*/{RECORD}")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            images, std = int(record["images"]), float(record["std"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): take its folder out") from error
        snapshots.append(Snapshot(path.parent, images, std))
    return sorted(snapshots, key=lambda each: (each.images, each.std))


def average(
    snapshots: Sequence[Snapshot], std: float, read: Callable[[Path], Params]
) -> tuple[Params, float]:
    """Average the parameters of snapshots for another length, that ends with the last of them.

    Args:
      snapshots: at least one, as `found` gives them.
      std: σ_rel.
      read: reads a network's parameters.

    Returns:
      The parameters, and how far the fit of the profile is off, in its own norm: 0 where it is
      that of a snapshot.
    """
    ends = np.asarray([each.images for each in snapshots], np.float64)
    stds = np.asarray([each.std for each in snapshots], np.float64)
    weights = power_ema.posthoc_weights(ends, stds, ends.max(), std)[:, 0]
    wanted = ends.max(keepdims=True), np.asarray([std])
    within = power_ema.correlation(ends, stds, ends, stds)
    across = power_ema.correlation(ends, stds, *wanted)[:, 0]
    whole = power_ema.correlation(*wanted, *wanted)[0, 0]
    off: Any = whole - 2 * weights @ across + weights @ within @ weights
    params = power_ema.reconstruct((read(each.folder) for each in snapshots), weights)
    return params, float(np.sqrt(max(off, 0.0) / whole))
