"""The training loop: updates, and what happens between them."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
from clu import parameter_overview
from jax.sharding import Mesh

from diffjax.distributed import preemption, runtime, watchdog
from diffjax.interfaces import PRNGKey
from diffjax.runs import reporting
from diffjax.runs.experiment import Experiment
from diffjax.runs.logger import RunLogger
from diffjax.runs.power_averages import Snapshots
from diffjax.training import checkpointing, failures, guard, metric_sums
from diffjax.training.background_compilation import BackgroundCompiled
from diffjax.training.collapse import CollapseWatch
from diffjax.training.metric_sums import MetricSums, RunningMeans
from diffjax.training.schedule import Schedule

_PATIENCE = 0.2  # seconds from one question whether to stop to the next, while compiling


class Loop:
    """Place of a run, and the work that follows each call of the compiled updates.

    Attributes:
      schedule: when what happens.
      state: the training state after `step` updates.
      step: updates done.
      images: of these updates.
    """

    def __init__(
        self,
        workdir: Path,
        exp: Experiment,
        mesh: Mesh,
        *,
        schedule: Schedule,
        updates_per_call: int,
        suspects: Mapping[str, Any],
        origin: failures.Origin,
        checkpointer: checkpointing.Checkpointer,
        logger: RunLogger,
        reporter: reporting.Reporter,
        snapshots: Snapshots,
        stop: preemption.Preemption,
        dog: watchdog.Watchdog,
    ) -> None:
        """Start nothing yet.

        Args:
          workdir: of the run.
          exp: the run.
          mesh: the devices.
          schedule: when what happens.
          updates_per_call: the most that a call of the compiled updates is asked for.
          suspects: settings that are mostly to blame where numbers go wrong, field -> value.
          origin: seed and config of the run, for the record of updates that made it stop.
          checkpointer: where states go.
          logger: where lines, curves and pictures go.
          reporter: draws and measures.
          snapshots: writes power-function averages.
          stop: tells whether the process is asked to end.
          dog: watches over progress.
        """
        self.schedule = schedule
        self.state: Any = None
        self.step = self.images = 0
        self._workdir, self._exp, self._mesh = workdir, exp, mesh
        self._suspects, self._origin = suspects, origin
        assert exp.update.max_skipped_in_a_row is not None, "a run that fails for good must stop"
        self._limit: int = exp.update.max_skipped_in_a_row
        self._checkpointer, self._logger, self._reporter = checkpointer, logger, reporter
        self._snapshots = snapshots
        self._stop, self._calls = stop, 0
        self._dog = dog
        self._updates_per_call = updates_per_call
        self._pending = self._means({})
        self._collapse = CollapseWatch({}, {})
        self._in_flight: tuple[int, MetricSums] | None = None  # not shown yet
        self._is_skipping = False
        self._stopwatch = _Stopwatch()

    def begin(self, state: Any, meta: Mapping[str, Any]) -> None:
        """Go on from a state and its checkpoint's `meta`; without that it is a new run."""
        if guard.halted(state, self._limit):
            state = guard.resume(state)
        self.state, self._pending = state, self._means(meta)
        self.step, self.images = int(state.step), int(state.images)
        self._collapse = CollapseWatch(self._suspects, meta)
        self._snapshots.begin(self.images)
        if not meta:
            self._announce()
            self._report()
        elif not self.schedule.is_over(self.images):
            self._logger.note(f"resuming at {self._kimg:.1f} kimg (update {self.step})")
        if meta.get("unreported"):
            self._report()

    def run(self, updates: Callable[..., Any], inputs: Mapping[str, Any], key: PRNGKey) -> bool:
        """Update to the end, and return True; or save and return False if told to stop.

        Args:
          updates: compiled, or being compiled.
          inputs: what they read and never change; None what is streamed.
          key: of the run.
        """
        stream = self._exp.stream(self.images, self._mesh)
        self._stopwatch.start(self.step)
        if not self.schedule.is_over(self.images) and not self._is_compiled(updates):
            self._logger.note("told to stop before the first update; the same command goes on")
            return False
        while count := self._next_count():
            read = inputs if stream is None else {**inputs, **next(stream)}
            self.state, totals = updates(self.state, read, key, count)
            self._after_call(totals, count)
            self._dog.done(self.step, awaited=self._next_count())
            if self._happenings():
                self._logger.note(
                    f"told to stop: saved update {self.step}; the same command goes on"
                )
                return False
        return True

    def _next_count(self) -> int:
        """Count the updates of the next call; 0 at the end."""
        return min(self._updates_per_call, self.schedule.updates_to_stop(self.images))

    def _is_compiled(self, updates: Callable[..., Any]) -> bool:
        """Wait for updates that are being compiled; return False if told to stop before."""
        if self._stop.requested():
            return False
        self._logger.compiling()
        while isinstance(updates, BackgroundCompiled) and not updates.is_compiled(within=_PATIENCE):
            if self._stop.requested_alone():
                return False
        return True

    def _after_call(self, totals: MetricSums, count: int) -> None:
        """Count, show and log, one call behind the device, so that it always has work queued."""
        self.step += count
        self.images += count * self._exp.batch_size
        self._calls += 1
        self._pending.add(totals)
        if self._calls == 1:  # compiling is no part of the rate
            jax.block_until_ready(totals)
            self._stopwatch.compiled(self.step)
        self._show()
        self._in_flight = (self.step, totals)
        if self.schedule.is_stop(self.images):
            self._show()
        if self.schedule.due(self.schedule.log, self.images):
            timing = self._stopwatch.lap(self.step, self._exp.batch_size)
            memory = runtime.peak_memory_gib()
            timing |= {} if memory is None else {"peak_memory_gib": memory}
            means = self._pending.take()
            self._logger.write_scalars(self.step, self._kimg, means, timing)
            if "delta" in means:
                self._warn(self._collapse.look_at_delta(means["delta"]))

    def _happenings(self) -> bool:
        """Draw, measure and save as is due now; return whether the run is to stop."""
        schedule, step, saves = self.schedule, self.step, self._checkpointer
        with self._logger.paused(), self._stopwatch.paused(), self._dog.paused():
            if self._stop.requested():
                self._show()  # which may be worse news
                # Measuring may take longer than is left, so that the run that goes on does it.
                self._save_and_wait(unreported=True)
                return True
            self._report()
            # While updates are skipped the state stays what it was; saving it again and again
            # would only push out the checkpoints before it.
            is_due = schedule.due(schedule.checkpoint, self.images) and not self._is_skipping
            if is_due or (schedule.is_over(self.images) and not self._is_skipping):
                with self._dog.paused("writing averages"):
                    self._snapshots.write(self.state, step, self.images)
            if schedule.is_over(self.images):
                self._save_and_wait()
            elif is_due or (schedule.is_stop(self.images) and saves.must_save_again()):
                with self._dog.paused("saving"):
                    saves.save(step, self.state, self._meta())
        return False

    def _save_and_wait(self, **more: bool) -> None:
        with self._dog.paused("saving the last checkpoint"):
            self._checkpointer.save_and_wait(self.step, self.state, {**self._meta(), **more})

    def _meta(self) -> dict[str, Any]:
        """Figures that a checkpoint holds besides the state."""
        return {
            "kimg": self._kimg,
            **self._pending.meta(),
            **self._collapse.meta(),
        }

    def _report(self) -> None:
        """Draw and measure samples if that is due, unless they hold NaN."""
        schedule, step = self.schedule, self.step
        draws_grid = step == 0 or schedule.due(schedule.grid, self.images)
        measures = step > 0 and schedule.due(schedule.evaluate, self.images)
        if not draws_grid and not measures:
            return
        with self._dog.paused("drawing samples"):
            pictures = self._reporter.grid_images(self.state)
        if pictures is None:
            self._warn(f"warning: at step {step} there are no samples to show: they hold NaN")
            return
        self._warn(self._collapse.look_at_grid(pictures))
        if draws_grid:
            self._reporter.write_grid(pictures, step, self._kimg)
        if measures:
            try:
                with self._dog.paused("evaluating"):
                    self._reporter.evaluate(self.state, step, self._kimg)
            except FloatingPointError as error:  # all processes agree on it
                self._warn(f"warning: nothing was measured at step {step}: {error}")

    def _warn(self, warning: str | None) -> None:
        if warning:
            self._logger.note(warning)

    def _announce(self) -> None:
        params = self._exp.averaged(self.state)
        count = parameter_overview.count_parameters(params)
        devices = f"{self._mesh.size} x {jax.devices()[0].device_kind}"
        updates = self.schedule.updates_left(self.images)
        self._logger.note(
            f"{updates} updates of {self._exp.batch_size} images on {devices}, "
            f"{count / 1e6:.2f}M parameters a network; everything goes to {self._workdir}"
        )

    def _show(self) -> None:
        """Show the call that isn't shown yet, if there is one; end a run that fails for good."""
        if self._in_flight is None:
            return
        step, totals = self._in_flight
        self._in_flight = None
        totals = jax.device_get(totals)
        if totals.kept:
            counted_by = self._exp.update.counted_by
            means = metric_sums.means(totals.sums, int(totals.kept), counted_by)
            names = self._exp.method.shown.items()
            shown = {short: means[name] for name, short in names if name in means}
            kimg = (self.images - (self.step - step) * self._exp.batch_size) / 1000
            self._logger.progress(step, kimg, shown, self._reporter.measured)
        self._is_skipping = bool(totals.skipped_in_a_row)
        if totals.skipped:
            self._logger.note(failures.describe(totals, self._limit))
        if totals.skipped_in_a_row >= self._limit:
            self._give_up(totals)

    def _give_up(self, totals: MetricSums) -> NoReturn:
        """Save the last good state and a record of the updates it met, and say how to go on."""
        # Where the device stopped, whatever was queued after it.
        self.step, self.images = int(self.state.step), int(self.state.images)
        step = self.step
        self._save_and_wait()
        failed = failures.FailedUpdates(
            seed=self._origin.seed,
            first_step=step - int(totals.skipped_in_a_row),
            last_step=step - 1,
            checkpoint=step,
            not_finite=failures.not_finite(totals),
            config=self._origin.config,
            versions=failures.versions(),
        )
        if jax.process_index() == 0:
            failed.write(self._workdir)
        raise FloatingPointError(failures.message(failed, self._workdir, self._suspects))

    def _means(self, meta: Mapping[str, Any]) -> RunningMeans:
        return RunningMeans(meta, self._exp.update.counted_by)

    @property
    def _kimg(self) -> float:
        return self.images / 1000


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
        """Rates of the updates since the last lap."""
        timing, self._timing = self._timing, {}
        if step > self._first_step:
            seconds = (time.monotonic() - self._started) / (step - self._first_step)
            timing |= {"images_per_second": batch_size / seconds, "seconds_per_update": seconds}
        self.start(step)
        return timing

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the time of this context out of the rates."""
        pause = time.monotonic()
        yield
        self._started += time.monotonic() - pause
