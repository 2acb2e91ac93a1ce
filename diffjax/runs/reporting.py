"""Grids, measurements, the best network and the last one, as a run makes them."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffjax.distributed import sharding
from diffjax.evaluation import measures, references, sampling
from diffjax.evaluation.evaluator import Evaluator
from diffjax.files import images, writing
from diffjax.interfaces import Params
from diffjax.runs import best_network, results
from diffjax.runs.decoders import ADVICE
from diffjax.runs.experiment import Experiment
from diffjax.runs.logger import SAMPLES, RunLogger
from diffjax.runs.pictures import Pictures, PreviewError

NETWORK = "network"
RECORD = "trained.json"
_COMPARISON = "comparison"


class Reporter:
    """Samples of the averaged network as it is trained; all processes call every method.

    Attributes:
      measured: an evaluation's newest numbers, by name.
    """

    def __init__(
        self,
        workdir: Path,
        exp: Experiment,
        mesh: Mesh,
        *,
        rows: int,
        columns: int,
        seed: int,
        evaluator: Evaluator | None,
        best: str,
        reference: str,
        logger: RunLogger,
    ) -> None:
        """Write nothing yet.

        Args:
          workdir: of the run.
          exp: the run.
          mesh: the devices.
          rows: of a grid.
          columns: of a grid.
          seed: of a grid's latents and classes.
          evaluator: measures samples, if anything does.
          best: metric by which the best network is kept; "" keeps none.
          reference: real images, or their statistics, that samples are compared with.
          logger: where pictures and numbers go.
        """
        self.measured: dict[str, float] = {}
        self._workdir, self._exp, self._mesh = workdir, exp, mesh
        self._seed = seed
        self._pictures, self._has_told = Pictures(exp.examples, rows, columns), False
        self._metric, self._reference = best, reference
        self._logger = logger
        self._sampler = exp.sampler(seed=seed, mesh=mesh)
        self._evaluator = evaluator
        self._measure: results.Record = {}
        if evaluator is not None:
            self._measure = {**evaluator.record, "network": results.asked(exp)}
            del self._measure["metrics"]  # each number's name says its own
        self._evaluation_sampler: sampling.SampleBatch | None = None
        self._best: best_network.BestNetwork | None = None

    def open_best(self, step: int) -> None:
        """Go on with the best network of this run; an earlier run's there is kept aside."""
        name = self._metric
        if self._evaluator is None or not name or jax.process_index() != 0:
            return
        folder = self._workdir / best_network.FOLDER
        if step == 0 and best_network.has_one(folder):
            aside = best_network.set_aside(folder)
            self._logger.note(f"{folder} is of an earlier run: kept as {aside.name}")
        self._best = best_network.BestNetwork(
            folder,
            metric=self._evaluator.names[name],
            higher_is_better=measures.METRICS[name].higher_is_better,
            measured=self._measure,
            save=self._exp.save_network,
            report=self._logger.note,
        )

    def grid_images(self, state: Any) -> np.ndarray | None:
        """Sample from the same latents each time; None if samples hold NaN.

        Returns:
          [N, *shape], uint8 images of our own networks, else float32 in the units of the data.
        """
        try:
            return self._first_samples(self._sampler, self._exp.averaged(state))
        except FloatingPointError:
            return None

    def write_grid(self, samples: np.ndarray, step: int, kimg: float) -> None:
        """Write samples as a picture, where their shape has one."""
        with self._drawn():
            self._write(self._grid(samples), "samples", step, kimg)

    def evaluate(self, state: Any, step: int, kimg: float) -> None:
        """Measure samples, and keep the network if it is the best one."""
        assert self._evaluator is not None
        if self._evaluation_sampler is None:
            self._evaluation_sampler = self._exp.sampler(seed=self._evaluator.seed, mesh=self._mesh)
        params = self._exp.averaged(state)
        start = time.monotonic()
        self.measured = self._evaluator(
            self._evaluation_sampler, params, label_dim=self._exp.denoiser.label_dim
        )
        seconds = time.monotonic() - start
        timing = {"evaluation_seconds": seconds}
        if jax.process_index() == 0:
            self._note(results.note_measure(self._workdir, step, self._measure))
        self._logger.write_scalars(step, kimg, self.measured, timing)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in self.measured.items())
        self._logger.note(f"{kimg:.1f} kimg: {shown}  ({seconds:.1f} s)")
        if self._metric:
            self._offer_best(step, kimg, params)

    def finish(self, state: Any, inputs: Any, step: int, kimg: float) -> None:
        """Write the teacher's grid, the picture that compares, and the network by itself."""
        params = jax.device_put(self._exp.averaged(state), sharding.replicated(self._mesh))
        self._write_comparison(params, inputs, step, kimg)
        network = self._workdir / NETWORK
        before = self._finished_step()
        if before not in (None, step):
            self._logger.note(f"{network} was that of update {before}, and is now of {step}")
        if jax.process_index() == 0:
            shutil.rmtree(network, ignore_errors=True)  # of a shorter run that went on
            exp = self._exp
            card = exp.card(round(1000 * kimg))
            exp.save_network(network, exp.init_kwargs, params, card=card, classes=exp.classes)
            # Written last: without it the end of the run comes again.
            record = {"step": step, "kimg": kimg}
            writing.write_text(network / RECORD, json.dumps(record) + "\n")

    def is_finished(self, step: int) -> bool:
        """Tell whether `finish` was done for this step, and not only for a shorter run."""
        return self._finished_step() == step

    def _finished_step(self) -> int | None:
        path = self._workdir / NETWORK / RECORD
        if not path.is_file():
            return None
        step: int = json.loads(path.read_text(encoding="utf-8"))["step"]
        return step

    def _write_comparison(self, params: Params, inputs: Any, step: int, kimg: float) -> None:
        panels = []
        others = self._exp.comparisons(inputs, seed=self._seed, mesh=self._mesh)
        own = (self._exp.caption, self._sampler, params)
        for caption, sampler, sampler_params in [*others, own]:
            try:
                panels.append((caption, self._first_samples(sampler, sampler_params)))
            except FloatingPointError as error:  # the network is written all the same
                self._logger.note(f"warning: {caption}: not in the last picture: {error}")
        captions = [caption for caption, _, _ in others]
        for _, samples in (panel for panel in panels if panel[0] in captions):
            with self._drawn():  # as grids are, so that it lies over any of them in the report
                self._write(self._grid(samples), "teacher", step, kimg)
        real = self._real()
        if real is not None:
            panels.insert(0, real)
        if panels:
            with self._drawn():
                self._write(self._pictures.panels(panels), _COMPARISON, step, kimg)

    def _grid(self, samples: np.ndarray) -> np.ndarray | None:
        return self._pictures.grid(samples, shrink=2, padding=2)

    def _real(self) -> tuple[str, np.ndarray] | None:
        """Caption and samples of the reference, if it has any."""
        if self._evaluator is None:
            return None
        if self._evaluator.examples is not None:
            return "data", self._evaluator.examples[: self._pictures.count]
        if not self._exp.examples.holds_images or not references.holds_images(self._reference):
            return None
        real = references.examples(
            self._reference,
            self._pictures.count,
            label_dim=self._exp.denoiser.label_dim,
            among=self._exp.classes,
        )
        return "real images", real

    def _write(self, picture: np.ndarray | None, name: str, step: int, kimg: float) -> None:
        if picture is not None:
            self._logger.write_image(step, kimg, name, picture)
        elif not self._has_told:
            self._has_told = True
            examples = self._exp.examples
            how = "a teacher's preview would draw them"
            if examples.is_latent:
                how = f"to see them, {ADVICE}"
            self._logger.note(
                f"no pictures are written: examples of {examples.shape} have none; {how}"
            )

    @contextlib.contextmanager
    def _drawn(self) -> Iterator[None]:
        """Context in which a user's preview may fail, which is told once and stops nothing."""
        try:
            yield
        except PreviewError as error:
            if not self._has_told:
                self._has_told = True
                self._logger.note(f"warning: no pictures are written: {error}")

    def _offer_best(self, step: int, kimg: float, params: Params) -> None:
        # All processes bring the parameters together, and one of them decides.
        params = jax.device_put(params, sharding.replicated(self._mesh))
        if self._best is not None:
            assert self._evaluator is not None
            value = self.measured[self._evaluator.names[self._metric]]
            exp = self._exp
            card = exp.card(round(1000 * kimg))
            self._best.offer(step, kimg, value, exp.init_kwargs, params, card, classes=exp.classes)

    def _note(self, text: str) -> None:
        if text:
            self._logger.note(text)

    def _first_samples(self, sampler: sampling.SampleBatch, params: Params) -> np.ndarray:
        denoiser = self._exp.denoiser
        return sampling.first_images(
            sampler,
            params,
            self._pictures.count,
            label_dim=denoiser.label_dim,
            mesh=self._mesh,
            among=self._exp.classes,
            cond=denoiser.cond,
            seed=self._seed,
            quantise=self._exp.examples.holds_images,
        )


def comparison(workdir: Path, step: int) -> Path | None:
    """Find the picture that `Reporter.finish` wrote after so many updates; None without one."""
    for path in (workdir / SAMPLES).glob(f"{_COMPARISON}_*.png"):
        if images.read_text(path).get("step") == str(step):
            return path
    return None
