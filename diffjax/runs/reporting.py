"""What a run shows and keeps of its network: grids, measurements, the best one, the last one."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax.distributed import sharding
from diffjax.evaluation import evaluator, references, sampling
from diffjax.evaluation.evaluator import Evaluator
from diffjax.files import images, writing
from diffjax.interfaces import Params
from diffjax.models import network_folder
from diffjax.runs import best_network
from diffjax.runs.experiment import Experiment
from diffjax.runs.logger import RunLogger

NETWORK = "network"
_RECORD = "trained.json"


class Reporter:
    """Samples from the averaged network as it is trained; all processes call every method.

    Attributes:
      measured: an evaluation's newest numbers, by name.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        exp: Experiment,
        mesh: Mesh,
        evaluator: Evaluator | None,
        logger: RunLogger,
    ) -> None:
        """Writes nothing yet.

        Args:
          config: of the run.
          workdir: of the run.
          exp: the run.
          mesh: the devices.
          evaluator: what measures samples, if anything does.
          logger: where pictures and numbers go.
        """
        self.measured: dict[str, float] = {}
        self._config, self._workdir, self._exp, self._mesh = config, workdir, exp, mesh
        self._logger = logger
        self._sampler = exp.sampler(seed=config.grid.seed, mesh=mesh)
        self._evaluator = evaluator
        self._evaluation_sampler: sampling.SampleBatch | None = None
        self._best: best_network.BestSnapshot | None = None

    def open_best(self, step: int) -> None:
        """Goes on with the best network of this run; that of an earlier run there makes way."""
        name = self._config.evaluate.best
        if self._evaluator is None or not name or jax.process_index() != 0:
            return
        folder = self._workdir / best_network.FOLDER
        if step == 0:
            shutil.rmtree(folder, ignore_errors=True)
        self._best = best_network.BestSnapshot(
            folder,
            metric=self._evaluator.names[name],
            higher_is_better=evaluator.METRICS[name].higher_is_better,
        )

    def grid_images(self, state: Any) -> np.ndarray | None:
        """Samples from the same latents each time, [N, H, W, C] uint8; None if they hold NaN."""
        try:
            return self._first_images(self._sampler, self._exp.ema_params(state))
        except FloatingPointError:
            return None

    def write_grid(self, pictures: np.ndarray, step: int) -> None:
        """Samples as a picture."""
        scale = max(1, images.visible_scale(pictures.shape[1]) // 2)
        picture = images.grid(pictures, columns=self._config.grid.columns, scale=scale, padding=2)
        self._logger.write_image(step, self._kimg(step), "samples", picture)

    def evaluate(self, state: Any, step: int) -> None:
        """Measures samples, and keeps the network if it is the best one."""
        assert self._evaluator is not None
        if self._evaluation_sampler is None:
            self._evaluation_sampler = self._exp.sampler(seed=self._evaluator.seed, mesh=self._mesh)
        params = self._exp.ema_params(state)
        start = time.monotonic()
        self.measured = self._evaluator(
            self._evaluation_sampler, params, label_dim=self._exp.denoiser.label_dim
        )
        seconds = time.monotonic() - start
        timing = {"evaluation_seconds": seconds}
        self._logger.write_scalars(step, self._kimg(step), self.measured, timing)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in self.measured.items())
        self._logger.note(f"{self._kimg(step):.1f} kimg: {shown}  ({seconds:.1f} s)")
        if self._config.evaluate.best:
            self._offer_best(step, params)

    def finish(self, state: Any, frozen: Any, step: int) -> None:
        """The picture that compares, and the network by itself."""
        params = jax.device_put(self._exp.ema_params(state), sharding.replicated(self._mesh))
        self._write_comparison(params, frozen, step)
        network = self._workdir / NETWORK
        if jax.process_index() == 0:
            shutil.rmtree(network, ignore_errors=True)  # of a shorter run that went on
            network_folder.save_denoiser(network, self._exp.init_kwargs, params)
            # Written last: without it the end of the run comes again.
            record = {"step": step, "kimg": self._kimg(step)}
            writing.write_text(network / _RECORD, json.dumps(record) + "\n")
        self._logger.note(f"done: pictures in {self._workdir}/samples, the network in {network}")

    def is_finished(self, step: int) -> bool:
        """Whether `finish` was done for this step, and not only for a shorter run."""
        path = self._workdir / NETWORK / _RECORD
        return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["step"] == step

    def _write_comparison(self, params: Params, frozen: Any, step: int) -> None:
        grid = self._config.grid
        panels = [
            (caption, self._first_images(sampler, sampler_params))
            for caption, sampler, sampler_params in [
                *self._exp.comparisons(frozen, seed=grid.seed, mesh=self._mesh),
                (self._exp.caption, self._sampler, params),
            ]
        ]
        reference = self._config.evaluate.reference
        if self._evaluator is not None and references.holds_images(reference):
            real = references.examples(
                reference, grid.rows * grid.columns, label_dim=self._exp.denoiser.label_dim
            )
            panels.insert(0, ("real images", real))
        picture = images.labelled_panels(panels, columns=grid.columns, padding=4)
        self._logger.write_image(step, self._kimg(step), "comparison", picture)

    def _offer_best(self, step: int, params: Params) -> None:
        # All processes bring the parameters together, and one of them decides.
        params = jax.device_put(params, sharding.replicated(self._mesh))
        if self._best is not None:
            assert self._evaluator is not None
            value = self.measured[self._evaluator.names[self._config.evaluate.best]]
            self._best.offer(step, self._kimg(step), value, self._exp.init_kwargs, params)

    def _first_images(self, sampler: sampling.SampleBatch, params: Params) -> np.ndarray:
        grid = self._config.grid
        return sampling.first_images(
            sampler,
            params,
            grid.rows * grid.columns,
            label_dim=self._exp.denoiser.label_dim,
            mesh=self._mesh,
        )

    def _kimg(self, step: int) -> float:
        return step * self._exp.batch_size / 1000
