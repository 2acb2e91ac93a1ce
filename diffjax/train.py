"""The training loop: build, compile, run, show, keep."""

import dataclasses
import functools
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax import (
    checkpointing,
    evaluation,
    experiment,
    images,
    preemption,
    references,
    runtime,
    sampling,
    sharding,
    snapshots,
)
from diffjax import logging as run_logging
from diffjax.evaluation import Evaluator
from diffjax.experiment import Experiment
from diffjax.types import Array, Params, PRNGKey

Totals = dict[str, Array]


def train(config: ConfigDict, workdir: str) -> None:
    """Runs a config to its end, going on from the newest checkpoint in `workdir` if there is one.

    Args:
      config: one of `configs/`.
      workdir: the run's folder; see `diffjax.logging` for what is written there, besides
        `checkpoints/`, the best network by `config.evaluate.best` in `best/` and, at the end,
        the trained one in `network/`.

    Raises:
      ValueError: a config that can't be run, before anything is computed or written.
      FloatingPointError: a loss that is no longer finite.
    """
    runtime.prepare(deterministic=config.deterministic, distributed=config.distributed)
    mesh = sharding.make_mesh(**config.mesh)
    sharding.check_batch(config.batch_size, config.get("accumulation", 1), mesh)
    exp = experiment.build(config)
    evaluator = None
    if config.evaluate.every_kimg:
        evaluation.check_best(config.evaluate.best, config.evaluate.metrics)
        evaluator = experiment.evaluator(config, exp, mesh)
    frozen = exp.load_frozen()
    frozen = jax.device_put(frozen, sharding.state(frozen, mesh))
    _Run(config, Path(workdir), exp, frozen, mesh, evaluator).run()


@dataclasses.dataclass
class _Schedule:
    """When what happens, in updates."""

    total: int
    log: int
    grid: int
    checkpoint: int
    evaluate: int

    @classmethod
    def of(cls, config: ConfigDict) -> "_Schedule":
        def updates(kimg: float) -> int:
            return max(1, round(kimg * 1000 / config.batch_size)) if kimg else 0

        return cls(
            total=experiment.total_steps(config),
            log=updates(config.log_kimg),
            grid=updates(config.grid_kimg),
            checkpoint=updates(config.checkpoint_kimg),
            evaluate=updates(config.evaluate.every_kimg),
        )

    def due(self, every: int, step: int) -> bool:
        """Whether something that happens `every` so many updates, and at the end, happens now."""
        return bool(every) and (step % every == 0 or step == self.total)

    def next_stop(self, step: int) -> int:
        """The next update at which anything happens."""
        periods = [n for n in (self.log, self.grid, self.checkpoint, self.evaluate) if n]
        return min([self.total, *(step - step % n + n for n in periods)])


def compile_updates(exp: Experiment, mesh: Mesh, updates_per_call: int) -> Callable[..., Any]:
    """One compiled call for up to `updates_per_call` updates, the state donated.

    Returns:
      (state, frozen, key, count) -> (state, metrics summed over the `count` updates). With
      `updates_per_call` 1, `count` must be 1 and there is no compiled loop, inside which a CPU
      would run convolutions on one thread.
    """
    shardings = sharding.state(exp.abstract_state(), mesh)

    def update(state: Any, frozen: Any, key: PRNGKey) -> tuple[Any, Totals]:
        return exp.update(state, frozen, jax.random.fold_in(key, state.step), mesh)

    @functools.partial(
        jax.jit, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh))
    )
    def call(state: Any, frozen: Any, key: PRNGKey, count: Array) -> tuple[Any, Totals]:
        if updates_per_call == 1:
            return update(state, frozen, key)
        _, metrics = jax.eval_shape(update, state, frozen, key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), metrics)

        def body(_: Array, carry: tuple[Any, Totals]) -> tuple[Any, Totals]:
            state, totals = carry
            state, metrics = update(state, frozen, key)
            return state, jax.tree.map(jnp.add, totals, metrics)

        return jax.lax.fori_loop(0, count, body, (state, zeros))

    return call


class _Pending:
    """Sums of metrics since the last line; kept in checkpoints, so that lines don't change."""

    def __init__(self, meta: Mapping[str, Any]) -> None:
        self.totals: dict[str, Any] = dict(meta.get("pending_totals", {}))
        self.count: int = meta.get("pending_count", 0)

    def add(self, totals: Totals, count: int) -> None:
        self.totals = {k: np.float32(self.totals.get(k, 0)) + v for k, v in totals.items()}
        self.count += count

    def meta(self) -> dict[str, Any]:
        return {
            "pending_totals": {k: float(v) for k, v in self.totals.items()},
            "pending_count": self.count,
        }

    def means(self) -> dict[str, float]:
        return {k: float(v) / self.count for k, v in self.totals.items()}

    def take(self) -> dict[str, float]:
        means = self.means()
        self.totals, self.count = {}, 0
        return means


