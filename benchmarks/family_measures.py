"""Distance, precision, recall and grids of `benchmarks.family`, all of the same latents.

Only what a GPU does is done in a turn at it (`turns.py`); meanwhile others have it.
"""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from benchmarks import family_jobs, turns
from benchmarks.family_jobs import Study
from diffjax import metrics
from diffjax.evaluation import evaluator, features, references, sampling
from diffjax.files import images, writing
from diffjax.interfaces import Params
from diffjax.runs.experiment import Experiment

SAMPLES_SEED = 7  # of those that are measured
GRID_SEED = 0
_GRID_ROWS = 10
_BATCH = 500  # samples at a time


class Measures:
    """Distance, precision and recall of samples, and a grid of them."""

    def __init__(self, study: Study, exp: Experiment, mesh: Mesh, output: Path) -> None:
        """Read the real images' features, or compute and keep them.

        Args:
          study: what is compared with what.
          exp: any row's.
          mesh: one device.
          output: the study's folder.
        """
        self._exp, self._mesh = exp, mesh
        extract = features.load(study.features)
        with turns.turn():
            reference = _reference(study, exp, extract, mesh, output)
        assert reference.rows is not None
        self._few = reference.rows[: study.few]
        few = dataclasses.replace(reference, rows=self._few)
        self._measures = [
            evaluator.Evaluator(
                features=extract,
                names=names,
                reference=compared,
                count=count,
                batch_size=min(_BATCH, count),
                seed=SAMPLES_SEED,
                mesh=mesh,
                classes=exp.classes,
            )
            for names, compared, count in (
                (("fd",), reference, study.count),
                (("precision", "recall"), few, study.few),
            )
        ]

    def compile(
        self, measured: sampling.SampleBatch, shown: sampling.SampleBatch, params: Params
    ) -> None:
        """Make a batch of each kind, so that a turn at a GPU isn't spent on compiling.

        Args:
          measured: sampler of what is measured.
          shown: sampler of grids.
          params: of their network.
        """
        with contextlib.suppress(FloatingPointError):  # which the measures tell
            for evaluating in self._measures:
                evaluating.compile(measured, params, label_dim=self._exp.denoiser.label_dim)
            self._tiles(shown, params)
        metrics.precision_recall(self._few, self._few)

    def distance(self, sampler: sampling.SampleBatch, params: Params) -> dict[str, float | None]:
        """Measure the distance; None where samples hold NaN. It waits for a turn at the GPU."""
        # Of the moments the host finds it, while others have the GPU.
        return self._call(0, sampler, params, ("distance",), contextlib.nullcontext())

    def diversity(self, sampler: sampling.SampleBatch, params: Params) -> dict[str, float | None]:
        """Measure precision and recall; None where samples hold NaN. It waits for a turn."""
        return self._call(1, sampler, params, ("precision", "recall"), turns.turn())

    def write_grid(self, path: Path, sampler: sampling.SampleBatch, params: Params) -> None:
        """Write a grid from the study's latents, unless samples hold NaN. It waits for a turn."""
        try:
            with turns.turn():
                tiles = self._tiles(sampler, params)
        except FloatingPointError:
            return
        images.save_png(path, images.grid(tiles, columns=family_jobs.GRID_COLUMNS, padding=0))

    def _tiles(self, sampler: sampling.SampleBatch, params: Params) -> np.ndarray:
        return sampling.first_images(
            sampler,
            params,
            _GRID_ROWS * family_jobs.GRID_COLUMNS,
            label_dim=self._exp.denoiser.label_dim,
            mesh=self._mesh,
            among=self._exp.classes,
        )

    def _call(
        self,
        index: int,
        sampler: sampling.SampleBatch,
        params: Params,
        names: tuple[str, ...],
        while_finding: contextlib.AbstractContextManager[None],
    ) -> dict[str, float | None]:
        evaluating, label_dim = self._measures[index], self._exp.denoiser.label_dim
        try:
            with turns.turn():
                tally = evaluating.collect(sampler, params, label_dim=label_dim)
        except FloatingPointError:
            return dict.fromkeys(names)
        with while_finding:
            found = evaluating.values(tally)
        return dict(zip(names, found.values(), strict=True))


def _reference(
    study: Study, exp: Experiment, extract: features.Features, mesh: Mesh, output: Path
) -> references.Reference:
    path = output / f"reference_{extract.name}_{Path(study.data).stem}.npz"
    if path.exists():
        with np.load(path) as kept:
            return references.Reference(kept["mean"], kept["cov"], kept["rows"])
    made = references.load(
        study.data,
        extract,
        image_shape=exp.denoiser.shape,
        keep_rows=True,
        batch_size=_BATCH,
        mesh=mesh,
    )
    assert made.mean is not None
    assert made.cov is not None
    assert made.rows is not None
    with writing.replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, mean=made.mean, cov=made.cov, rows=made.rows)
    return made
