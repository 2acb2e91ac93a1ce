"""The training loop: build, compile, run, show, keep."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
from clu import parameter_overview
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax.distributed import peers, preemption, runtime, sharding, watchdog
from diffjax.evaluation import evaluator
from diffjax.files import writing
from diffjax.interfaces import PRNGKey
from diffjax.runs import building, checks, reporting, saved_config
from diffjax.runs.experiment import Experiment
from diffjax.runs.logger import RunLogger
from diffjax.training import checkpointing, compilation, failures, guard
from diffjax.training import totals as update_totals
from diffjax.training.background_compilation import Ahead
from diffjax.training.collapse import CollapseWatch
from diffjax.training.running_means import RunningMeans
from diffjax.training.schedule import Schedule
from diffjax.training.totals import Totals

_CHECKPOINTS = "checkpoints"
_PATIENCE = 0.2  # seconds from one question whether to stop to the next, while compiling


def train(config: ConfigDict, workdir: str, *, allow_changed_config: bool = False) -> None:
    """Runs a config to its end, going on from the newest checkpoint in `workdir` if there is one.

    Args:
      config: one of `configs/`.
      workdir: the run's folder; see `diffjax.runs.logger` for what is written there, besides
        `checkpoints/`, the best network by `config.evaluate.best` in `best/` and, at the end,
        the trained one in `network/`; and the config, in `config.json`.
      allow_changed_config: goes on where a run with another config was.

    Raises:
      ValueError: a config that can't be run or isn't that of the run in `workdir`, before anything
        is computed or written.
      OSError: a work directory that can't be written to, before anything is computed, or a full
        disk, the newest checkpoint being left whole.
      FloatingPointError: `config.max_skipped_in_a_row` updates in a row that were not finite. What
        they met is in the newest checkpoint and in `failed_update.json`, for
        `python -m diffjax.tools.replay`.
    """
    checks.check(config)
    with peers.joined(
        config.to_dict(),
        deterministic=config.deterministic,
        distributed=config.distributed,
        peer_seconds=config.watchdog.peer_seconds,
        compilation_cache=config.compilation_cache,
    ) as others:
        mesh = sharding.make_mesh(**config.mesh)
        sharding.check_batch(config.batch_size, config.get("accumulation", 1), mesh)
        exp = building.build(config)
        if config.evaluate.every_kimg:
            building.check_evaluation(config)
            evaluator.check_best(config.evaluate.best, config.evaluate.metrics)
        if not allow_changed_config:
            saved_config.check_unchanged(Path(workdir), config)
        with preemption.Preemption() as stop:
            _run(config, workdir, exp, mesh, stop, others)


def _run(
    config: ConfigDict,
    folder: str,
    exp: Experiment,
    mesh: Mesh,
    stop: preemption.Preemption,
    others: peers.Peers,
) -> None:
    """From the newest checkpoint, or the start, to the end."""
    # First, so that one that can't be had, or doesn't fit, is refused before anything is written.
    initial, step = _look_ahead(exp, Path(folder) / _CHECKPOINTS)
    workdir = writing.make_writable(folder)
    key = jax.random.key(config.seed)
    updates = _compile(config, exp, mesh, key, is_needed=step < building.total_steps(config))
    evaluator = building.make_evaluator(config, exp, mesh) if config.evaluate.every_kimg else None
    frozen = exp.load_frozen()
    frozen = sharding.put(frozen, sharding.state(frozen, mesh))
    if jax.process_index() == 0:
        saved_config.save(workdir, config)
    with checkpointing.Checkpointer(
        workdir / _CHECKPOINTS, keep=config.keep_checkpoints
    ) as checkpointer:
        state, meta = _start(exp, frozen, initial, mesh, checkpointer)
        del initial  # so that its memory is free while the run lasts
        frozen = exp.narrowed(frozen)  # now that the networks that start as it are there
        step = int(state.step)
        logger = RunLogger(
            workdir,
            total_kimg=building.total_steps(config) * exp.batch_size / 1000,
            is_main=jax.process_index() == 0,
            resume_step=step if meta else None,
        )
        checkpointer.report = logger.note
        dog = watchdog.Watchdog(
            slow_factor=config.watchdog.slow_factor,
            slow_seconds=config.watchdog.slow_seconds,
            hang_seconds=config.watchdog.hang_seconds,
            peers=others,
            report=logger.note,
        )
        with logger, dog:
            reporter = reporting.Reporter(config, workdir, exp, mesh, evaluator, logger)
            reporter.open_best(step)
            loop = _Loop(config, workdir, exp, mesh, checkpointer, logger, reporter, stop, dog)
            loop.begin(state, meta)
            if loop.step == loop.schedule.total and reporter.is_finished(loop.step):
                logger.note(f"{workdir} is complete; a larger duration_kimg would go on.")
            elif loop.run(updates, frozen, key):
                reporter.finish(loop.state, frozen, loop.step)


def _look_ahead(exp: Experiment, checkpoints: Path) -> tuple[Any, int]:
    """What a new run's generator starts as, and the update that the newest checkpoint is of.

    A run that goes on doesn't need the first, nor look for it.
    """
    with checkpointing.Checkpointer(checkpoints, read_only=True) as checkpointer:
        step = checkpointer.latest_step()
    return (exp.load_initial(), 0) if step is None else (None, step)


def _compile(
    config: ConfigDict, exp: Experiment, mesh: Mesh, key: PRNGKey, *, is_needed: bool
) -> Callable[..., Any]:
    """The updates; from here on they are compiled, while this thread reads, places and draws."""
    updates = compilation.updates(
        exp, mesh, config.updates_per_call, apart=building.compiles_apart(config, exp)
    )
    state, frozen = compilation.abstract_inputs(exp, mesh)
    is_streamed = frozen is None
    return Ahead(updates, state, frozen, key, 1) if is_needed and not is_streamed else updates


def _start(
    exp: Experiment,
    frozen: Any,
    initial: Any,
    mesh: Mesh,
    checkpointer: checkpointing.Checkpointer,
) -> tuple[Any, dict[str, Any]]:
    abstract = exp.abstract_state()
    shardings = sharding.state(abstract, mesh)
    if checkpointer.latest_step() is not None:
        return checkpointer.restore(sharding.with_shardings(abstract, shardings))
    networks = [frozen]
    if initial is not None:
        networks.append(sharding.put(initial, sharding.state(initial, mesh)))
    return jax.jit(exp.init_state, out_shardings=shardings)(*networks), {}


class _Loop:
    """Where a run is, and what each call of the compiled updates is followed by.

    Attributes:
      schedule: when what happens.
      state: the training state after `step` updates.
      step: updates done.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        exp: Experiment,
        mesh: Mesh,
        checkpointer: checkpointing.Checkpointer,
        logger: RunLogger,
        reporter: reporting.Reporter,
        stop: preemption.Preemption,
        dog: watchdog.Watchdog,
    ) -> None:
        self.schedule = Schedule.of(config)
        self.state: Any = None
        self.step = 0
        self._config, self._workdir, self._exp, self._mesh = config, workdir, exp, mesh
        self._checkpointer, self._logger, self._reporter = checkpointer, logger, reporter
        self._stop, self._calls = stop, 0
        self._dog = dog
        self._updates_per_call = config.updates_per_call
        self._pending = RunningMeans({})
        self._collapse = CollapseWatch({}, {})
        self._in_flight: tuple[int, Totals] | None = None  # not shown yet
        self._is_skipping = False
        self._stopwatch = _Stopwatch()

    def begin(self, state: Any, meta: Mapping[str, Any]) -> None:
        """Goes on from a state and what its checkpoint says; without `meta` it is a new run."""
        if guard.halted(state, self._exp.max_skipped_in_a_row):
            state = guard.resume(state)
        self.state, self.step, self._pending = state, int(state.step), RunningMeans(meta)
        self._collapse = CollapseWatch(building.suspects(self._config), meta)
        if not meta:
            self._announce()
            self._report()
        elif self.step < self.schedule.total:
            kimg = self._kimg(self.step)
            self._logger.note(f"resuming at {kimg:.1f} kimg (update {self.step})")
        if meta.get("unreported"):
            self._report()

    def run(self, updates: Callable[..., Any], frozen: Any, key: PRNGKey) -> bool:
        """Updates to the end, and returns True; or saves and returns False if told to stop."""
        stream = self._exp.stream(self.step, self._mesh)
        self._stopwatch.start(self.step)
        if self.step < self.schedule.total and not self._is_compiled(updates):
            self._logger.note("told to stop before the first update; the same command goes on")
            return False
        while self.step < self.schedule.total:
            stop_at = self.schedule.next_stop(self.step)
            count = min(self._updates_per_call, stop_at - self.step)
            inputs = frozen if stream is None else next(stream)
            self.state, totals = updates(self.state, inputs, key, count)
            self._after_call(totals, count)
            self._dog.done(self.step)
            if self._happenings():
                self._logger.note(
                    f"told to stop: saved update {self.step}; the same command goes on"
                )
                return False
        return True

    def _is_compiled(self, updates: Callable[..., Any]) -> bool:
        """Waits for updates that are compiled ahead; returns False if told to stop before."""
        if self._stop.requested():
            return False
        self._logger.compiling()
        while isinstance(updates, Ahead) and not updates.is_compiled(within=_PATIENCE):
            if self._stop.requested_alone():
                return False
        return True

    def _after_call(self, totals: Totals, count: int) -> None:
        """Counts, shows and logs, one call behind the device, so that it always has work queued."""
        self.step += count
        self._calls += 1
        self._pending.add(totals)
        if self._calls == 1:  # compiling is no part of the rate
            jax.block_until_ready(totals)
            self._stopwatch.compiled(self.step)
        self._show()
        self._in_flight = (self.step, totals)
        if self.schedule.is_stop(self.step):
            self._show()
        if self.schedule.due(self.schedule.log, self.step):
            timing = self._stopwatch.lap(self.step, self._exp.batch_size)
            memory = runtime.peak_memory_gib()
            timing |= {} if memory is None else {"peak_memory_gib": memory}
            means = self._pending.take()
            self._logger.write_scalars(self.step, self._kimg(self.step), means, timing)
            if "delta" in means:
                self._warn(self._collapse.look_at_delta(means["delta"]))

    def _happenings(self) -> bool:
        """Draws, measures and saves what is due now; returns whether the run is to stop."""
        schedule, step, saves = self.schedule, self.step, self._checkpointer
        with self._logger.paused(), self._stopwatch.paused(), self._dog.paused():
            if self._stop.requested():
                self._show()  # which may be worse news
                # Measuring may take longer than is left, so that the run that goes on does it.
                saves.save_and_wait(step, self.state, {**self._meta(), "unreported": True})
                return True
            self._report()
            # While updates are skipped the state stays what it was; saving it again and again
            # would only push out the checkpoints before it.
            is_due = schedule.due(schedule.checkpoint, step) and not self._is_skipping
            if step == schedule.total:
                saves.save_and_wait(step, self.state, self._meta())
            elif is_due or (schedule.is_stop(step) and saves.must_save_again()):
                saves.save(step, self.state, self._meta())
        return False

    def _meta(self) -> dict[str, Any]:
        """What a checkpoint holds besides the state."""
        return {
            "kimg": self._kimg(self.step),
            **self._pending.meta(),
            **self._collapse.meta(),
        }

    def _report(self) -> None:
        """Draws and measures samples if that is due, unless they hold NaN."""
        schedule, step = self.schedule, self.step
        draws_grid = step == 0 or schedule.due(schedule.grid, step)
        measures = step > 0 and schedule.due(schedule.evaluate, step)
        if not draws_grid and not measures:
            return
        pictures = self._reporter.grid_images(self.state)
        if pictures is None:
            self._warn(f"warning: at step {step} there are no samples to show: they hold NaN")
            return
        self._warn(self._collapse.look_at_grid(pictures))
        if draws_grid:
            self._reporter.write_grid(pictures, step)
        if measures:
            try:
                self._reporter.evaluate(self.state, step)
            except FloatingPointError as error:  # all processes agree on it
                self._warn(f"warning: nothing was measured at step {step}: {error}")

    def _warn(self, warning: str | None) -> None:
        if warning:
            self._logger.note(warning)

    def _announce(self) -> None:
        params = self._exp.ema_params(self.state)
        count = parameter_overview.count_parameters(params)
        devices = f"{self._mesh.size} x {jax.devices()[0].device_kind}"
        self._logger.note(
            f"{self.schedule.total} updates of {self._exp.batch_size} images on {devices}, "
            f"{count / 1e6:.2f}M parameters a network; everything goes to {self._workdir}"
        )

    def _show(self) -> None:
        """Shows the call that isn't shown yet, if there is one; ends a run that fails for good."""
        if self._in_flight is None:
            return
        step, totals = self._in_flight
        self._in_flight = None
        totals = jax.device_get(totals)
        if totals.kept:
            means = update_totals.means(totals.sums, int(totals.kept))
            shown = {short: means[name] for name, short in self._exp.shown.items() if name in means}
            self._logger.progress(step, self._kimg(step), shown, self._reporter.measured)
        self._is_skipping = bool(totals.skipped_in_a_row)
        limit = self._exp.max_skipped_in_a_row
        if totals.skipped:
            self._logger.note(failures.describe(totals, limit))
        if totals.skipped_in_a_row >= limit:
            self._give_up(totals)

    def _give_up(self, totals: Totals) -> NoReturn:
        """Saves the last good state and the record of what it met, and says how to go on."""
        # Where the device stopped, whatever was queued after it.
        self.step = step = int(self.state.step)
        self._checkpointer.save_and_wait(step, self.state, self._meta())
        failed = failures.FailedUpdates(
            seed=self._config.seed,
            first_step=step - int(totals.skipped_in_a_row),
            last_step=step - 1,
            checkpoint=step,
            not_finite=failures.not_finite(totals),
            config=self._config.to_dict(),
            versions=failures.versions(),
        )
        if jax.process_index() == 0:
            failed.write(self._workdir)
        raise FloatingPointError(
            failures.message(failed, self._workdir, building.suspects(self._config))
        )

    def _kimg(self, step: int) -> float:
        return step * self._exp.batch_size / 1000


class _Stopwatch:
    """Seconds an update, without compiling and without pauses."""

    def __init__(self) -> None:
        self._started, self._first_step = 0.0, 0
        self._timing: dict[str, float] = {}

    def start(self, step: int) -> None:
        self._started, self._first_step = time.monotonic(), step

    def compiled(self, step: int) -> None:
        self._timing["first_call_seconds"] = time.monotonic() - self._started
        self.start(step)

    def lap(self, step: int, batch_size: int) -> dict[str, float]:
        """What is to be told of the updates since the last lap."""
        timing, self._timing = self._timing, {}
        if step > self._first_step:
            seconds = (time.monotonic() - self._started) / (step - self._first_step)
            timing |= {"images_per_second": batch_size / seconds, "seconds_per_update": seconds}
        self.start(step)
        return timing

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps what is done in this context out of the time."""
        pause = time.monotonic()
        yield
        self._started += time.monotonic() - pause