class _Run:
    """One run of the loop over an experiment."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        exp: Experiment,
        frozen: Any,
        mesh: Mesh,
        evaluator: Evaluator | None,
    ) -> None:
        self.config, self.workdir, self.exp = config, workdir, exp
        self.frozen, self.mesh = frozen, mesh
        self.schedule = _Schedule.of(config)
        self.key = jax.random.key(config.seed)
        self.sampler = exp.sampler(seed=config.grid.seed, mesh=mesh)
        self.evaluator = evaluator
        self.evaluation_sampler: sampling.SampleBatch | None = None
        self.best: snapshots.BestSnapshot | None = None
        self.measured: dict[str, float] = {}

    def run(self) -> None:
        """From the newest checkpoint, or the start, to the end."""
        with checkpointing.Checkpointer(
            self.workdir / "checkpoints", keep=self.config.keep_checkpoints
        ) as checkpointer:
            state, meta = self._start(checkpointer)
            step = int(state.step)
            self.best = self._open_best(step)
            logger = run_logging.RunLogger(
                self.workdir,
                total_kimg=self._kimg(self.schedule.total),
                is_main=jax.process_index() == 0,
                resume_step=step if meta else None,
            )
            with logger, preemption.Preemption() as stop:
                self._loop(state, step, _Pending(meta), checkpointer, logger, stop)

    def _loop(
        self,
        state: Any,
        step: int,
        pending: _Pending,
        checkpointer: checkpointing.Checkpointer,
        logger: run_logging.RunLogger,
        stop: preemption.Preemption,
    ) -> None:
        schedule, updates_per_call = self.schedule, self.config.updates_per_call
        first_step = step
        if step == 0:
            self._announce(state, logger)
            self._write_grid(state, step, logger)
        elif step < schedule.total:
            logger.note(f"resuming at {self._kimg(step):.1f} kimg (update {step})")
        call = compile_updates(self.exp, self.mesh, updates_per_call)
        stream = self.exp.stream(step, self.mesh)
        in_flight: tuple[int, Totals] | None = None
        timing: dict[str, float] = {}
        calls = 0
        started, window_start = time.monotonic(), step
        if step < schedule.total:
            logger.compiling()
        while step < schedule.total:
            count = min(updates_per_call, schedule.next_stop(step) - step)
            frozen = self.frozen if stream is None else next(stream)
            state, totals = call(state, frozen, self.key, count)
            step += count
            pending.add(totals, count)
            if step == first_step + count:  # compiling is no part of the rate
                jax.block_until_ready(totals)
                timing["first_call_seconds"] = time.monotonic() - started
                started, window_start = time.monotonic(), step
            # One call behind the device, so that it always has work queued.
            if in_flight is not None:
                self._show(*in_flight, logger)
            in_flight = (step, jax.tree.map(lambda x, n=count: x / n, totals))
            if schedule.due(schedule.log, step):
                self._show(*in_flight, logger)
                in_flight = None
                if step > window_start:
                    seconds = (time.monotonic() - started) / (step - window_start)
                    timing["images_per_second"] = self.exp.batch_size / seconds
                    timing["seconds_per_update"] = seconds
                means = pending.take()
                self._check_finite(means, step, checkpointer)
                logger.write_scalars(step, self._kimg(step), means, timing)
                timing = {}
                started, window_start = time.monotonic(), step
            if step == schedule.next_stop(step - 1):  # nothing is shown or kept that diverged
                self._check_finite(pending.means(), step, checkpointer)
            with logger.paused():
                pause = time.monotonic()
                if schedule.due(schedule.grid, step):
                    self._write_grid(state, step, logger)
                if schedule.due(schedule.evaluate, step):
                    self._evaluate(state, step, logger)
                calls += 1
                must_stop = stop.requested(calls)
                if must_stop or schedule.due(schedule.checkpoint, step):
                    checkpointer.save(step, state, {"kimg": self._kimg(step), **pending.meta()})
                started += time.monotonic() - pause
            if must_stop:
                logger.note(f"told to stop: saved update {step}; the same command goes on")
                return
        self._finish(state, step, first_step, logger)

    def _start(self, checkpointer: checkpointing.Checkpointer) -> tuple[Any, dict[str, Any]]:
        abstract = self.exp.abstract_state()
        shardings = sharding.state(abstract, self.mesh)
        if checkpointer.latest_step() is not None:
            return checkpointer.restore(sharding.with_shardings(abstract, shardings))
        return jax.jit(self.exp.init_state, out_shardings=shardings)(self.frozen), {}

    def _kimg(self, step: int) -> float:
        return step * self.exp.batch_size / 1000

    def _announce(self, state: Any, logger: run_logging.RunLogger) -> None:
        params = self.exp.ema_params(state)
        count = parameter_overview.count_parameters(params)
        devices = f"{self.mesh.size} x {jax.devices()[0].device_kind}"
        logger.note(
            f"{self.schedule.total} updates of {self.exp.batch_size} images on {devices}, "
            f"{count / 1e6:.2f}M parameters a network; everything goes to {self.workdir}"
        )

    def _show(self, step: int, metrics: Totals, logger: run_logging.RunLogger) -> None:
        shown = {short: float(metrics[name]) for name, short in self.exp.shown.items()}
        logger.progress(step, self._kimg(step), shown, self.measured)

    def _check_finite(
        self, means: Mapping[str, float], step: int, checkpointer: checkpointing.Checkpointer
    ) -> None:
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if bad:
            latest = checkpointer.latest_step()
            kept = "no checkpoint was saved" if latest is None else f"step {latest} is kept"
            raise FloatingPointError(
                f"{', '.join(bad)} not finite by update {step}; {kept}. Lower the learning rates "
                "or, in SiD, alpha, and start again in a new workdir."
            )

    def _write_grid(self, state: Any, step: int, logger: run_logging.RunLogger) -> None:
        grid = self.config.grid
        pictures = self._first_images(self.sampler, self.exp.ema_params(state))
        scale = max(1, images.visible_scale(pictures.shape[1]) // 2)
        picture = images.grid(pictures, columns=grid.columns, scale=scale, padding=2)
        logger.write_image(step, self._kimg(step), "samples", picture)

    def _first_images(self, sampler: sampling.SampleBatch, params: Params) -> np.ndarray:
        grid = self.config.grid
        return sampling.first_images(
            sampler,
            params,
            grid.rows * grid.columns,
            label_dim=self.exp.denoiser.label_dim,
            mesh=self.mesh,
        )

    def _evaluate(self, state: Any, step: int, logger: run_logging.RunLogger) -> None:
        assert self.evaluator is not None
        if self.evaluation_sampler is None:
            self.evaluation_sampler = self.exp.sampler(seed=self.evaluator.seed, mesh=self.mesh)
        params = self.exp.ema_params(state)
        self.measured = self.evaluator(
            self.evaluation_sampler, params, label_dim=self.exp.denoiser.label_dim
        )
        logger.write_scalars(step, self._kimg(step), self.measured)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in self.measured.items())
        logger.note(f"{self._kimg(step):.1f} kimg: {shown}")
        if self.config.evaluate.best:
            self._offer_best(step, params)

    def _open_best(self, step: int) -> snapshots.BestSnapshot | None:
        """Goes on with the best network of this run; that of an earlier run there makes way."""
        name = self.config.evaluate.best
        if self.evaluator is None or not name or jax.process_index() != 0:
            return None
        folder = self.workdir / snapshots.FOLDER
        if step == 0:
            shutil.rmtree(folder, ignore_errors=True)
        return snapshots.BestSnapshot(
            folder,
            metric=self.evaluator.names[name],
            higher_is_better=evaluation.METRICS[name].higher_is_better,
        )

    def _offer_best(self, step: int, params: Params) -> None:
        # All processes bring the parameters together, and one of them decides.
        params = jax.device_put(params, sharding.replicated(self.mesh))
        if self.best is not None:
            assert self.evaluator is not None
            value = self.measured[self.evaluator.names[self.config.evaluate.best]]
            self.best.offer(step, self._kimg(step), value, self.exp.init_kwargs, params)

    def _finish(
        self, state: Any, step: int, started_at: int, logger: run_logging.RunLogger
    ) -> None:
        """The picture that compares, and the network by itself; both once, at the end."""
        network = self.workdir / "network"
        if started_at == step and network.exists():
            logger.note(f"{self.workdir} is complete; a larger duration_kimg would go on.")
            return
        params = jax.device_put(self.exp.ema_params(state), sharding.replicated(self.mesh))
        panels = [
            (caption, self._first_images(sampler, sampler_params))
            for caption, sampler, sampler_params in [
                *self.exp.comparisons(self.frozen, seed=self.config.grid.seed, mesh=self.mesh),
                (self.exp.caption, self.sampler, params),
            ]
        ]
        reference = self.config.evaluate.reference
        if self.evaluator is not None and references.holds_images(reference):
            count = self.config.grid.rows * self.config.grid.columns
            label_dim = self.exp.denoiser.label_dim
            real = references.examples(reference, count, label_dim=label_dim)
            panels.insert(0, ("real images", real))
        picture = images.labelled_panels(panels, columns=self.config.grid.columns, padding=4)
        logger.write_image(step, self._kimg(step), "comparison", picture)
        if jax.process_index() == 0:
            shutil.rmtree(network, ignore_errors=True)  # of a shorter run that went on
            checkpointing.save_denoiser(network, self.exp.init_kwargs, params)
        logger.note(f"done: pictures in {self.workdir}/samples, the network in {network}")
